package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Resolver is a module's wishes for its resolv.conf; empty fields are the host's.
type Resolver struct {
	Servers, Search, Options []string
}

// file returns the content of the module's resolv.conf.
func (r Resolver) file(hostNetwork bool) ([]byte, error) {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("resolv.conf of the host: %w", err)
	}
	if !hostNetwork && noneReachable(string(data)) {
		// A local caching resolver cannot be reached from the module; systemd's
		// keeps the servers behind it here.
		if behind, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			data = behind
		}
	}
	return r.render(string(data), hostNetwork), nil
}

func (r Resolver) render(host string, hostNetwork bool) []byte {
	var servers, search, options, rest []string
	for line := range strings.Lines(host) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			if hostNetwork || reachable(f[1]) {
				servers = append(servers, f[1])
			}
		case "search", "domain":
			search = f[1:]
		case "options":
			options = append(options, f[1:]...)
		default:
			rest = append(rest, strings.Join(f, " "))
		}
	}
	if len(r.Servers) > 0 {
		servers = r.Servers
	}
	if len(r.Search) > 0 {
		search = r.Search
	}
	if len(r.Options) > 0 {
		options = r.Options
	}
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 && (len(search) > 1 || search[0] != ".") {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	for _, line := range rest {
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}

// reachable is false for the servers that only the host itself has: those on its loopback,
// and those on one of its links, which is not one of a module.
func reachable(server string) bool {
	addr, err := netip.ParseAddr(server)
	return err != nil || !addr.IsLoopback() && !(addr.Is6() && addr.IsLinkLocalUnicast())
}

func noneReachable(conf string) bool {
	for line := range strings.Lines(conf) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" && reachable(f[1]) {
			return false
		}
	}
	return true
}

// ModuleResolv returns the resolv.conf of a module in the module network that has no
// wishes of its own.
func ModuleResolv() ([]byte, error) { return Resolver{}.file(false) }
