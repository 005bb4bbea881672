package network

import "net/netip"

type Mapping = mapping

var (
	ParseRoutes   = parseRoutes
	ChooseSubnet  = chooseSubnet
	ChoosePorts   = choosePorts
	ProbePort     = probePort
	BuildConf     = buildConf
	ReadConf      = readConf
	HostHasIPv6At = hostHasIPv6
	ForwardIPv6   = forwardIPv6
	Advertised    = advertised
	UniqueLocal   = uniqueLocal
	Covers        = covers
)

func (r Resolver) Render(host string, hostNetwork bool) []byte { return r.render(host, hostNetwork) }

type Rules = rules

func NewRules(name, bridge string, subnet netip.Prefix) Rules { return rules{name, bridge, subnet} }

func (r rules) NAT() [][]string { return r.nat() }

func (r rules) Forward() [][]string { return r.forward() }

func (r rules) Chain() string { return r.chain() }

type Addresses = addresses

var (
	OpenAddresses = openAddresses
	MACOf         = macOf
)

const MaxPlaces = maxPlaces

func (a *addresses) Choose(name string, wish netip.Addr, r Range, taken map[netip.Addr]string) (netip.Addr, error) {
	return a.choose(name, wish, r, taken)
}

func (a *addresses) Keep(name string, now Pair) error { return a.keep(name, now) }

func (a *addresses) Release(gone func(string) bool) error { return a.release(gone) }

func (a *addresses) Len() int { return len(a.entries) }

func (r Range) Usable(addr netip.Addr) bool { return r.usable(addr) }

// Complete is what Open does with a range.
func (r Range) Complete() (Range, error) {
	err := r.complete(r.Subnet.Addr().Is4())
	return r, err
}
