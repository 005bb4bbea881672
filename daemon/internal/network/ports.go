package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// Port publishes one port of a module on the host.
type Port struct {
	Protocol  string // tcp, udp or sctp
	Container uint16
	// HostIP limits the port to one address of the host, or with 0.0.0.0 and :: to those
	// of one family; invalid is all.
	HostIP netip.Addr
	// HostMin to HostMax are the host ports of which one is taken; 0, 0 is any.
	HostMin, HostMax uint16
}

// PortError is a host port that cannot be had.
type PortError struct {
	Port string // "443/tcp"
	By   string // the module that has it, if one has
	Err  error
}

func (e *PortError) Error() string {
	if e.By != "" {
		return fmt.Sprintf("host port %s is taken by module %s", e.Port, e.By)
	}
	return fmt.Sprintf("host port %s: %v", e.Port, e.Err)
}

// Unwrap returns the cause.
func (e *PortError) Unwrap() error { return e.Err }

// mapping is one entry of the portmap plugin's runtime configuration.
type mapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func (m mapping) clashes(o mapping) bool {
	return m.HostPort == o.HostPort && m.Protocol == o.Protocol && sameHostIP(m.HostIP, o.HostIP)
}

// sameHostIP reports whether two addresses of mappings have one of the host in common.
func sameHostIP(a, b string) bool {
	if a == b || a == "" || b == "" {
		return true
	}
	x, err1 := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	if err := errors.Join(err1, err2); err != nil {
		return false
	}
	return x.Is4() == y.Is4() && (x.IsUnspecified() || y.IsUnspecified())
}

// placeOf decides for one wanted port which addresses of the host it takes, as the plugin
// is told and to be asked for. In a network without IPv6 the addresses of one family are
// all.
func placeOf(w Port, ipv6 bool) (hostIP string, ask []netip.Addr, err error) {
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	all := !w.HostIP.IsValid()
	if !ipv6 {
		all = all || w.HostIP.IsUnspecified()
		v6 = netip.Addr{}
	}
	switch {
	case all:
		return "", Pair{v4, v6}.All(), nil
	case w.HostIP.Is6() && !ipv6:
		return "", nil, fmt.Errorf("cannot be published on %s: the module network has no IPv6", w.HostIP)
	}
	return w.HostIP.String(), []netip.Addr{w.HostIP}, nil
}

// publishedPorts returns what attached modules have published, by module.
func (n *Network) publishedPorts() (map[string][]mapping, error) {
	attachments, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("network attachments: %w", err)
	}
	used := make(map[string][]mapping)
	for _, a := range attachments {
		data, err := json.Marshal(a.CapabilityArgs["portMappings"])
		if err != nil {
			return nil, fmt.Errorf("published ports of %s: %w", a.ContainerID, err)
		}
		var ports []mapping
		if err := json.Unmarshal(data, &ports); err != nil {
			return nil, fmt.Errorf("published ports of %s: %w", a.ContainerID, err)
		}
		used[a.ContainerID] = append(used[a.ContainerID], ports...)
	}
	return used, nil
}

// prober asks the host whether a port of one address is free; port 0 returns any that is.
type prober func(proto string, ip netip.Addr, port uint16) (uint16, error)

// choosePorts picks a host port for each wanted one. A port is free when no module has it
// and probe says so.
func choosePorts(want []Port, ipv6 bool, used map[string][]mapping, probe prober) ([]mapping, error) {
	var chosen []mapping
	holder := func(m mapping) string {
		for id, ports := range used {
			for _, p := range ports {
				if m.clashes(p) {
					return id
				}
			}
		}
		for _, p := range chosen {
			if m.clashes(p) {
				return "itself"
			}
		}
		return ""
	}
	for _, w := range want {
		hostIP, ask, err := placeOf(w, ipv6)
		if err != nil {
			return nil, &PortError{Port: fmt.Sprintf("%d/%s", w.HostMin, w.Protocol), Err: err}
		}
		m := mapping{ContainerPort: w.Container, Protocol: w.Protocol, HostIP: hostIP}
		var last error
		found := false
		for port := int(w.HostMin); port <= int(w.HostMax) && !found; port++ {
			m.HostPort = uint16(port)
			name := fmt.Sprintf("%d/%s", port, w.Protocol)
			if by := holder(m); port != 0 && by != "" {
				last = &PortError{Port: name, By: by}
				continue
			}
			got, err := probeAll(probe, w.Protocol, ask, m.HostPort)
			// Any port: the kernel does not know of those that modules published.
			for try := 0; err == nil && port == 0 && try < 100; try++ {
				if m.HostPort = got; holder(m) == "" {
					break
				}
				got, err = probeAll(probe, w.Protocol, ask, 0)
			}
			if err != nil {
				last = &PortError{Port: name, Err: err}
				continue
			}
			m.HostPort = got
			found = true
		}
		if !found {
			return nil, last
		}
		chosen = append(chosen, m)
	}
	return chosen, nil
}

// probeAll finds a port that is free at each of the addresses.
func probeAll(probe prober, proto string, at []netip.Addr, port uint16) (uint16, error) {
	const tries = 100 // that any port of the first address is free at the others
	var got uint16
	var err error
	for range tries {
		if got, err = probe(proto, at[0], port); err != nil {
			return 0, err
		}
		for _, ip := range at[1:] {
			if err == nil {
				_, err = probe(proto, ip, got)
			}
		}
		if err == nil || port != 0 {
			break
		}
	}
	return got, err
}

// probePort asks the kernel whether a port is free by taking it for a moment. A
// published port has no listener of its own, but one of the host would be cut off
// by it without notice.
func probePort(proto string, ip netip.Addr, port uint16) (uint16, error) {
	addr, family := net.JoinHostPort(ip.String(), strconv.Itoa(int(port))), "4"
	if ip.Is6() {
		family = "6"
	}
	var err error
	var local net.Addr
	switch proto {
	case "udp":
		var c net.PacketConn
		if c, err = net.ListenPacket("udp"+family, addr); err == nil {
			local, err = c.LocalAddr(), c.Close()
		}
	default: // the port numbers of sctp are as good a guess as any
		// Without SO_REUSEADDR nothing changes: Go sets it, and a listener of
		// another program still makes this fail.
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp"+family, addr); err == nil {
			local, err = l.Addr(), l.Close()
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return 0, errors.New("in use on the host")
	}
	if err != nil {
		return 0, err
	}
	ap, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return 0, err
	}
	return ap.Port(), nil
}
