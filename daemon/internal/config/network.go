package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// IPRange is the addresses of one family in the module network. What is invalid is left to
// the daemon.
type IPRange struct {
	Subnet netip.Prefix
	// Gateway is the host's address.
	Gateway netip.Addr
	// Pool is the part of Subnet from which modules have addresses that ask for none.
	Pool netip.Prefix
}

func (v *validator) network() {
	c := &v.c.Containerd
	if uri := v.c.Moby.URI; uri != "" {
		switch path, err := SocketPath(uri); {
		case err != nil:
			v.bad("moby_runtime.uri", "%v", err)
		case strings.Contains(filepath.Base(path), "docker"):
			v.bad("moby_runtime.uri", "a Docker engine is not used; set [containerd] address")
		case v.set("containerd.address"):
			v.bad("moby_runtime.uri", "excludes [containerd] address")
		default:
			c.Address = path
		}
	}
	if v.c.Moby.Network != nil {
		v.mobyNetwork()
	}
	c.Address = strings.TrimPrefix(c.Address, "unix://")
	if !filepath.IsAbs(c.Address) {
		v.bad("containerd.address", "must be an absolute path")
	}
	if c.CNIBinDir != "" && !filepath.IsAbs(c.CNIBinDir) {
		v.bad("containerd.cni_bin_dir", "must be an absolute path")
	}
	v.simpleName("containerd.namespace", c.Namespace)
	if v.c.Moby.Network == nil {
		v.simpleName("containerd.network", c.Network)
	}
	if c.Subnet == "" {
		return
	}
	p, err := netip.ParsePrefix(c.Subnet)
	if p = p.Masked(); err != nil || !p.Addr().Is4() || wrongSubnet(p) != "" {
		v.bad("containerd.subnet", "must be an IPv4 network such as 172.20.0.0/16")
		return
	}
	c.V4.Subnet = p
}

func (v *validator) simpleName(key, s string) {
	if !simpleName.MatchString(s) {
		v.bad(key, "must be letters, digits, \"-\", \"_\" and \".\", at most 76")
	}
}

// mobyNetwork reads [moby_runtime] network, a name or a table.
func (v *validator) mobyNetwork() {
	const key = "moby_runtime.network"
	if v.set("containerd.network") || v.set("containerd.subnet") {
		v.bad(key, "excludes [containerd] network and subnet")
		return
	}
	switch n := v.c.Moby.Network.(type) {
	case string:
		v.simpleName(key, n)
		v.c.Containerd.Network = n
	case map[string]any:
		v.networkTable(key, n)
	default:
		v.bad(key, "must be a name or a table")
	}
}

func (v *validator) networkTable(key string, n map[string]any) {
	for k, val := range n {
		switch k {
		case "name":
			name, ok := val.(string)
			if !ok {
				v.bad(key+".name", "must be text")
				continue
			}
			v.simpleName(key+".name", name)
			v.c.Containerd.Network = name
		case "ipv6":
			on, ok := val.(bool)
			if !ok {
				v.bad(key+".ipv6", "must be true or false")
			}
			v.c.Containerd.IPv6 = on
		case "ipam": // below, when ipv6 is known
		default:
			v.bad(key+"."+k, "unknown key")
		}
	}
	if ipam, ok := n["ipam"]; ok {
		v.ipam(key+".ipam", ipam)
	}
}

// ipam reads what addresses the network has: an entry for each family at most, since a
// network has one bridge.
func (v *validator) ipam(key string, value any) {
	table, ok := value.(map[string]any)
	for k := range table {
		if k != "config" {
			v.bad(key+"."+k, "unknown key")
		}
	}
	entries, isArray := table["config"].([]any)
	if !ok || !isArray && table["config"] != nil {
		v.bad(key, "must be a table with an array of tables \"config\"")
		return
	}
	for i, entry := range entries {
		at := fmt.Sprintf("%s.config[%d]", key, i)
		fields, ok := v.texts(at, entry)
		if !ok {
			continue
		}
		r, ok := v.ipRange(at, fields)
		if !ok {
			continue
		}
		to, family := &v.c.Containerd.V4, "IPv4"
		if r.Subnet.Addr().Is6() {
			to, family = &v.c.Containerd.V6, "IPv6"
		}
		switch {
		case family == "IPv6" && !v.c.Containerd.IPv6:
			v.bad(at+".subnet", "%s is of IPv6, which the network has only with ipv6 = true", r.Subnet)
		case to.Subnet.IsValid() && to.Subnet.Overlaps(r.Subnet):
			v.bad(at+".subnet", "%s overlaps %s, and the network can have one %s subnet", r.Subnet, to.Subnet, family)
		case to.Subnet.IsValid():
			v.bad(at+".subnet", "%s is one more: the network can have one %s subnet, and has %s", r.Subnet, family, to.Subnet)
		default:
			*to = r
		}
	}
}

// texts are the values of an entry.
func (v *validator) texts(at string, entry any) (map[string]string, bool) {
	table, ok := entry.(map[string]any)
	if !ok {
		v.bad(at, "must be a table")
		return nil, false
	}
	out := make(map[string]string)
	for k, val := range table {
		text, isText := val.(string)
		switch {
		case k != "subnet" && k != "gateway" && k != "ip_range":
			v.bad(at+"."+k, "unknown key")
			ok = false
		case !isText:
			v.bad(at+"."+k, "must be text")
			ok = false
		default:
			out[k] = text
		}
	}
	return out, ok
}

func (v *validator) ipRange(at string, fields map[string]string) (r IPRange, ok bool) {
	subnet, given := fields["subnet"]
	if !given {
		v.bad(at+".subnet", "missing")
		return r, false
	}
	var err error
	if r.Subnet, err = netip.ParsePrefix(subnet); err != nil {
		v.bad(at+".subnet", "must be a network such as 172.20.0.0/16 or fd12:3456:789a::/64")
		return r, false
	}
	r.Subnet = r.Subnet.Masked()
	if wrong := wrongSubnet(r.Subnet); wrong != "" {
		v.bad(at+".subnet", "%s %s", r.Subnet, wrong)
		return r, false
	}
	ok = true
	if text, given := fields["gateway"]; given {
		if r.Gateway, err = netip.ParseAddr(text); err != nil || !isHost(r.Subnet, r.Gateway) {
			v.bad(at+".gateway", "must be an address of a host in the subnet %s", r.Subnet)
			ok = false
		}
	}
	if text, given := fields["ip_range"]; given {
		r.Pool, err = netip.ParsePrefix(text)
		r.Pool = r.Pool.Masked()
		switch {
		case err != nil || r.Pool.Bits() < r.Subnet.Bits() || !r.Subnet.Contains(r.Pool.Addr()):
			v.bad(at+".ip_range", "must be a part of the subnet %s", r.Subnet)
			ok = false
		case ok && !r.holdsModule():
			v.bad(at+".ip_range", "%s has no address for a module", r.Pool)
			ok = false
		}
	}
	return r, ok
}

// wrongSubnet says why a subnet cannot be that of modules; "" if it can.
func wrongSubnet(p netip.Prefix) string {
	a, longest := p.Addr(), 29
	if a.Is6() {
		longest = 125
	}
	switch {
	case p.Bits() < 8 || p.Bits() > longest:
		return fmt.Sprintf("must have a length from 8 to %d", longest)
	case a.Is4In6() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified():
		return "is not of addresses that modules can have"
	}
	return ""
}

// isHost reports whether an address can be one of a host in a subnet: not the first, not
// the last.
func isHost(subnet netip.Prefix, a netip.Addr) bool {
	return a.Zone() == "" && subnet.Contains(a) && a != subnet.Addr() && subnet.Contains(a.Next())
}

// holdsModule reports whether the pool has an address for a module. Three at most are
// taken: the first and the last of the subnet and the gateway.
func (r IPRange) holdsModule() bool {
	gateway := r.Gateway
	if !gateway.IsValid() {
		gateway = r.Subnet.Addr().Next()
	}
	for a, i := r.Pool.Addr(), 0; i < 4 && r.Pool.Contains(a); a, i = a.Next(), i+1 {
		if isHost(r.Subnet, a) && a != gateway {
			return true
		}
	}
	return false
}
