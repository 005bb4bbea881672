package check_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

func TestIPv6OfConfigurationAndNetworkIsCompared(t *testing.T) {
	subnet, gateway := netip.MustParsePrefix("fd00:1::/64"), netip.MustParseAddr("fd00:1::1")
	v6 := network.Range{Subnet: subnet, Gateway: gateway}
	for name, c := range map[string]struct {
		ipv6   bool
		want   config.IPRange
		host   error
		is     network.Range
		err    error
		bridge []netip.Addr
		result check.Result
		says   string
	}{
		"neither":                   {result: check.OK, says: "IPv4 addresses only"},
		"neither, no network yet":   {err: fs.ErrNotExist, result: check.OK, says: "IPv4 addresses only"},
		"both":                      {ipv6: true, is: v6, result: check.OK, says: "fd00:1::/64"},
		"both, and the bridge":      {ipv6: true, is: v6, bridge: []netip.Addr{gateway}, result: check.OK, says: "fd00:1::/64"},
		"the configured one":        {ipv6: true, want: config.IPRange{Subnet: subnet, Gateway: gateway}, is: v6, result: check.OK},
		"switched on":               {ipv6: true, result: check.Warning, says: "has none yet: restart edged"},
		"switched off":              {is: v6, result: check.Warning, says: "does not ask for it: restart edged"},
		"another subnet":            {ipv6: true, want: config.IPRange{Subnet: netip.MustParsePrefix("fd00:2::/64")}, is: v6, result: check.Warning, says: "fd00:2::/64"},
		"another gateway":           {ipv6: true, want: config.IPRange{Subnet: subnet, Gateway: netip.MustParseAddr("fd00:1::9")}, is: v6, result: check.Warning, says: "fd00:1::9"},
		"no IPv6 on the host":       {ipv6: true, host: errors.New("kernel without"), is: v6, result: check.Error, says: "kernel without"},
		"host not asked if not set": {host: errors.New("kernel without"), result: check.OK},
		"address taken away":        {ipv6: true, is: v6, bridge: []netip.Addr{netip.MustParseAddr("172.30.0.1")}, result: check.Error, says: "lost its IPv6 address fd00:1::1"},
		"no network yet":            {ipv6: true, err: fs.ErrNotExist, result: check.Skipped, says: "not made"},
		"network cannot be read":    {err: errors.New("torn"), result: check.Error, says: "torn"},
	} {
		t.Run(name, func(t *testing.T) {
			o := healthy()
			cfg, err := o.Config()
			if err != nil {
				t.Fatal(err)
			}
			cfg.Containerd.IPv6, cfg.Containerd.V6 = c.ipv6, c.want
			o.Config = func() (config.Config, error) { return cfg, nil }
			o.HostIPv6 = func() error { return c.host }
			o.Network = func(config.Config) (network.Shape, error) { return network.Shape{Bridge: "bw-edge0", V6: c.is}, c.err }
			o.LinkAddrs = func(string) ([]netip.Addr, error) { return c.bridge, nil }
			got := run(t, o)["container-engine-ipv6"]
			if got.Result != c.result || !strings.Contains(strings.Join(got.Details, " "), c.says) {
				t.Errorf("%+v, want %s with %q", got, c.result, c.says)
			}
		})
	}
}
