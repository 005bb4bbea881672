package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// procFiles is where the kernel tells of the network of this process.
const procFiles = "/proc"

// HostHasIPv6 fails if the host cannot have a module network with IPv6 on a bridge of the
// given name; "" is the usual one.
func HostHasIPv6(bridge string) error {
	if bridge == "" {
		bridge = defaultBridge
	}
	return hostHasIPv6(procFiles, bridge)
}

func hostHasIPv6(proc, bridge string) error {
	if _, err := os.Stat(filepath.Join(proc, "net/if_inet6")); errors.Is(err, fs.ErrNotExist) {
		return errors.New("moby_runtime.network.ipv6 is true, but the kernel of this host runs without IPv6")
	}
	// A new interface begins with the first; a bridge that is there has its own.
	for _, link := range []string{"default", bridge} {
		value, err := sysctl(proc, link, "disable_ipv6")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if value != "0" {
			return fmt.Errorf("moby_runtime.network.ipv6 is true, but the host has IPv6 disabled: sysctl net.ipv6.conf.%s.disable_ipv6 is %s, not 0", link, value)
		}
	}
	return nil
}

// forwardIPv6 lets the host forward packets of IPv6. A host that does takes its own default
// routes from the advertisements of routers only where it is told to: the interfaces that
// have such a route are told so first, or the host would lose it.
func forwardIPv6(proc string) error {
	if value, err := sysctl(proc, "all", "forwarding"); err != nil || value == "1" {
		return err
	}
	routes, err := os.ReadFile(filepath.Join(proc, "net/ipv6_route"))
	if err != nil {
		return fmt.Errorf("IPv6 routes of the host: %w", err)
	}
	for _, link := range advertised(string(routes)) {
		if value, err := sysctl(proc, link, "accept_ra"); err != nil || value != "1" {
			continue // the interface went away, or somebody has decided
		}
		if err := setSysctl(proc, link, "accept_ra", "2"); err != nil {
			return err
		}
	}
	return setSysctl(proc, "all", "forwarding", "1")
}

// advertised lists the interfaces with a default route that a router has advertised, by
// the text of /proc/net/ipv6_route: destination, its length, source, its length, next hop,
// metric, references, uses, flags, interface; all but the last are hexadecimal.
func advertised(routes string) []string {
	const fromRouter = 0x40000 // RTF_ADDRCONF
	var links []string
	for line := range strings.Lines(routes) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != "00" {
			continue
		}
		flags, err := strconv.ParseUint(f[8], 16, 32)
		if err == nil && flags&fromRouter != 0 {
			links = append(links, f[9])
		}
	}
	return links
}

func sysctlFile(proc, link, key string) string {
	return filepath.Join(proc, "sys/net/ipv6/conf", link, key)
}

func sysctl(proc, link, key string) (string, error) {
	data, err := os.ReadFile(sysctlFile(proc, link, key))
	if err != nil {
		return "", fmt.Errorf("sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func setSysctl(proc, link, key, value string) error {
	if err := os.WriteFile(sysctlFile(proc, link, key), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl net.ipv6.conf.%s.%s to %s: %w", link, key, value, err)
	}
	return nil
}
