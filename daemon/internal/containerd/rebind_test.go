//go:build integration

package containerd_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// serveText serves a unix socket whose every connection gets a text, until stop.
func serveText(t *testing.T, path, text string) (stop func()) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(text))
			_ = c.Close()
		}
	}()
	return func() { ln.Close(); <-done }
}

func TestSocketThatWasMadeAnewIsSeenByModulesThatRanOn(t *testing.T) {
	dir := home(t)
	socket := filepath.Join(dir, "m.sock")
	first := open(t, dir)
	stop := serveText(t, socket, "first")
	create(t, first, "caller", `{"Cmd":["call=/run/edge/w.sock~first","say=first","call=/run/edge/w.sock~third","say=third","exit=-1"],"HostConfig":{"Binds":["`+socket+`:/run/edge/w.sock"]}}`)
	create(t, first, "other", `{"Cmd":["exit=-1"]}`)
	for _, m := range []string{"caller", "other"} {
		start(t, first, m)
	}
	said := make(chan string)
	follow := func(r runtime.Runtime, lines int) {
		n := 0
		for e, err := range r.Logs(t.Context(), "caller", runtime.LogOptions{Follow: true}) {
			if err != nil {
				said <- err.Error()
				return
			}
			if n++; n == lines {
				said <- string(e.Line)
				return
			}
		}
		said <- "ended"
	}
	go follow(first, 1)
	if got := <-said; got != "first\n" {
		t.Fatalf("log: %q", got)
	}
	before, err := first.Get(t.Context(), "caller")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"second", "third"} {
		stop()
		stop = serveText(t, socket, text)
		r := open(t, dir)
		for _, m := range []string{"caller", "other"} {
			if err := r.Rebind(t.Context(), m, socket); err != nil {
				t.Fatal(err)
			}
		}
		if text == "second" {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Cleanup(func() { closeAll(t, r) })
		go follow(r, 2)
	}
	defer stop()
	if got := <-said; got != "third\n" {
		t.Errorf("log: %q", got)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", before.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var own [][]byte
	for line := range bytes.Lines(mounts) {
		if bytes.Contains(line, []byte(" /run/edge/w.sock ")) {
			own = append(own, slices.Clone(line))
		}
	}
	if len(own) != 1 || bytes.Contains(own[0], []byte("shared:")) {
		t.Errorf("mounts of the socket: %q", own)
	}
}

func TestOnlyASocketIsUnmountedForANewOne(t *testing.T) {
	r := engine(t)
	dir := home(t)
	socket := filepath.Join(dir, "m.sock")
	defer serveText(t, socket, "x")()
	// The module has led the path to something that hides what is below.
	create(t, r, "sly", `{"Cmd":["exit=-1"],"HostConfig":{"Binds":["`+socket+`:/run/w.sock"]}}`)
	start(t, r, "sly")
	st, err := r.Get(t.Context(), "sly")
	if err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", st.Pid)
	if err := errors.Join(os.Rename(root+"/run", root+"/old"), os.Mkdir(root+"/run", 0o755), os.Symlink("/proc/keys", root+"/run/w.sock")); err != nil {
		t.Fatal(err)
	}
	hidden := func() int {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", st.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(mounts, []byte("/null /proc/keys "))
	}
	if hidden() != 1 {
		t.Fatal("nothing hides /proc/keys")
	}
	if err := r.Rebind(t.Context(), "sly", socket); err != nil {
		t.Fatal(err)
	}
	if hidden() != 1 {
		t.Error("what hides /proc/keys was unmounted")
	}
}
