package check

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleNet is the network as a process of a module sees it: its namespace, its
// hosts file and its resolver.
type moduleNet struct{ pid int }

// inNetwork says which modules to look at.
type inNetwork bool

// The networks that modules can be in.
const (
	inModuleNetwork inNetwork = false
	inHostNetwork   inNetwork = true
)

// findModuleNet chooses among running containers one that is in the module network, or
// in the host's, the agent if it may be.
func findModuleNet(running map[string]int, where inNetwork) (moduleNet, error) {
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return moduleNet{}, fmt.Errorf("network of this process: %w", err)
	}
	names := slices.Sorted(maps.Keys(running))
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == "edgeAgent":
			return -1
		case b == "edgeAgent":
			return 1
		}
		return 0
	})
	for _, name := range names {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", running[name]))
		if err == nil && inNetwork(ns == host) == where {
			return moduleNet{running[name]}, nil
		}
	}
	return moduleNet{}, ErrNoModule
}

// Dial connects to host:port from the module's network.
func (m moduleNet) Dial(ctx context.Context, host, port string) (net.Conn, error) {
	addr, err := m.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return m.dial(ctx, "tcp", net.JoinHostPort(addr.String(), port))
}

// lookup resolves as the module does: its hosts file first, then its servers.
func (m moduleNet) lookup(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr, nil
	}
	hosts, err := m.read("/etc/hosts")
	if err != nil {
		return netip.Addr{}, err
	}
	if addr, ok := fromHostsFile(hosts, host); ok {
		return addr, nil
	}
	conf, err := m.read("/etc/resolv.conf")
	if err != nil {
		return netip.Addr{}, err
	}
	servers := nameservers(conf)
	if len(servers) == 0 {
		return netip.Addr{}, fmt.Errorf("%s is not in the module's hosts file, and it has no name server", host)
	}
	next := 0
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		server := servers[next%len(servers)]
		next++
		return m.dial(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	// A name with a dot at its end is not completed by the host's search list.
	addrs, err := r.LookupNetIP(ctx, "ip4", strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("name servers of the modules: %w", err)
	}
	return addrs[0].Unmap(), nil
}

// read reads a file as the module sees it; a missing one is empty.
func (m moduleNet) read(path string) ([]byte, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", m.pid, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("module's %s: %w", path, err)
	}
	return text, nil
}

// fromHostsFile finds a name in the text of a hosts file.
func fromHostsFile(text []byte, host string) (netip.Addr, bool) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(n string) bool { return strings.EqualFold(n, host) }) {
			continue
		}
		if addr, err := netip.ParseAddr(fields[0]); err == nil {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// nameservers reads the text of a resolv.conf.
func nameservers(text []byte) (out []netip.Addr) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// dial connects, on a thread in the module's network namespace, to a numeric
// address.
func (m moduleNet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{err: err}
			return
		}
		defer home.Close()
		conn, err := m.visit(ctx, network, addr)
		// A thread that cannot go home stays locked and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// visit enters the namespace, where the thread stays, and connects.
func (m moduleNet) visit(ctx context.Context, network, addr string) (net.Conn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.pid))
	if err != nil {
		return nil, fmt.Errorf("module's network: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the module's network: %w", err)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}
