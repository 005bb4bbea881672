//go:build integration

package containerd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// neighbour is another machine: a network namespace behind a cable, in which the
// test image's program listens on port 7000.
type neighbour struct {
	t   *testing.T
	pid int
}

const (
	neighbourAddr = "10.99.77.2"
	hostAddr      = "10.99.77.1"
)

func newNeighbour(t *testing.T) neighbour {
	t.Helper()
	cmd := exec.Command(filepath.Join(testHome, "module"), "listen=7000", "exit=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := neighbour{t: t, pid: cmd.Process.Pid}
	t.Cleanup(func() {
		run(t, "ip", "link", "delete", "cable0")
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
	})
	run(t, "ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", fmt.Sprint(n.pid))
	run(t, "ip", "address", "add", hostAddr+"/24", "dev", "cable0")
	run(t, "ip", "link", "set", "cable0", "up")
	n.run("ip", "address", "add", neighbourAddr+"/24", "dev", "cable1")
	n.run("ip", "link", "set", "cable1", "up")
	n.run("ip", "route", "add", testSubnet, "via", hostAddr)
	return n
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

func (n neighbour) run(args ...string) string {
	n.t.Helper()
	return run(n.t, "nsenter", append([]string{"-t", fmt.Sprint(n.pid), "-n"}, args...)...)
}

func TestModulesReachOutAndOnlyPublishedPortsLetIn(t *testing.T) {
	run(t, "iptables", "-P", "FORWARD", "DROP") // as hosts with another container engine have it
	t.Cleanup(func() { run(t, "iptables", "-P", "FORWARD", "ACCEPT") })
	r := engine(t)
	n := newNeighbour(t)
	create(t, r, "inner", `{"Cmd":["get=`+neighbourAddr+`:7000","listen=80","say=ready","exit=-1"],
		"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18084"}]}}}`)
	start(t, r, "inner")
	var got []string
	for e, err := range r.Logs(t.Context(), "inner", runtime.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, string(e.Line)); string(e.Line) == "ready\n" {
			break
		}
	}
	if len(got) != 2 || !strings.HasPrefix(got[0], "hello from") {
		t.Errorf("log %q", got)
	}
	st, err := r.Get(t.Context(), "inner")
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(testHome, "module")
	if got := n.run(module, "get="+hostAddr+":18084"); got != "hello from inner\n" {
		t.Errorf("the published port answers %q", got)
	}
	direct := exec.Command("nsenter", "-t", fmt.Sprint(n.pid), "-n", "timeout", "-s", "KILL", "2", module, "get="+st.Address+":80")
	if out, err := direct.CombinedOutput(); err == nil {
		t.Errorf("a port that is not published answers %q", out)
	}
	if forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(forward) != "1\n" {
		t.Errorf("ip_forward is %q, %v", forward, err)
	}
}

func TestNetworkFollowsItsConfiguration(t *testing.T) {
	dir := home(t)
	open1, err := network.Open(t.Context(), network.Config{Dir: dir, Bridge: "bw-rt-test"})
	if err != nil {
		t.Fatal(err)
	}
	chosen := open1.Shape().V4.Subnet
	again, err := network.Open(t.Context(), network.Config{Dir: dir, Bridge: "bw-rt-test"})
	if err != nil || again.Shape() != open1.Shape() {
		t.Fatalf("the chosen subnet changed from %v to %v (%v)", chosen, again.Shape().V4.Subnet, err)
	}
	cfg := netConfig()
	cfg.Dir = dir
	moved, err := network.Open(t.Context(), cfg)
	if err != nil || moved.Shape().V4.Subnet.String() != testSubnet {
		t.Fatalf("subnet %v, %v", moved.Shape().V4.Subnet, err)
	}
	if rules := run(t, "iptables-save"); strings.Contains(rules, chosen.String()) || strings.Count(rules, "-j MASQUERADE") != 1+strings.Count(rules, "CNI-HOSTPORT-MASQ -m mark") {
		t.Errorf("rules after the move:\n%s", rules)
	}
	// A lease without a record, as a crash in the middle of joining leaves it.
	leases := filepath.Join(dir, "leases", moved.Name())
	if err := os.MkdirAll(leases, 0o755); err != nil {
		t.Fatal(err)
	}
	for addr, id := range map[string]string{"172.30.77.8": "dead", "172.30.77.9": "alive"} {
		if err := os.WriteFile(filepath.Join(leases, addr), []byte(id+"\r\neth0"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := moved.Reclaim(t.Context(), func(id string) bool { return id == "alive" }, []string{"dead"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(leases, "172.30.77.8")); !os.IsNotExist(err) {
		t.Errorf("the dead one's lease: %v", err)
	}
	if _, err := os.Stat(filepath.Join(leases, "172.30.77.9")); err != nil {
		t.Errorf("the live one's lease: %v", err)
	}
	if err := moved.TearDown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := noNetworkLeft(); err != nil {
		t.Error(err)
	}
}

func TestFastEndComesAfterItsStart(t *testing.T) {
	r := engine(t)
	events := r.Events(t.Context())
	create(t, r, "fast", `{"Cmd":["exit=3"]}`)
	start(t, r, "fast")
	want := []runtime.EventType{runtime.EventCreated, runtime.EventStarted, runtime.EventExited}
	timeout := time.After(30 * time.Second)
	for _, w := range want {
		select {
		case e := <-events:
			if e.Type != w {
				t.Errorf("event %+v, want %s", e, w)
			}
		case <-timeout:
			t.Fatalf("no event %s", w)
		}
	}
}
