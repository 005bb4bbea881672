package network

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strings"
)

// freeSubnet chooses a /24 that no route of this namespace covers.
func freeSubnet() (netip.Prefix, error) {
	table, err := os.ReadFile("/proc/self/net/route")
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("routes of the host: %w", err)
	}
	routes, err := parseRoutes(string(table))
	if err != nil {
		return netip.Prefix{}, err
	}
	return chooseSubnet(routes)
}

// chooseSubnet goes through 172.30.0.0/24 … 172.31.255.0/24, then 10.89.x.0/24.
func chooseSubnet(routes []netip.Prefix) (netip.Prefix, error) {
	for _, base := range [][2]byte{{172, 30}, {172, 31}, {10, 89}} {
		for third := range 256 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], byte(third), 0}), 24)
			free := true
			for _, r := range routes {
				free = free && (r.Bits() == 0 || !r.Overlaps(p))
			}
			if free {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, errors.New("no free subnet for the module network; name one in the configuration")
}

// parseRoutes reads /proc/net/route: columns Iface, Destination, Gateway, Flags,
// RefCnt, Use, Metric, Mask, …; addresses are hexadecimal in the machine's byte
// order.
func parseRoutes(table string) ([]netip.Prefix, error) {
	var routes []netip.Prefix
	for i, line := range strings.Split(strings.TrimSpace(table), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 8 {
			continue
		}
		dst, err1 := hexAddr(f[1])
		mask, err2 := hexAddr(f[7])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("routes of the host: line %d: %w", i+1, err)
		}
		ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(mask[:]))
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(dst), ones).Masked())
	}
	return routes, nil
}

func hexAddr(s string) ([4]byte, error) {
	var out [4]byte
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 4 {
		return out, fmt.Errorf("%q is not an address", s)
	}
	binary.NativeEndian.PutUint32(out[:], binary.BigEndian.Uint32(raw))
	return out, nil
}
