package network

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
)

// complete checks a range that has a subnet, of the family that is asked for, and fills in
// the gateway and the pool.
func (r *Range) complete(v4 bool) error {
	family, longest := "IPv6", 126
	if v4 {
		family, longest = "IPv4", 30
	}
	r.Subnet = r.Subnet.Masked()
	if s := r.Subnet; s.Addr().Is4() != v4 || s.Bits() < 8 || s.Bits() > longest {
		return fmt.Errorf("subnet %s: want an %s range between /8 and /%d", s, family, longest)
	}
	if !r.Gateway.IsValid() {
		r.Gateway = r.Subnet.Addr().Next()
	}
	if !between(r.Subnet, r.Gateway) {
		return fmt.Errorf("gateway %s is not an address of a host in %s", r.Gateway, r.Subnet)
	}
	if !r.Pool.IsValid() {
		r.Pool = r.Subnet
	}
	r.Pool = r.Pool.Masked()
	if !r.Subnet.Contains(r.Pool.Addr()) || r.Pool.Bits() < r.Subnet.Bits() {
		return fmt.Errorf("range %s is not in %s", r.Pool, r.Subnet)
	}
	return nil
}

// fixed is what of the range a change of makes the network anew.
func (r Range) fixed() Range { return Range{Subnet: r.Subnet, Gateway: r.Gateway} }

// usable reports whether an address can be a module's: one of a host, and not the
// gateway's.
func (r Range) usable(addr netip.Addr) bool { return between(r.Subnet, addr) && addr != r.Gateway }

// between reports whether an address of a subnet is neither the first, which is the
// subnet's own or that of any router, nor the last, which is for all.
func between(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Contains(addr) && addr != subnet.Addr() && subnet.Contains(addr.Next())
}

// uniqueLocal makes up a /64 of unique local addresses (RFC 4193 3.2): fd, 40 random bits,
// and subnet 0.
func uniqueLocal() (netip.Prefix, error) {
	a := [16]byte{0xfd}
	if _, err := rand.Read(a[1:6]); err != nil {
		return netip.Prefix{}, fmt.Errorf("choose an IPv6 subnet: %w", err)
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64), nil
}

// clashesWithHost fails if a subnet covers that of an interface of the host besides the
// bridge. One that is a part of an interface's is nothing wrong: it may be routed here.
func clashesWithHost(subnet netip.Prefix, bridge string) error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("interfaces of the host: %w", err)
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil || link.Name == bridge {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if other, err := netip.ParsePrefix(a.String()); err == nil && covers(subnet, other) {
				return fmt.Errorf("moby_runtime.network.ipam: subnet %s overlaps %s of the host's interface %s", subnet, other.Masked(), link.Name)
			}
		}
	}
	return nil
}

func covers(subnet, other netip.Prefix) bool {
	return subnet.Contains(other.Addr()) && subnet.Bits() <= other.Bits()
}

// with returns the pair with an address in the place of its family.
func (p Pair) with(addr netip.Addr) Pair {
	if addr.Is4() {
		p.V4 = addr
	} else {
		p.V6 = addr
	}
	return p
}

// All lists the addresses that are there, that of IPv4 first.
func (p Pair) All() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{p.V4, p.V6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// String lists the addresses.
func (p Pair) String() string {
	switch all := p.All(); len(all) {
	case 0:
		return "none"
	case 1:
		return all[0].String()
	default:
		return all[0].String() + ", " + all[1].String()
	}
}
