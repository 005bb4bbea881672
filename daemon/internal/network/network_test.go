package network_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

const routeTable = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
vpn0	00001EAC	00000000	0001	0	0	0	0000FFFF	0	0	0
`

func TestRoutesAreReadInHostByteOrder(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table above is from a little-endian machine")
	}
	got, err := network.ParseRoutes(routeTable)
	want := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("172.30.0.0/16")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := network.ParseRoutes("head\neth0 zz 0 0 0 0 0 0"); err == nil {
		t.Error("no error for a bad address")
	}
}

func TestSubnetAvoidsRoutes(t *testing.T) {
	for _, tc := range []struct {
		routes []string
		want   string
	}{
		{nil, "172.30.0.0/24"},
		{[]string{"0.0.0.0/0"}, "172.30.0.0/24"},
		{[]string{"172.30.0.128/25", "172.30.1.1/32"}, "172.30.2.0/24"},
		{[]string{"172.30.0.0/16"}, "172.31.0.0/24"},
		{[]string{"172.16.0.0/12"}, "10.89.0.0/24"},
	} {
		var routes []netip.Prefix
		for _, r := range tc.routes {
			routes = append(routes, netip.MustParsePrefix(r))
		}
		if got, err := network.ChooseSubnet(routes); err != nil || got.String() != tc.want {
			t.Errorf("%v: %v, %v, want %s", tc.routes, got, err, tc.want)
		}
	}
	if _, err := network.ChooseSubnet([]netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Error("no error when nothing is free")
	}
}

func TestPortsAreChosen(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	used := map[string][]network.Mapping{"web": {{HostPort: 80, Protocol: "tcp"}, {HostPort: 90, Protocol: "tcp", HostIP: "127.0.0.1"}}}
	busy := errors.New("busy")
	next := uint16(90)
	probe := func(_ string, _ netip.Addr, port uint16) (uint16, error) {
		switch port {
		case 0:
			next++
			return next - 1, nil
		case 81:
			return 0, busy
		}
		return port, nil
	}
	for name, tc := range map[string]struct {
		want    network.Port
		port    uint16
		takenBy string
		err     error
	}{
		"free":                     {want: network.Port{Protocol: "tcp", HostMin: 443, HostMax: 443}, port: 443},
		"taken by a module":        {want: network.Port{Protocol: "tcp", HostMin: 80, HostMax: 80}, takenBy: "web"},
		"other protocol":           {want: network.Port{Protocol: "udp", HostMin: 80, HostMax: 80}, port: 80},
		"taken on the host":        {want: network.Port{Protocol: "tcp", HostMin: 81, HostMax: 81}, err: busy},
		"next of a range":          {want: network.Port{Protocol: "tcp", HostMin: 80, HostMax: 82}, port: 82},
		"one address against all":  {want: network.Port{Protocol: "tcp", HostIP: lo, HostMin: 80, HostMax: 80}, takenBy: "web"},
		"another address is free":  {want: network.Port{Protocol: "tcp", HostIP: netip.MustParseAddr("10.0.0.1"), HostMin: 90, HostMax: 90}, port: 90},
		"any avoids modules' (90)": {want: network.Port{Protocol: "tcp"}, port: 91},
	} {
		t.Run(name, func(t *testing.T) {
			next = 90
			got, err := network.ChoosePorts([]network.Port{tc.want}, false, used, probe)
			var taken *network.PortError
			switch {
			case tc.port != 0:
				if err != nil || len(got) != 1 || got[0].HostPort != tc.port {
					t.Errorf("got %+v, %v", got, err)
				}
			case !errors.As(err, &taken) || taken.By != tc.takenBy || tc.err != nil && !errors.Is(err, tc.err):
				t.Errorf("error %v", err)
			}
		})
	}
	twice := []network.Port{{Protocol: "tcp", Container: 1, HostMin: 5, HostMax: 5}, {Protocol: "tcp", Container: 2, HostMin: 5, HostMax: 5}}
	if _, err := network.ChoosePorts(twice, false, nil, probe); err == nil {
		t.Error("one host port went to two ports of a module")
	}
}

// onSomePort runs f until it returns no error. An error says that a port is in use that
// f itself does not use: another program may have taken it, but hardly ten in a row.
func onSomePort(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 10 {
		if err = f(); err == nil {
			return
		}
	}
	t.Error(err)
}

func TestProbeSeesListeners(t *testing.T) {
	onSomePort(t, func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv4Unspecified()} {
			if _, err := network.ProbePort("tcp", ip, port); err == nil {
				t.Errorf("%v: port %d seems free", ip, port)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := network.ProbePort("tcp", netip.IPv4Unspecified(), port)
		if err == nil && got != port {
			t.Errorf("port %d for %d", got, port)
		}
		return err
	})
	if got, err := network.ProbePort("udp", netip.IPv4Unspecified(), 0); err != nil || got == 0 {
		t.Errorf("%d, %v", got, err)
	}
}

func TestConfigurationIsReadBackAndUnderstoodByCNI(t *testing.T) {
	plugins := t.TempDir()
	subnet := netip.MustParsePrefix("10.1.2.0/24")
	for _, firewall := range []bool{false, true} {
		if firewall {
			if err := os.WriteFile(filepath.Join(plugins, "firewall"), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		r, err := network.Range{Subnet: subnet}.Complete()
		if err != nil {
			t.Fatal(err)
		}
		data, err := network.BuildConf(network.Config{Name: "n", Bridge: "br", V4: r, PluginDirs: []string{plugins}}, "/leases")
		if err != nil {
			t.Fatal(err)
		}
		want4 := network.Range{Subnet: subnet, Gateway: subnet.Addr().Next()}
		if s := network.ReadConf(data); s != (network.Shape{Name: "n", Bridge: "br", V4: want4}) {
			t.Errorf("read back %v", s)
		}
		if strings.Contains(string(data), "::") || strings.Contains(string(data), `"ips"`) {
			t.Errorf("something of IPv6 in %s", data)
		}
		list, err := libcni.NetworkConfFromBytes(data)
		if err != nil {
			t.Fatal(err)
		}
		var types []string
		for _, p := range list.Plugins {
			types = append(types, p.Network.Type)
		}
		want := []string{"bridge", "portmap"}
		if firewall {
			want = append(want, "firewall")
		}
		if !slices.Equal(types, want) || !strings.Contains(string(data), `"gateway": "10.1.2.1"`) {
			t.Errorf("plugins %q in %s", types, data)
		}
	}
	if s := network.ReadConf([]byte("{")); s != (network.Shape{}) {
		t.Errorf("read %v from rubbish", s)
	}
}

func TestOpenRefuses(t *testing.T) {
	full := t.TempDir()
	for _, p := range []string{"bridge", "host-local", "portmap"} {
		if err := os.WriteFile(filepath.Join(full, p), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for want, cfg := range map[string]network.Config{
		"bridge name":      {Bridge: "much-too-long-name", Dir: t.TempDir()},
		"absolute":         {Dir: "rel"},
		"plugin bridge":    {Dir: t.TempDir(), PluginDirs: []string{t.TempDir()}},
		"want an IPv4":     {Dir: t.TempDir(), PluginDirs: []string{full}, V4: network.Range{Subnet: netip.MustParsePrefix("fd00::/64")}},
		"between /8 and /": {Dir: t.TempDir(), PluginDirs: []string{full}, V4: network.Range{Subnet: netip.MustParsePrefix("10.0.0.0/31")}},
		"gateway":          {Dir: t.TempDir(), PluginDirs: []string{full}, V4: network.Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")}},
		"not in":           {Dir: t.TempDir(), PluginDirs: []string{full}, V4: network.Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Pool: netip.MustParsePrefix("10.0.0.0/16")}},
	} {
		if _, err := network.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func hosts(t *testing.T) (*network.Hosts, string) {
	t.Helper()
	dir := t.TempDir()
	return network.NewHosts(dir, pair("172.30.0.1")), dir
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func noErr(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

const localLines = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

func TestHostsFilesFollowTheModules(t *testing.T) {
	h, _ := hosts(t)
	noErr(t,
		h.Prepare("edgeHub", network.HostSettings{Hostname: "edgeHub", Aliases: []string{"gw.test"}}),
		h.Prepare("mod", network.HostSettings{Hostname: "box", Domainname: "lan", Extra: []string{"x:9.9.9.9", "gw:host-gateway", "v6:[fd00::1]"}}))
	file := h.Paths("mod").Hosts
	extra := "9.9.9.9\tx\n172.30.0.1\tgw\nfd00::1\tv6\n"
	if got := content(t, file); got != localLines+extra {
		t.Errorf("nobody runs: %q", got)
	}
	before, err := os.Stat(file)
	noErr(t, err, h.Up("edgeHub", pair("172.30.0.2")), h.Up("mod", pair("172.30.0.3")))
	if got, want := content(t, file), localLines+extra+"172.30.0.3\tbox.lan box\n172.30.0.2\tedgeHub gw.test\n172.30.0.3\tmod\n"; got != want {
		t.Errorf("both run: %q, want %q", got, want)
	}
	noErr(t, h.Down("edgeHub"))
	if got, want := content(t, file), localLines+extra+"172.30.0.3\tbox.lan box\n172.30.0.3\tmod\n"; got != want {
		t.Errorf("one stopped: %q, want %q", got, want)
	}
	after, err := os.Stat(file)
	noErr(t, err)
	if before.Sys().(*syscall.Stat_t).Ino != after.Sys().(*syscall.Stat_t).Ino {
		t.Error("the file was replaced, which a bind mount does not see")
	}
	if got := content(t, h.Paths("mod").Hostname); got != "box\n" {
		t.Errorf("hostname %q", got)
	}
}

func TestHostsFilesHaveBothFamilies(t *testing.T) {
	h := network.NewHosts(t.TempDir(), pair("172.30.0.1", "fd00:1::1"))
	noErr(t,
		h.Prepare("edgeHub", network.HostSettings{Hostname: "edgeHub", Aliases: []string{"gw.test"}}),
		h.Prepare("mod", network.HostSettings{Hostname: "box", Extra: []string{"gw:host-gateway"}}),
		h.Up("edgeHub", pair("172.30.0.2", "fd00:1::2")), h.Up("mod", pair("172.30.0.3", "fd00:1::3")))
	want := localLines + "172.30.0.1\tgw\nfd00:1::1\tgw\n172.30.0.3\tbox\nfd00:1::3\tbox\n" +
		"172.30.0.2\tedgeHub gw.test\nfd00:1::2\tedgeHub gw.test\n172.30.0.3\tmod\nfd00:1::3\tmod\n"
	if got := content(t, h.Paths("mod").Hosts); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	noErr(t, h.Down("edgeHub"))
	if got := content(t, h.Paths("mod").Hosts); strings.Contains(got, "edgeHub") {
		t.Errorf("after its end: %q", got)
	}
}

func TestForgottenModulesLeaveNoFiles(t *testing.T) {
	h, dir := hosts(t)
	noErr(t, h.Prepare("a", network.HostSettings{Hostname: "a"}), h.Prepare("b", network.HostSettings{Hostname: "b"}),
		h.Up("a", pair("172.30.0.2")), h.Forget("a"), h.Forget("never"))
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got := content(t, h.Paths("b").Hosts); got != localLines {
		t.Errorf("b still knows a: %q", got)
	}
}

func TestAdoptedModulesAreWrittenBySync(t *testing.T) {
	h, dir := hosts(t)
	noErr(t, os.MkdirAll(filepath.Join(dir, "old"), 0o755))
	h.Adopt("old", network.HostSettings{Hostname: "old"}, pair("172.30.0.9"))
	noErr(t, h.Sync())
	if got := content(t, h.Paths("old").Hosts); !strings.Contains(got, "172.30.0.9\told\n") {
		t.Errorf("%q", got)
	}
}

func TestHostNetworkModulesSeeTheHostsFile(t *testing.T) {
	h, _ := hosts(t)
	noErr(t, h.Prepare("m", network.HostSettings{Hostname: "machine", HostNetwork: true, Extra: []string{"x:1.1.1.1"}}))
	own, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got, want := content(t, h.Paths("m").Hosts), strings.TrimSuffix(string(own), "\n"); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "1.1.1.1\tx\n") {
		t.Errorf("%q", got)
	}
}

func TestResolvConf(t *testing.T) {
	host := "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch corp lan\noptions edns0\nsortlist 1.2.3.4\n"
	for name, tc := range map[string]struct {
		r    network.Resolver
		host bool
		want string
	}{
		"the host's without loopback": {network.Resolver{}, false, "nameserver 10.0.0.1\nsearch corp lan\noptions edns0\nsortlist 1.2.3.4\n"},
		"all of it on its network":    {network.Resolver{}, true, "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch corp lan\noptions edns0\nsortlist 1.2.3.4\n"},
		"own":                         {network.Resolver{Servers: []string{"9.9.9.9"}, Search: []string{"a"}, Options: []string{"ndots:1"}}, false, "nameserver 9.9.9.9\nsearch a\noptions ndots:1\nsortlist 1.2.3.4\n"},
		"servers of IPv6":             {network.Resolver{Servers: []string{"fd00::53", "9.9.9.9"}}, false, "nameserver fd00::53\nnameserver 9.9.9.9\nsearch corp lan\noptions edns0\nsortlist 1.2.3.4\n"},
		"no search":                   {network.Resolver{Search: []string{"."}}, false, "nameserver 10.0.0.1\noptions edns0\nsortlist 1.2.3.4\n"},
	} {
		if got := string(tc.r.Render(host, tc.host)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestServersThatOnlyTheHostReachesAreLeftOut(t *testing.T) {
	const host = "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver 169.254.169.253\n"
	if got := string(network.Resolver{}.Render(host, false)); got != "nameserver 2001:db8::53\nnameserver 169.254.169.253\n" {
		t.Errorf("in the module network: %q", got)
	}
	if got := string(network.Resolver{}.Render(host, true)); got != host {
		t.Errorf("in the host's: %q", got)
	}
}

func TestRules(t *testing.T) {
	r := network.NewRules("net", "br0", netip.MustParsePrefix("10.1.0.0/24"))
	want := [][]string{
		{"-i", "br0", "-j", "ACCEPT"},
		{"-o", "br0", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "ACCEPT"},
		{"-o", "br0", "-j", "DROP"},
	}
	if !reflect.DeepEqual(r.Forward(), want) || len(r.Chain()) > 28 {
		t.Errorf("chain %s: %q", r.Chain(), r.Forward())
	}
}
