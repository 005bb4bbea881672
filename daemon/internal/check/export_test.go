package check

import (
	"context"
	"net"
	"net/netip"
)

// The networks to look in.
const (
	InModuleNetwork = inModuleNetwork
	InHostNetwork   = inHostNetwork
)

// Lookup finds a name in a hosts file or by servers, as a module does.
func Lookup(ctx context.Context, host, hosts string, servers []netip.Addr, dial func(ctx context.Context, network, addr string) (net.Conn, error)) ([]netip.Addr, error) {
	return names{[]byte(hosts), servers, dial}.lookup(ctx, host)
}

// Parts that tests reach.
var (
	ClockOffset   = clockOffset
	OffsetOf      = offsetOf
	Nameservers   = nameservers
	FindModuleNet = findModuleNet
	OnHostMount   = onHostMount
	StorageFolder = storageFolder
	Environ       = environ
)
