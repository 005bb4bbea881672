package check

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"
)

// ipv6 compares what the configuration says of IPv6 with the module network. The daemon
// makes that anew at its start.
func ipv6(_ context.Context, s *state) Outcome {
	want := s.cfg.Containerd
	if want.IPv6 {
		if err := s.HostIPv6(); err != nil {
			return failed("%v", err)
		}
	}
	is, err := s.Network(*s.cfg)
	if errors.Is(err, fs.ErrNotExist) && want.IPv6 {
		return skipped("the daemon has not made the module network yet")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("module network: %v", err)
	}
	subnet, gateway := is.V6.Subnet, is.V6.Gateway
	switch {
	case !want.IPv6 && !subnet.IsValid():
		return Outcome{OK, []string{"modules have IPv4 addresses only"}}
	case !want.IPv6:
		return warning("the module network has IPv6 (%s), and the configuration does not ask for it: restart edged", subnet)
	case !subnet.IsValid():
		return warning("the configuration asks for IPv6, and the module network has none yet: restart edged")
	case want.V6.Subnet.IsValid() && want.V6.Subnet != subnet:
		return warning("the IPv6 subnet of the configuration is %s, that of the module network %s: restart edged", want.V6.Subnet, subnet)
	case want.V6.Gateway.IsValid() && want.V6.Gateway != gateway:
		return warning("the IPv6 gateway of the configuration is %s, that of the module network %s: restart edged", want.V6.Gateway, gateway)
	}
	addrs, err := s.LinkAddrs(is.Bridge)
	switch {
	case err != nil:
		return failed("interface %s: %v", is.Bridge, err)
	case len(addrs) > 0 && !slices.Contains(addrs, gateway): // without any no module has run yet
		return failed("the interface %s of the module network has lost its IPv6 address %s: restart edged", is.Bridge, gateway)
	}
	return Outcome{OK, []string{"modules have addresses of " + subnet.String()}}
}

func linkAddrs(name string) ([]netip.Addr, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, nil //nolint:nilerr // it is not there
	}
	list, err := link.Addrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}
