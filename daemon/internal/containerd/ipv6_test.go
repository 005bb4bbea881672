//go:build integration

package containerd_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const testSubnet6 = "fd77:77::/64"

// openWith starts an engine whose network is changed.
func openWith(t *testing.T, home string, change func(*network.Config)) *containerd.Runtime {
	t.Helper()
	cfg := config(home)
	change(&cfg.Network)
	r, err := containerd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ipv6(c *network.Config) {
	c.IPv6, c.V6 = true, network.Range{Subnet: netip.MustParsePrefix(testSubnet6)}
}

func address6Of(t *testing.T, r *containerd.Runtime, name string) string {
	t.Helper()
	st, err := r.Get(t.Context(), name)
	if err != nil || st.Address == "" || st.Address6 == "" {
		t.Fatalf("%s is %+v, %v", name, st, err)
	}
	return st.Address6
}

// says reads a module's output until a line, which must come.
func says(t *testing.T, r *containerd.Runtime, name, until string) string {
	t.Helper()
	return saysSince(t, r, name, until, time.Time{})
}

// saysSince leaves out what an earlier run has said.
func saysSince(t *testing.T, r *containerd.Runtime, name, until string, since time.Time) string {
	t.Helper()
	var got strings.Builder
	for e, err := range r.Logs(t.Context(), name, runtime.LogOptions{Follow: true, Since: since}) {
		if err != nil {
			t.Fatal(err)
		}
		got.Write(e.Line)
		if string(e.Line) == until+"\n" {
			return got.String()
		}
	}
	t.Fatalf("%s has ended and said %q", name, got.String())
	return ""
}

func TestModulesReachEachOtherOverIPv6ByName(t *testing.T) {
	r := openWith(t, home(t), func(c *network.Config) { c.IPv6 = true })
	t.Cleanup(func() { closeAll(t, r) })
	create(t, r, "server", `{"Cmd":["listen=80","say=up","exit=-1"],
		"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["broker"]}}}}`)
	start(t, r, "server")
	says(t, r, "server", "up")
	create(t, r, "client", `{"Cmd":["get6=server:80","get6=broker:80","get=server:80","cat=/etc/hosts","say=done","exit=-1"],
		"HostConfig":{"ExtraHosts":["gw:host-gateway"]}}`)
	start(t, r, "client")
	got := says(t, r, "client", "done")
	server, client := address6Of(t, r, "server"), address6Of(t, r, "client")
	if !strings.HasPrefix(server, "fd") || strings.Count(got, "hello from server\n") != 3 {
		t.Errorf("server is at %s, client says %q", server, got)
	}
	for _, line := range []string{server + "\tserver broker", client + "\tclient", addressOf(t, r, "server") + "\tserver broker"} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %q in %q", line, got)
		}
	}
	gateway := netip.MustParseAddr(server).Prev().String() // the server is the first module
	if !strings.Contains(got, gateway+"\tgw\n") || !strings.Contains(got, r.Gateway()+"\tgw\n") {
		t.Errorf("no gateway in %q", got)
	}
	pid := fmt.Sprint(pidOf(t, r, "client"))
	if out := run(t, "nsenter", "-t", pid, "-n", "ip", "-6", "route", "show", "default"); !strings.Contains(out, "via "+gateway+" dev eth0") {
		t.Errorf("default route %q", out)
	}
}

func TestPublishedPortsOverIPv6(t *testing.T) {
	r := openWith(t, home(t), ipv6)
	t.Cleanup(func() { closeAll(t, r) })
	n := newNeighbour(t)
	n.ipv6()
	create(t, r, "server", `{"Cmd":["listen=80","say=up","exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[
		{"HostPort":"18080"},{"HostIp":"::","HostPort":"18081"},{"HostIp":"0.0.0.0","HostPort":"18082"},{"HostIp":"`+hostAddr6+`","HostPort":"18083"}]}}}`)
	start(t, r, "server")
	says(t, r, "server", "up")
	v4, v6, gateway := hostAddr+":", "["+hostAddr6+"]:", "[fd77:77::1]:"
	for addr, want := range map[string]bool{
		v4 + "18080": true, v6 + "18080": true, gateway + "18080": true,
		v4 + "18081": false, v6 + "18081": true, gateway + "18081": true,
		v4 + "18082": true, v6 + "18082": false,
		v4 + "18083": false, v6 + "18083": true, gateway + "18083": false,
	} {
		if got, err := dial(addr); (got == "hello from server\n") != want {
			t.Errorf("from the host %s: %q, %v", addr, got, err)
		}
		if !strings.HasPrefix(addr, gateway) && n.gets(addr) != want {
			t.Errorf("from the neighbour %s answers: %t", addr, !want)
		}
	}
	// The kernel cannot bring its own ::1 to a module. Then it must refuse at once, so that
	// clients of "localhost" go on with 127.0.0.1.
	if _, err := dial("[::1]:18080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("::1: %v", err)
	}
	if got, err := dial("localhost:18080"); got != "hello from server\n" {
		t.Errorf("localhost: %q, %v", got, err)
	}
	create(t, r, "other", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"`+hostAddr6+`","HostPort":"18080"}]}}}`)
	var taken *network.PortError
	if err := r.Start(t.Context(), "other"); !errors.As(err, &taken) || taken.By != "server" {
		t.Errorf("error %v, want one that names the holder", err)
	}
	// The port of IPv4 has another holder than that of IPv6.
	create(t, r, "twin", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"18081"}]}}}`)
	start(t, r, "twin")
	l, err := net.Listen("tcp6", "[::]:18084")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	create(t, r, "late", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18084"}]}}}`)
	if err := r.Start(t.Context(), "late"); !errors.As(err, &taken) || taken.By != "" {
		t.Errorf("error %v, want one about the host", err)
	}
}

const neighbourAddr6, hostAddr6 = "fd99::2", "fd99::1"

// ipv6 gives the cable addresses of IPv6.
func (n neighbour) ipv6() {
	n.t.Helper()
	run(n.t, "ip", "-6", "address", "add", hostAddr6+"/64", "dev", "cable0", "nodad")
	n.run("ip", "-6", "address", "add", neighbourAddr6+"/64", "dev", "cable1", "nodad")
}

// gets tells whether an address answers the neighbour.
func (n neighbour) gets(addr string) bool {
	n.t.Helper()
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(n.pid), "-n", "timeout", "-s", "KILL", "2", filepath.Join(testHome, "module"), "get="+addr).CombinedOutput()
	return err == nil && strings.HasPrefix(string(out), "hello")
}

func TestModulesReachOutAndOnlyPublishedPortsLetInOverIPv6(t *testing.T) {
	run(t, "ip6tables", "-P", "FORWARD", "DROP")
	t.Cleanup(func() { run(t, "ip6tables", "-P", "FORWARD", "ACCEPT") })
	r := openWith(t, home(t), ipv6)
	t.Cleanup(func() { closeAll(t, r) })
	n := newNeighbour(t)
	n.ipv6() // and no way back to the modules: they must seem to be the host
	create(t, r, "inner", `{"Cmd":["get6=[`+neighbourAddr6+`]:7000","listen=80","say=ready","exit=-1"],
		"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18084"}]}}}`)
	start(t, r, "inner")
	if got := says(t, r, "inner", "ready"); !strings.HasPrefix(got, "hello from") {
		t.Errorf("log %q", got)
	}
	n.run("ip", "-6", "route", "add", testSubnet6, "via", hostAddr6)
	if !n.gets("[" + hostAddr6 + "]:18084") {
		t.Error("the published port does not answer")
	}
	if n.gets("[" + address6Of(t, r, "inner") + "]:80") {
		t.Error("a port that is not published answers")
	}
}

func TestAnAddressOfIPv6Stays(t *testing.T) {
	dir := home(t)
	chosen := func(c *network.Config) { c.IPv6 = true }
	r := openWith(t, dir, chosen)
	create(t, r, "a", serving)
	start(t, r, "a")
	first := address6Of(t, r, "a")
	if err := errors.Join(r.Stop(t.Context(), "a", time.Second), r.Close()); err != nil {
		t.Fatal(err)
	}
	r = openWith(t, dir, chosen)
	t.Cleanup(func() { closeAll(t, r) })
	create(t, r, "b", serving)
	start(t, r, "b")
	start(t, r, "a")
	if got := address6Of(t, r, "a"); got != first {
		t.Errorf("after the daemon's restart %s, was %s", got, first)
	}
	remove(t, r, "a")
	create(t, r, "a", serving)
	start(t, r, "a")
	if got := address6Of(t, r, "a"); got != first {
		t.Errorf("made anew %s, was %s", got, first)
	}
	wish := netip.MustParsePrefix(first + "/64").Masked().Addr().Next().Next().Next().Next().Next().Next().Next().String()
	options := `{"Cmd":["exit=-1"],"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv6Address":"` + wish + `"}}}}}`
	create(t, r, "wishes", options)
	start(t, r, "wishes")
	if got := address6Of(t, r, "wishes"); got != wish {
		t.Errorf("%s, wants %s", got, wish)
	}
	create(t, r, "rival", options)
	var taken *network.AddressError
	if err := r.Start(t.Context(), "rival"); !errors.As(err, &taken) || taken.By != "wishes" {
		t.Errorf("error %v, want one that names the holder", err)
	}
}

// The network is made anew; modules that run over it are stopped, and are in the new one
// at their next start.
func TestIPv6IsSwitchedOnAndOff(t *testing.T) {
	dir := home(t)
	r := openWith(t, dir, func(*network.Config) {})
	create(t, r, "m", `{"Cmd":["listen=80","cat=/etc/hosts","say=up","exit=-1"],
		"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv6Address":"fd77:77::9"}}}},
		"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18080"}]}}}`)
	start(t, r, "m")
	says(t, r, "m", "up")
	v4 := addressOf(t, r, "m")
	ipv4Only := func(when string) {
		t.Helper()
		if rules := run(t, "ip6tables-save"); strings.Contains(rules, "BREAKWATER") || strings.Contains(rules, "module network") || strings.Contains(rules, "-j DNAT") || strings.Contains(rules, "fd77") {
			t.Errorf("%s: rules of IPv6:\n%s", when, rules)
		}
		pid := pidOf(t, r, "m")
		hosts, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hosts", pid))
		if err != nil || strings.Contains(string(hosts), "fd") {
			t.Errorf("%s: hosts file %q, %v", when, hosts, err)
		}
		addrs := run(t, "ip", "-6", "address", "show", "dev", "bw-rt-test", "scope", "global") +
			run(t, "nsenter", "-t", fmt.Sprint(pid), "-n", "ip", "-6", "address", "show", "scope", "global")
		if st, err := r.Get(t.Context(), "m"); err != nil || st.Address != v4 || st.Address6 != "" || addrs != "" {
			t.Errorf("%s: %+v, %v; %s", when, st, err, addrs)
		}
	}
	ipv4Only("at first")
	for _, stopped := range []bool{false, true} {
		if stopped {
			if err := r.Stop(t.Context(), "m", time.Second); err != nil {
				t.Fatal(err)
			}
		}
		reopen := func(change func(*network.Config)) {
			t.Helper()
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			r = openWith(t, dir, change)
			if st, err := r.Get(t.Context(), "m"); err != nil || st.Status != runtime.StatusExited || st.ExitCode != 0 {
				t.Errorf("in the new network: %+v, %v", st, err)
			}
			again := time.Now()
			start(t, r, "m")
			saysSince(t, r, "m", "up", again) // a program that is not up yet does not end with 0
		}
		reopen(ipv6)
		if got := address6Of(t, r, "m"); got != "fd77:77::9" || addressOf(t, r, "m") != v4 {
			t.Errorf("%s and %s, was %s", got, addressOf(t, r, "m"), v4)
		}
		if got := answer(t, "[fd77:77::1]:18080"); got != "hello from m\n" {
			t.Errorf("%q", got)
		}
		if stopped {
			if err := r.Stop(t.Context(), "m", time.Second); err != nil {
				t.Fatal(err)
			}
		}
		reopen(func(*network.Config) {})
		ipv4Only("switched off")
	}
	closeAll(t, r)
	if err := noNetworkLeft(); err != nil {
		t.Error(err)
	}
}

func TestAHostWithoutIPv6IsNamed(t *testing.T) {
	const file = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
	if err := os.WriteFile(file, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, []byte("0"), 0o644); err != nil {
			t.Error(err)
		}
	})
	cfg := config(home(t))
	ipv6(&cfg.Network)
	_, err := containerd.Open(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "moby_runtime.network.ipv6") || !strings.Contains(err.Error(), "net.ipv6.conf.default.disable_ipv6 is 1") {
		t.Errorf("error %v", err)
	}
	r := open(t, home(t)) // without it all goes
	closeAll(t, r)
}

func TestASubnetOfTheHostIsRefused(t *testing.T) {
	n := newNeighbour(t)
	n.ipv6()
	cfg := config(home(t))
	cfg.Network.IPv6, cfg.Network.V6 = true, network.Range{Subnet: netip.MustParsePrefix("fd99::/64")}
	if _, err := containerd.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "overlaps fd99::/64 of the host's interface cable0") {
		t.Errorf("error %v", err)
	}
}

// advertise says on the cable that the neighbour is a router, for as long as that holds.
func (n neighbour) advertise(seconds uint16) {
	n.t.Helper()
	fd, link, err := n.rawSocket()
	if err != nil {
		n.t.Fatal(err)
	}
	const advertisement = 134 // RFC 4861 4.2; the kernel adds the checksum
	text := binary.BigEndian.AppendUint16([]byte{advertisement, 0, 0, 0, 64, 0}, seconds)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link))
	if err != nil {
		n.t.Fatal(err)
	}
	// Without an address of the link yet it cannot be sent.
	_ = unix.Sendto(fd, append(text, make([]byte, 8)...), 0, &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(link)})
	if err := unix.Close(fd); err != nil {
		n.t.Fatal(err)
	}
}

// rawSocket opens a socket for ICMPv6 in the neighbour's network, and finds its cable.
func (n neighbour) rawSocket() (fd, link int, err error) {
	// The thread goes home: the neighbour would die with the one that started it.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0, 0, err
	}
	defer home.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
	if err != nil {
		return 0, 0, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return 0, 0, err
	}
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	cable, err2 := net.InterfaceByName("cable1")
	if err := errors.Join(err, err2, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)); err != nil {
		return 0, 0, err
	}
	return fd, cable.Index, nil
}

// A host that forwards for its modules is a router, and the kernel of one does not listen
// to others as a rule.
func TestTheHostKeepsTheDefaultRouteOfItsRouter(t *testing.T) {
	const conf = "/proc/sys/net/ipv6/conf/"
	if err := os.WriteFile(conf+"all/forwarding", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNeighbour(t)
	n.ipv6()
	route := func(want bool, seconds uint16) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			n.advertise(seconds) // again, as long as the cable is not ready
			out := run(t, "ip", "-6", "route", "show", "default")
			if strings.Contains(out, "dev cable0 proto ra") == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("routes %q", out)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	route(true, 1800)
	r := openWith(t, home(t), ipv6)
	t.Cleanup(func() { closeAll(t, r) })
	create(t, r, "m", `{"Cmd":["exit=-1"]}`)
	start(t, r, "m")
	if out := run(t, "ip", "-6", "route", "show", "default"); !strings.Contains(out, "dev cable0 proto ra") {
		t.Errorf("the route is gone: %q", out)
	}
	if on, err := os.ReadFile(conf + "all/forwarding"); err != nil || string(on) != "1\n" {
		t.Errorf("forwarding is %q, %v", on, err)
	}
	route(false, 0)   // the router says that it is none any more
	route(true, 1800) // and that it is one again
	if ra, err := os.ReadFile(conf + "bw-rt-test/accept_ra"); err != nil || string(ra) != "0\n" {
		t.Errorf("the host listens to routers among the modules: %q, %v", ra, err)
	}
}
