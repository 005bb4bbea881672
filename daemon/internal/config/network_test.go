package config_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

func ipRange(subnet, gateway, pool string) (r config.IPRange) {
	if subnet != "" {
		r.Subnet = netip.MustParsePrefix(subnet)
	}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
	}
	if pool != "" {
		r.Pool = netip.MustParsePrefix(pool)
	}
	return r
}

func TestAddressesOfTheModuleNetwork(t *testing.T) {
	const table = "[moby_runtime.network]\nname = \"n\"\n"
	for name, c := range map[string]struct {
		text   string
		ipv6   bool
		v4, v6 config.IPRange
	}{
		"nothing said":     {text: table},
		"a subnet of ours": {text: "[containerd]\nsubnet = \"10.1.2.3/24\"", v4: ipRange("10.1.2.0/24", "", "")},
		"ipv6 alone":       {text: table + "ipv6 = true", ipv6: true},
		"not ipv6":         {text: table + "ipv6 = false"},
		"no entries":       {text: table + "ipam = { config = [] }"},
		"one of IPv4":      {text: table + "[[moby_runtime.network.ipam.config]]\nsubnet = \"10.9.0.0/16\"", v4: ipRange("10.9.0.0/16", "", "")},
		"both": {
			text: table + "ipv6 = true\n[[moby_runtime.network.ipam.config]]\nsubnet = \"fd00:1::/64\"\ngateway = \"fd00:1::ff\"\nip_range = \"fd00:1::1:0/112\"\n" +
				"[[moby_runtime.network.ipam.config]]\nsubnet = \"10.9.0.0/16\"\ngateway = \"10.9.0.254\"\nip_range = \"10.9.1.0/24\"",
			ipv6: true, v4: ipRange("10.9.0.0/16", "10.9.0.254", "10.9.1.0/24"), v6: ipRange("fd00:1::/64", "fd00:1::ff", "fd00:1::1:0/112"),
		},
		"in one line": {
			text: "[moby_runtime]\nnetwork = { name = \"n\", ipv6 = true, ipam = { config = [ { subnet = \"10.9.0.0/16\" }, { subnet = \"2001:db8:5::/80\" } ] } }",
			ipv6: true, v4: ipRange("10.9.0.0/16", "", ""), v6: ipRange("2001:db8:5::/80", "", ""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config.Parse([]byte(minimal+c.text), "m")
			if err != nil {
				t.Fatal(err)
			}
			if d := got.Containerd; d.IPv6 != c.ipv6 || d.V4 != c.v4 || d.V6 != c.v6 {
				t.Errorf("%t %v %v", d.IPv6, d.V4, d.V6)
			}
		})
	}
}

func TestBadAddressesOfTheModuleNetworkAreNamed(t *testing.T) {
	const key = "moby_runtime.network"
	entry := func(lines ...string) string {
		return "[[moby_runtime.network.ipam.config]]\n" + strings.Join(lines, "\n") + "\n"
	}
	on := minimal + "[moby_runtime.network]\nipv6 = true\n" // lines 4 and 5
	for name, c := range map[string]struct{ text, want string }{
		"ipv6 is no flag":          {minimal + "[moby_runtime.network]\nipv6 = \"yes\"", "line 5: " + key + ".ipv6: must be true or false"},
		"unknown key":              {on + "mtu = 1", "line 6: " + key + ".mtu: unknown key"},
		"ipam is no table":         {on + "ipam = \"x\"", "line 6: " + key + ".ipam: must be a table"},
		"unknown key of ipam":      {on + "ipam = { driver = \"x\" }", "line 6: " + key + ".ipam.driver: unknown key"},
		"entry is no table":        {on + "ipam = { config = [ 1 ] }", "line 6: " + key + ".ipam.config[0]: must be a table"},
		"unknown key of an entry":  {on + entry(`subnet = "10.0.0.0/16"`, `range = "x"`), "line 8: " + key + ".ipam.config[0].range: unknown key"},
		"value is no text":         {on + entry(`subnet = 10`), "line 7: " + key + ".ipam.config[0].subnet: must be text"},
		"no subnet":                {on + entry(`gateway = "10.0.0.1"`), "line 6: " + key + ".ipam.config[0].subnet: missing"},
		"subnet is none":           {on + entry(`subnet = "fd00::1"`), "line 7: " + key + ".ipam.config[0].subnet: must be a network"},
		"subnet too long":          {on + entry(`subnet = "fd00::/126"`), "line 7: " + key + ".ipam.config[0].subnet: fd00::/126 must have a length from 8 to 125"},
		"IPv4 subnet too long":     {on + entry(`subnet = "10.0.0.0/30"`), "must have a length from 8 to 29"},
		"link-local":               {on + entry(`subnet = "fe80::/64"`), "fe80::/64 is not of addresses that modules can have"},
		"multicast":                {on + entry(`subnet = "ff05::/64"`), "ff05::/64 is not of addresses that modules can have"},
		"IPv4 within IPv6":         {on + entry(`subnet = "::ffff:10.0.0.0/112"`), "not of addresses that modules can have"},
		"IPv6 without ipv6":        {minimal + entry(`subnet = "fd00::/64"`), "line 5: " + key + ".ipam.config[0].subnet: fd00::/64 is of IPv6, which the network has only with ipv6 = true"},
		"subnets overlap":          {on + entry(`subnet = "fd00::/48"`) + entry(`subnet = "fd00:0:0:7::/64"`), "line 9: " + key + ".ipam.config[1].subnet: fd00:0:0:7::/64 overlaps fd00::/48"},
		"IPv4 subnets overlap":     {on + entry(`subnet = "10.0.0.0/16"`) + entry(`subnet = "10.0.3.0/24"`), "line 9: " + key + ".ipam.config[1].subnet: 10.0.3.0/24 overlaps 10.0.0.0/16"},
		"two of a family":          {on + entry(`subnet = "fd00::/64"`) + entry(`subnet = "fd01::/64"`), "line 9: " + key + ".ipam.config[1].subnet: fd01::/64 is one more"},
		"gateway outside":          {on + entry(`subnet = "fd00::/64"`, `gateway = "fd01::1"`), "line 8: " + key + ".ipam.config[0].gateway: must be an address of a host in the subnet fd00::/64"},
		"gateway of other family":  {on + entry(`subnet = "fd00::/64"`, `gateway = "10.0.0.1"`), "line 8: " + key + ".ipam.config[0].gateway: must be"},
		"gateway is the subnet":    {on + entry(`subnet = "10.0.0.0/16"`, `gateway = "10.0.0.0"`), "line 8: " + key + ".ipam.config[0].gateway: must be"},
		"gateway is for all":       {on + entry(`subnet = "10.0.0.0/16"`, `gateway = "10.0.255.255"`), "line 8: " + key + ".ipam.config[0].gateway: must be"},
		"gateway of a link":        {on + entry(`subnet = "fd00::/64"`, `gateway = "fd00::1%eth0"`), "line 8: " + key + ".ipam.config[0].gateway: must be"},
		"range outside":            {on + entry(`subnet = "fd00::/64"`, `ip_range = "fd01::/80"`), "line 8: " + key + ".ipam.config[0].ip_range: must be a part of the subnet fd00::/64"},
		"range wider":              {on + entry(`subnet = "fd00::/64"`, `ip_range = "fd00::/48"`), "line 8: " + key + ".ipam.config[0].ip_range: must be a part"},
		"range is none":            {on + entry(`subnet = "fd00::/64"`, `ip_range = "fd00::5"`), "line 8: " + key + ".ipam.config[0].ip_range: must be a part"},
		"range for no module":      {on + entry(`subnet = "10.0.0.0/24"`, `ip_range = "10.0.0.0/31"`), "line 8: " + key + ".ipam.config[0].ip_range: 10.0.0.0/31 has no address"},
		"gateway is all the range": {on + entry(`subnet = "fd00::/64"`, `gateway = "fd00::5"`, `ip_range = "fd00::5/128"`), "line 9: " + key + ".ipam.config[0].ip_range: fd00::5/128 has no address"},
		"inline, second entry":     {on + "ipam = { config = [ { subnet = \"10.0.0.0/16\" },\n { subnet = \"fd00::/64\",  gateway = \"::\" } ] }", "line 7: " + key + ".ipam.config[1].gateway: must be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse([]byte(c.text), "machine")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
}

func FuzzModuleNetwork(f *testing.F) {
	f.Add(true, "fd00:1::/64", "fd00:1::ff", "fd00:1::1:0/112", "10.9.0.0/16")
	f.Add(false, "10.0.0.0/29", "", "10.0.0.6/32", "::/0")
	f.Fuzz(func(t *testing.T, ipv6 bool, subnet, gateway, pool, second string) {
		text := minimal + fmt.Sprintf("[moby_runtime.network]\nipv6 = %t\n[[moby_runtime.network.ipam.config]]\nsubnet = %q\n", ipv6, subnet)
		for key, value := range map[string]string{"gateway": gateway, "ip_range": pool} {
			if value != "" {
				text += fmt.Sprintf("%s = %q\n", key, value)
			}
		}
		text += fmt.Sprintf("[[moby_runtime.network.ipam.config]]\nsubnet = %q\n", second)
		c, err := config.Parse([]byte(text), "m")
		if err != nil {
			return
		}
		n := c.Containerd
		if n.V6.Subnet.IsValid() && !n.IPv6 || n.V6.Subnet.IsValid() == (n.V4.Subnet == netip.Prefix{}) {
			t.Errorf("%t, %v, %v", n.IPv6, n.V4, n.V6)
		}
		for _, r := range []config.IPRange{n.V4, n.V6} {
			if r.Gateway.IsValid() && !r.Subnet.Contains(r.Gateway) || r.Pool.IsValid() && !r.Subnet.Overlaps(r.Pool) {
				t.Errorf("%v", r)
			}
		}
	})
}
