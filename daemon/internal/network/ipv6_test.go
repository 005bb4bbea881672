package network_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

func TestPortsAreChosenInBothFamilies(t *testing.T) {
	used := map[string][]network.Mapping{
		"both": {{HostPort: 80, Protocol: "tcp"}}, "four": {{HostPort: 84, Protocol: "tcp", HostIP: "0.0.0.0"}},
		"six": {{HostPort: 86, Protocol: "tcp", HostIP: "::"}}, "one": {{HostPort: 90, Protocol: "tcp", HostIP: "2001:db8::1"}},
	}
	busy := errors.New("busy")
	var asked []string
	probe := func(_ string, ip netip.Addr, port uint16) (uint16, error) {
		asked = append(asked, netip.AddrPortFrom(ip, port).String())
		switch {
		case port == 0:
			return 1000 + uint16(len(asked)), nil
		case port == 89 && ip.Is6(), port == 1001:
			return 0, busy
		}
		return port, nil
	}
	const all, v4, v6 = "", "0.0.0.0", "::"
	for name, tc := range map[string]struct {
		hostIP  string
		port    uint16
		v4only  bool
		want    network.Mapping
		takenBy string
		err     string
		asks    string
	}{
		"all":                         {hostIP: all, port: 443, asks: "0.0.0.0:443 [::]:443"},
		"IPv4":                        {hostIP: v4, port: 443, want: network.Mapping{HostIP: v4}, asks: "0.0.0.0:443"},
		"IPv6":                        {hostIP: v6, port: 443, want: network.Mapping{HostIP: v6}, asks: "[::]:443"},
		"one address":                 {hostIP: "2001:db8::1", port: 443, want: network.Mapping{HostIP: "2001:db8::1"}, asks: "[2001:db8::1]:443"},
		"all of a port of all":        {hostIP: all, port: 80, takenBy: "both"},
		"IPv6 of a port of all":       {hostIP: v6, port: 80, takenBy: "both"},
		"IPv6 of a port of IPv4":      {hostIP: v6, port: 84, want: network.Mapping{HostIP: v6}, asks: "[::]:84"},
		"all of a port of IPv4":       {hostIP: all, port: 84, takenBy: "four"},
		"an address of a port of six": {hostIP: "2001:db8::1", port: 86, takenBy: "six"},
		"IPv4 of a port of six":       {hostIP: v4, port: 86, want: network.Mapping{HostIP: v4}, asks: "0.0.0.0:86"},
		"IPv6 of a port of one":       {hostIP: v6, port: 90, takenBy: "one"},
		"another address than one":    {hostIP: "2001:db8::2", port: 90, want: network.Mapping{HostIP: "2001:db8::2"}, asks: "[2001:db8::2]:90"},
		"taken on the host, IPv6":     {hostIP: all, port: 89, err: "busy", asks: "0.0.0.0:89 [::]:89"},
		"any that is free in both":    {hostIP: all, want: network.Mapping{HostPort: 1003}, asks: "0.0.0.0:0 [::]:1001 0.0.0.0:0 [::]:1003"},
		"all without IPv6":            {hostIP: all, port: 443, v4only: true, asks: "0.0.0.0:443"},
		"IPv4 without IPv6":           {hostIP: v4, port: 443, v4only: true, asks: "0.0.0.0:443"},
		"IPv6 without IPv6":           {hostIP: v6, port: 443, v4only: true, asks: "0.0.0.0:443"},
		"an address without IPv6":     {hostIP: "2001:db8::1", port: 443, v4only: true, err: "the module network has no IPv6"},
	} {
		t.Run(name, func(t *testing.T) {
			asked = nil
			p := network.Port{Protocol: "tcp", HostMin: tc.port, HostMax: tc.port}
			if tc.hostIP != "" {
				p.HostIP = netip.MustParseAddr(tc.hostIP)
			}
			got, err := network.ChoosePorts([]network.Port{p}, !tc.v4only, used, probe)
			var taken *network.PortError
			switch {
			case tc.takenBy != "" || tc.err != "":
				if !errors.As(err, &taken) || taken.By != tc.takenBy || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v", err)
				}
			case err != nil || len(got) != 1:
				t.Errorf("%v, %v", got, err)
			default:
				tc.want.Protocol = "tcp"
				if tc.want.HostPort == 0 {
					tc.want.HostPort = tc.port
				}
				if got[0] != tc.want {
					t.Errorf("%+v, want %+v", got[0], tc.want)
				}
			}
			if got := strings.Join(asked, " "); got != tc.asks {
				t.Errorf("asked the host for %q, want %q", got, tc.asks)
			}
		})
	}
}

func TestProbeSeesListenersOfIPv6(t *testing.T) {
	onSomePort(t, func() error {
		l, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		for _, ip := range []netip.Addr{netip.IPv6Loopback(), netip.IPv6Unspecified()} {
			if _, err := network.ProbePort("tcp", ip, port); err == nil {
				t.Errorf("%v: port %d seems free", ip, port)
			}
		}
		got, err := network.ProbePort("tcp", netip.IPv4Unspecified(), port)
		if err == nil && got != port {
			t.Errorf("the same port of IPv4: %d", got)
		}
		return err
	})
}

func TestConfigurationOfBothFamilies(t *testing.T) {
	v4, err := network.Range{Subnet: netip.MustParsePrefix("10.1.2.0/24")}.Complete()
	noErr(t, err)
	v6, err := network.Range{Subnet: netip.MustParsePrefix("fd00:1::/64"), Gateway: netip.MustParseAddr("fd00:1::ff"), Pool: netip.MustParsePrefix("fd00:1::1:0/112")}.Complete()
	noErr(t, err)
	data, err := network.BuildConf(network.Config{Name: "n", Bridge: "br", V4: v4, IPv6: true, V6: v6}, "/leases")
	noErr(t, err)
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil || !list.Plugins[0].Network.Capabilities["ips"] {
		t.Errorf("%v: %s", err, data)
	}
	want := network.Shape{
		Name: "n", Bridge: "br",
		V4: network.Range{Subnet: v4.Subnet, Gateway: netip.MustParseAddr("10.1.2.1")},
		V6: network.Range{Subnet: v6.Subnet, Gateway: netip.MustParseAddr("fd00:1::ff")},
	}
	if got := network.ReadConf(data); got != want {
		t.Errorf("read back %v", got)
	}
	for _, part := range []string{`"dst": "::/0"`, `"gateway": "fd00:1::ff"`} {
		if !strings.Contains(string(data), part) {
			t.Errorf("no %s in %s", part, data)
		}
	}
}

func TestRulesOfIPv6(t *testing.T) {
	r := network.NewRules("net", "br0", netip.MustParsePrefix("fd00:1::/64"))
	comment := []string{"-m", "comment", "--comment", "module network net"}
	want := [][]string{
		append(append([]string{"POSTROUTING", "-s", "fd00:1::/64", "!", "-o", "br0"}, comment...), "-j", "MASQUERADE"),
		append(append([]string{"OUTPUT", "-d", "::1/128"}, comment...), "-j", "ACCEPT"),
	}
	if got := r.NAT(); !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	v4 := network.NewRules("net", "br0", netip.MustParsePrefix("10.1.0.0/24"))
	if got := v4.NAT(); len(got) != 1 || got[0][2] != "10.1.0.0/24" {
		t.Errorf("of IPv4: %q", got)
	}
	if !reflect.DeepEqual(r.Forward(), v4.Forward()) {
		t.Errorf("forwarding differs: %q", r.Forward())
	}
}

func TestUniqueLocalSubnetsDiffer(t *testing.T) {
	a, err := network.UniqueLocal()
	noErr(t, err)
	b, err := network.UniqueLocal()
	noErr(t, err)
	if a == b || a.Bits() != 64 || a != a.Masked() || a.Addr().As16()[0] != 0xfd || a.Addr().As16()[7] != 0 {
		t.Errorf("%s and %s", a, b)
	}
}

func TestSubnetsThatCoverAnother(t *testing.T) {
	for _, c := range []struct {
		subnet, other string
		want          bool
	}{
		{"fd00:1::/64", "fd00:1::5/64", true},
		{"fd00:1::/48", "fd00:1:0:9::5/64", true},
		{"fd00:1::/64", "fd00:1::5/128", true},
		{"fd00:1::/80", "fd00:1::/64", false}, // routed to this host out of its network
		{"fd00:1::/64", "fd00:2::5/64", false},
		{"fd00:1::/64", "10.0.0.1/24", false},
	} {
		if got := network.Covers(netip.MustParsePrefix(c.subnet), netip.MustParsePrefix(c.other)); got != c.want {
			t.Errorf("%s and %s: %t", c.subnet, c.other, got)
		}
	}
}

// proc makes a tree of files as the kernel shows.
func proc(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		noErr(t, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644))
	}
	return dir
}

func TestHostsWithoutIPv6(t *testing.T) {
	const conf = "sys/net/ipv6/conf/"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"kernel without":  {nil, "the kernel of this host runs without IPv6"},
		"all is well":     {map[string]string{"net/if_inet6": "", conf + "default/disable_ipv6": "0\n"}, ""},
		"disabled":        {map[string]string{"net/if_inet6": "", conf + "default/disable_ipv6": "1\n"}, "sysctl net.ipv6.conf.default.disable_ipv6 is 1"},
		"for the bridge":  {map[string]string{"net/if_inet6": "", conf + "default/disable_ipv6": "0\n", conf + "br9/disable_ipv6": "1\n"}, "sysctl net.ipv6.conf.br9.disable_ipv6 is 1"},
		"bridge is there": {map[string]string{"net/if_inet6": "", conf + "default/disable_ipv6": "0\n", conf + "br9/disable_ipv6": "0\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := network.HostHasIPv6At(proc(t, c.files), "br9")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "moby_runtime.network.ipv6")) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

const routeTable6 = `00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0
20010db8000000010000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00440001     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000002 00000400 00000001 00000000 00000003     eth2
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`

// A host that forwards ignores routers unless it is told not to (RFC 4861 6.2.3 makes it a
// router), and would lose its default route.
func TestForwardingLeavesTheHostItsRoutes(t *testing.T) {
	if got := network.Advertised(routeTable6); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("routes of %q", got)
	}
	const conf = "sys/net/ipv6/conf/"
	for name, c := range map[string]struct{ forwarding, ra, wantRA string }{
		"switched on":       {"0\n", "1\n", "2"},
		"is on":             {"1\n", "1\n", "1\n"},
		"decided by others": {"0\n", "0\n", "0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := proc(t, map[string]string{
				"net/ipv6_route": routeTable6, conf + "all/forwarding": c.forwarding, conf + "eth0/accept_ra": c.ra, conf + "eth2/accept_ra": "1",
			})
			noErr(t, network.ForwardIPv6(dir))
			got := []string{content(t, filepath.Join(dir, conf, "all/forwarding")), content(t, filepath.Join(dir, conf, "eth0/accept_ra")), content(t, filepath.Join(dir, conf, "eth2/accept_ra"))}
			if strings.TrimSpace(got[0]) != "1" || got[1] != c.wantRA || got[2] != "1" {
				t.Errorf("forwarding %q, accept_ra %q", got[0], got[1:])
			}
		})
	}
}

func FuzzAdvertised(f *testing.F) {
	f.Add(routeTable6)
	f.Fuzz(func(t *testing.T, routes string) {
		for _, link := range network.Advertised(routes) {
			if link == "" || !strings.Contains(routes, link) {
				t.Errorf("%q of %q", link, routes)
			}
		}
	})
}
