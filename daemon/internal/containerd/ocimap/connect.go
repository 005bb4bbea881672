package ocimap

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

func indexed(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

var dnsName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$`)

// connect decides how the module is connected and by which names it is found.
func (b *builder) connect() error {
	n := &b.plan.Record.Network
	endpoint, err := b.mode(n)
	if err != nil {
		return err
	}
	b.spec.Hostname = b.opts.Hostname
	if b.spec.Hostname == "" {
		b.spec.Hostname = b.in.Name[:min(len(b.in.Name), 63)]
		if n.Mode == NetworkHost {
			b.spec.Hostname = b.in.Host.Hostname
		}
	}
	if len(b.spec.Hostname) > 64 || b.opts.Hostname != "" && !dnsName.MatchString(b.opts.Hostname) {
		return invalid("Hostname", "%q is not a host name", b.opts.Hostname)
	}
	if b.opts.Domainname != "" && !dnsName.MatchString(b.opts.Domainname) {
		return invalid("Domainname", "%q is not a domain name", b.opts.Domainname)
	}
	h := network.HostSettings{
		Hostname: b.spec.Hostname, Domainname: b.opts.Domainname,
		HostNetwork: n.Mode == NetworkHost,
		DNS:         network.Resolver{Servers: b.host.Dns, Search: b.host.DnsSearch, Options: b.host.DnsOptions},
	}
	for i, s := range b.host.Dns {
		if _, err := netip.ParseAddr(s); err != nil {
			return invalid(indexed("HostConfig.Dns", i), "%q is not an address", s)
		}
	}
	for i, s := range slices.Concat(b.host.DnsSearch, b.host.DnsOptions) {
		if s == "" || strings.ContainsAny(s, " \t\r\n") {
			return invalid("HostConfig.DnsSearch, DnsOptions", "entry %d: %q", i, s)
		}
	}
	for i, line := range b.host.ExtraHosts {
		name, addr, ok := strings.Cut(line, ":")
		_, bad := netip.ParseAddr(strings.Trim(addr, "[]"))
		if !ok || !dnsName.MatchString(name) || bad != nil && addr != "host-gateway" {
			return invalid(indexed("HostConfig.ExtraHosts", i), "%q is not name:address", line)
		}
	}
	h.Extra = slices.Clone(b.host.ExtraHosts)
	if n.Mode == NetworkBridge {
		if err := b.endpoint(endpoint, n, &h); err != nil {
			return err
		}
	}
	b.plan.Record.Hosts = h
	return b.ports(n)
}

// mode chooses between the module network, the host's and none. A NetworkMode
// decides over endpoints, because "host" is usually written in both places.
func (b *builder) mode(n *Network) (*createopts.Endpoint, error) {
	var endpoints map[string]*createopts.Endpoint
	if c := b.opts.NetworkingConfig; c != nil {
		endpoints = c.EndpointsConfig
	}
	named := func(name string) bool {
		return name == "" || name == "default" || name == "bridge" || name == b.in.Host.NetworkName
	}
	switch mode := b.host.NetworkMode; {
	case b.opts.NetworkDisabled, mode == "none":
		n.Mode = NetworkNone
		return nil, nil
	case mode == "host":
		n.Mode = NetworkHost
		for name := range endpoints {
			if name != "host" {
				b.warn("NetworkingConfig.EndpointsConfig."+name, "ignored: NetworkMode is host")
			}
		}
		return nil, nil
	case !named(mode):
		return nil, invalid("HostConfig.NetworkMode", "there is no network %q, only %s, host and none", mode, b.in.Host.NetworkName)
	}
	n.Mode = NetworkBridge
	var endpoint *createopts.Endpoint
	for _, name := range slices.Sorted(maps.Keys(endpoints)) {
		e := endpoints[name]
		switch {
		case (name == "host" || name == "none") && len(endpoints) == 1:
			n.Mode = NetworkMode(name)
			return nil, nil
		case !named(name):
			return nil, invalid("NetworkingConfig.EndpointsConfig."+name, "there is no such network, only %s, host and none", b.in.Host.NetworkName)
		case endpoint == nil:
			endpoint = e
		}
	}
	return endpoint, nil
}

func (b *builder) endpoint(e *createopts.Endpoint, n *Network, h *network.HostSettings) error {
	path := "NetworkingConfig.EndpointsConfig." + b.in.Host.NetworkName
	n.MAC = b.opts.MacAddress
	if e == nil {
		return nil
	}
	for i, alias := range e.Aliases {
		if !dnsName.MatchString(alias) {
			return invalid(indexed(path+".Aliases", i), "%q is not a host name", alias)
		}
		if alias != b.in.Name && !slices.Contains(h.Aliases, alias) {
			h.Aliases = append(h.Aliases, alias)
		}
	}
	if e.MacAddress != "" {
		n.MAC = e.MacAddress
	}
	if len(e.Links) > 0 {
		b.warn(path+".Links", "ignored: modules find each other by name")
	}
	if c := e.IPAMConfig; c != nil {
		if c.IPv4Address != "" {
			addr, err := netip.ParseAddr(c.IPv4Address)
			if err != nil || !addr.Is4() {
				return invalid(path+".IPAMConfig.IPv4Address", "%q is not an IPv4 address", c.IPv4Address)
			}
			n.Address = addr
		}
		if c.IPv6Address != "" {
			addr, err := netip.ParseAddr(c.IPv6Address)
			if err != nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" {
				return invalid(path+".IPAMConfig.IPv6Address", "%q is not an IPv6 address", c.IPv6Address)
			}
			// It counts when the network has IPv6 one day.
			if n.Address6 = addr; !b.in.Host.IPv6 {
				b.warn(path+".IPAMConfig.IPv6Address", "ignored: the module network has no IPv6")
			}
		}
	}
	return nil
}

// ports lists what is published. Without a network of its own a module has none.
func (b *builder) ports(n *Network) error {
	for _, spec := range slices.Sorted(maps.Keys(b.host.PortBindings)) {
		path := "HostConfig.PortBindings." + spec
		first, last, proto, err := parsePort(spec)
		if err != nil {
			return invalid(path, "%v", err)
		}
		for i, binding := range b.host.PortBindings[spec] {
			for c := first; c <= last; c++ {
				p := network.Port{Protocol: proto, Container: uint16(c)}
				if err := b.hostEnd(&p, binding, c-first, last-first); err != nil {
					return invalid(indexed(path, i), "%v", err)
				}
				n.Ports = append(n.Ports, p)
			}
		}
	}
	exposed := make(map[string]struct{})
	maps.Copy(exposed, b.in.Image.ExposedPorts)
	maps.Copy(exposed, b.opts.ExposedPorts)
	for _, spec := range slices.Sorted(maps.Keys(exposed)) {
		first, last, proto, err := parsePort(spec)
		if err != nil {
			return invalid("ExposedPorts."+spec, "%v", err)
		}
		for c := first; b.host.PublishAllPorts && c <= last; c++ {
			published := slices.ContainsFunc(n.Ports, func(p network.Port) bool {
				return p.Protocol == proto && int(p.Container) == c
			})
			if !published {
				n.Ports = append(n.Ports, network.Port{Protocol: proto, Container: uint16(c)})
			}
		}
	}
	if n.Mode != NetworkBridge && len(n.Ports) > 0 {
		b.warn("HostConfig.PortBindings", "ignored: the network is %s", n.Mode)
		n.Ports = nil
	}
	return nil
}

// hostEnd fills in the host's end for the i-th port of a range of n+1.
func (b *builder) hostEnd(p *network.Port, binding createopts.PortBinding, i, n int) error {
	if binding.HostIp != "" {
		addr, err := netip.ParseAddr(binding.HostIp)
		if err != nil {
			return fmt.Errorf("HostIp %q is not an address", binding.HostIp)
		}
		switch addr = addr.Unmap(); {
		case addr.Is6() && addr.IsLinkLocalUnicast():
			return fmt.Errorf("HostIp %s: ports are not published on addresses of one link", addr)
		case addr == netip.IPv6Loopback():
			return fmt.Errorf("HostIp %s: ports are not published on the loopback of IPv6; 127.0.0.1 and other addresses of the host can be named", addr)
		case addr.Is6() && !addr.IsUnspecified() && !b.in.Host.IPv6:
			return fmt.Errorf("HostIp %s: ports are published on IPv4 only, since the module network has no IPv6", addr)
		}
		p.HostIP = addr
	}
	if binding.HostPort == "" || binding.HostPort == "0" {
		return nil
	}
	first, last, err := parseRange(binding.HostPort)
	switch {
	case err != nil:
		return fmt.Errorf("HostPort %w", err)
	case n == 0: // one port, any of the range
		p.HostMin, p.HostMax = uint16(first), uint16(last)
	case last-first != n:
		return fmt.Errorf("HostPort %s has not as many ports as the module's", binding.HostPort)
	default:
		p.HostMin, p.HostMax = uint16(first+i), uint16(first+i)
	}
	return nil
}

// parsePort reads "80", "80/udp" or "80-90/tcp".
func parsePort(s string) (first, last int, proto string, err error) {
	ports, proto, _ := strings.Cut(s, "/")
	switch proto = strings.ToLower(proto); proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return 0, 0, "", fmt.Errorf("protocol %q", proto)
	}
	first, last, err = parseRange(ports)
	return first, last, proto, err
}

func parseRange(s string) (first, last int, err error) {
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	a, err1 := strconv.ParseUint(lo, 10, 16)
	z, err2 := strconv.ParseUint(hi, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || a > z {
		return 0, 0, fmt.Errorf("%q is not a port or a range of ports", s)
	}
	return int(a), int(z), nil
}
