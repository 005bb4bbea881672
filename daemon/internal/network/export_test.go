package network

import "net/netip"

type Mapping = mapping

var (
	ParseRoutes  = parseRoutes
	ChooseSubnet = chooseSubnet
	ChoosePorts  = choosePorts
	ProbePort    = probePort
	BuildConf    = buildConf
	ReadConf     = readConf
)

func (r Resolver) Render(host string, hostNetwork bool) []byte { return r.render(host, hostNetwork) }

type Rules = rules

func NewRules(name, bridge string, subnet netip.Prefix) Rules { return rules{name, bridge, subnet} }

func (r rules) Forward() [][]string { return r.forward() }

func (r rules) Chain() string { return r.chain() }

type Addresses = addresses

var (
	OpenAddresses = openAddresses
	Usable        = usable
	MACOf         = macOf
)

const MaxPlaces = maxPlaces

func (a *addresses) Choose(name string, wish netip.Addr, subnet netip.Prefix, taken map[netip.Addr]string) (netip.Addr, error) {
	return a.choose(name, wish, subnet, taken)
}

func (a *addresses) Keep(name string, addr netip.Addr) error { return a.keep(name, addr) }

func (a *addresses) Release(gone func(string) bool) error { return a.release(gone) }

func (a *addresses) Len() int { return len(a.entries) }
