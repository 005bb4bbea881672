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
	"sync/atomic"

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

// Dial connects to host:port from the module's network, at the first address of the host
// that lets it.
func (m moduleNet) Dial(ctx context.Context, host, port string) (net.Conn, error) {
	addrs, err := m.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range addrs {
		conn, err := m.dial(ctx, "tcp", net.JoinHostPort(addr.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// lookup resolves as the module does; see names.
func (m moduleNet) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	hosts, err := m.read("/etc/hosts")
	if err != nil {
		return nil, err
	}
	conf, err := m.read("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	return names{hosts, nameservers(conf), m.dial}.lookup(ctx, host)
}

// names is where a module looks names up: its hosts file first, then its servers, which
// dial connects to.
type names struct {
	hosts   []byte
	servers []netip.Addr
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
}

// lookup returns the addresses of a host, at least one, those of IPv4 first.
func (n names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	if addrs := fromHostsFile(n.hosts, host); len(addrs) > 0 {
		return addrs, nil
	}
	if len(n.servers) == 0 {
		return nil, fmt.Errorf("%s is not in the module's hosts file, and it has no name server", host)
	}
	var asked atomic.Uint32 // each family is asked for by a goroutine of its own
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		server := n.servers[int(asked.Add(1)-1)%len(n.servers)]
		return n.dial(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	// A name with a dot at its end is not completed by the host's search list.
	addrs, err := r.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return nil, fmt.Errorf("name servers of the modules: %w", err)
	}
	return bothFamilies(addrs), nil
}

// bothFamilies puts the addresses of IPv4 first: nearly every module has one.
func bothFamilies(addrs []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return append(v4, v6...)
}

// read reads a file as the module sees it; a missing one is empty.
func (m moduleNet) read(path string) ([]byte, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", m.pid, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("module's %s: %w", path, err)
	}
	return text, nil
}

// fromHostsFile finds the addresses of a name in the text of a hosts file.
func fromHostsFile(text []byte, host string) []netip.Addr {
	var found []netip.Addr
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(n string) bool { return strings.EqualFold(n, host) }) {
			continue
		}
		if addr, err := netip.ParseAddr(fields[0]); err == nil {
			found = append(found, addr)
		}
	}
	return bothFamilies(found)
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
