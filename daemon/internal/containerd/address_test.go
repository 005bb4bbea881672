//go:build integration

package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func addressOf(t *testing.T, r *containerd.Runtime, name string) string {
	t.Helper()
	st, err := r.Get(t.Context(), name)
	if err != nil || st.Address == "" {
		t.Fatalf("%s is %+v, %v", name, st, err)
	}
	return st.Address
}

func remove(t *testing.T, r *containerd.Runtime, name string) {
	t.Helper()
	if err := r.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

const serving = `{"Cmd":["listen=8883","say=up","exit=-1"]}`

func TestAModuleKeepsItsAddress(t *testing.T) {
	dir := home(t)
	r := open(t, dir)
	create(t, r, "hub", serving)
	start(t, r, "hub")
	first := addressOf(t, r, "hub")
	same := func(what string) {
		t.Helper()
		if got := addressOf(t, r, "hub"); got != first {
			t.Errorf("%s: address %s, was %s", what, got, first)
		}
	}
	events := r.Events(t.Context())
	if err := syscall.Kill(pidOf(t, r, "hub"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, events, "hub")
	create(t, r, "other", serving) // which would have got it
	start(t, r, "other")
	start(t, r, "hub")
	same("after its end")

	if err := r.Stop(t.Context(), "hub", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir)
	t.Cleanup(func() { closeAll(t, r) })
	create(t, r, "third", serving)
	start(t, r, "third")
	start(t, r, "hub")
	same("after the daemon's restart")

	remove(t, r, "hub")
	create(t, r, "hub", serving)
	start(t, r, "hub")
	same("made anew")
	hosts, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hosts", pidOf(t, r, "other")))
	if err != nil || strings.Count(string(hosts), "\thub\n") != 1 || !strings.Contains(string(hosts), first+"\thub\n") {
		t.Errorf("hosts file %q, %v", hosts, err)
	}

	// It is others' when somebody asks for it by name and it is not used.
	remove(t, r, "hub")
	create(t, r, "heir", `{"Cmd":["exit=-1"],"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv4Address":"`+first+`"}}}}}`)
	start(t, r, "heir")
	if got := addressOf(t, r, "heir"); got != first {
		t.Errorf("heir has %s, wants %s", got, first)
	}
	create(t, r, "hub", serving)
	start(t, r, "hub")
	if got := addressOf(t, r, "hub"); got == first {
		t.Errorf("hub and heir have %s", got)
	}
	create(t, r, "rival", `{"Cmd":["exit=-1"],"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv4Address":"`+first+`"}}}}}`)
	var taken *network.AddressError
	if err := r.Start(t.Context(), "rival"); !errors.As(err, &taken) || taken.By != "heir" {
		t.Errorf("error %v, want one that names the holder", err)
	}
}

// A module that knows the address of another is answered there as soon as that is back.
func TestAModuleThatComesBackIsReachedAtItsAddressAtOnce(t *testing.T) {
	r := engine(t)
	create(t, r, "hub", serving)
	start(t, r, "hub")
	addr := addressOf(t, r, "hub")
	create(t, r, "client", `{"Cmd":["get=`+addr+`:8883","say=first","watch=/mnt/go~touched","get=`+addr+`:8883","say=second","exit=0"],"HostConfig":{"Binds":["`+testHome+`/go:/mnt"]}}`)
	start(t, r, "client")
	var lines []string
	var again time.Time
	for e, err := range r.Logs(t.Context(), "client", runtime.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(e.Line))
		if string(e.Line) == "first\n" {
			if err := r.Stop(t.Context(), "hub", 0); err != nil {
				t.Fatal(err)
			}
			start(t, r, "hub")
			answer(t, addr+":8883")
			again = time.Now()
			if err := os.WriteFile(testHome+"/go/go", []byte("touched"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := strings.Join(lines, ""); got != "hello from hub\nfirst\nhello from hub\nsecond\n" || time.Since(again) > 3*time.Second {
		t.Errorf("%q after %v", got, time.Since(again))
	}
}
