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
