// Package network joins modules to the module network: a bridge with addresses
// from a private subnet, if so configured also one of IPv6, masquerading to the
// outside, published ports, and names by a hosts file per module. It drives the CNI
// plugins bridge, host-local, portmap and, where installed, firewall.
//
// Everything happens in the network namespace of the daemon's own process, which
// need not be the host's. All files are below one directory of the daemon's, so
// nothing of another CNI user is read or written.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// Config describes the module network. Zero fields get defaults.
type Config struct {
	// Name is what deployments call the network: azure-iot-edge.
	Name string
	// Bridge is the interface, at most 15 characters: "bw-edge0".
	Bridge string
	// V4 are the IPv4 addresses, at least a /30. Without a subnet a private /24 that
	// does not clash with the host's routes is chosen and kept.
	V4 Range
	// IPv6 gives modules an IPv6 address as well.
	IPv6 bool
	// V6 are the IPv6 addresses, at least a /126; of no meaning unless IPv6 is set.
	// Without a subnet a unique local /64 is chosen and kept.
	V6 Range
	// Dir is the daemon's directory for network state; required, absolute.
	Dir string
	// PluginDirs are searched in order.
	PluginDirs []string
	Log        *slog.Logger
}

// DefaultName is the network that deployments and the agent expect.
const DefaultName = "azure-iot-edge"

const defaultBridge = "bw-edge0"

// DefaultPluginDirs is where distributions install the plugins.
var DefaultPluginDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// IfName is the interface inside a module.
const IfName = "eth0"

// Network is the module network. Its methods may be called concurrently; changes
// are made one after the other.
type Network struct {
	cfg   Config
	cni   *libcni.CNIConfig
	list  *libcni.NetworkConfigList
	rules []rules // of each family that the network has
	addrs *addresses
	// turn holds a token while a change is made.
	turn chan struct{}
}

// Attachment is what a module asks of the network.
type Attachment struct {
	// ID is the container, NetNS the path of its network namespace.
	ID    string
	NetNS string
	// Wish are addresses to have, and MAC is one of the hardware; all may be missing.
	// One of IPv6 counts for nothing in a network without.
	Wish  Pair
	MAC   string
	Ports []Port
}

// Pair is an address of each family; invalid is none.
type Pair struct{ V4, V6 netip.Addr }

// Range is the addresses of one family.
type Range struct {
	// Subnet is where all of them lie.
	Subnet netip.Prefix
	// Gateway is the host's; invalid is the first of Subnet.
	Gateway netip.Addr
	// Pool is the part of Subnet from which modules have addresses that ask for none;
	// invalid is all of it.
	Pool netip.Prefix
}

var linkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

// Open sets the network up. What an earlier run left is taken over; if it was
// configured otherwise, it is torn down first.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	if cfg.Bridge == "" {
		cfg.Bridge = defaultBridge
	}
	if len(cfg.PluginDirs) == 0 {
		cfg.PluginDirs = DefaultPluginDirs
	}
	if !linkName.MatchString(cfg.Bridge) {
		return nil, fmt.Errorf("bridge name %q: want 1 to 15 letters, digits, '.', '_' or '-'", cfg.Bridge)
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("network directory %q is not absolute", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("network directory: %w", err)
	}
	if err := CheckPlugins(cfg.PluginDirs); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{cfg: cfg, turn: make(chan struct{}, 1)}
	n.cni = libcni.NewCNIConfigWithCacheDir(cfg.PluginDirs, filepath.Join(cfg.Dir, "cache"), nil)
	if err := n.configure(ctx); err != nil {
		return nil, err
	}
	var err error
	if n.addrs, err = openAddresses(filepath.Join(cfg.Dir, "addresses.json")); err != nil {
		cfg.Log.Warn("modules may get other addresses than before", "error", err)
	}
	return n, nil
}

func (n *Network) confFile() string { return filepath.Join(n.cfg.Dir, "modules.conflist") }
func (n *Network) leaseDir() string { return filepath.Join(n.cfg.Dir, "leases") }

// configure chooses the subnets, replaces a differing older network, and writes
// the configuration.
func (n *Network) configure(ctx context.Context) error {
	data, err := os.ReadFile(n.confFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network configuration: %w", err)
	}
	old := readConf(data)
	if n.cfg.IPv6 {
		if err := hostHasIPv6(procFiles, n.cfg.Bridge); err != nil {
			return err
		}
	} else {
		n.cfg.V6 = Range{}
	}
	if err := n.chooseRanges(old); err != nil {
		return err
	}
	conf, err := buildConf(n.cfg, n.leaseDir())
	if err != nil {
		return err
	}
	if old.Bridge != "" && old != n.Shape() {
		if err := n.tearDown(ctx, old); err != nil {
			return fmt.Errorf("remove the network's former shape: %w", err)
		}
	}
	if !bytes.Equal(data, conf) {
		if err := atomicfile.Write(n.confFile(), conf, 0o600); err != nil {
			return fmt.Errorf("network configuration: %w", err)
		}
	}
	if n.list, err = libcni.NetworkConfFromBytes(conf); err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	n.rules = rulesOf(n.Shape())
	return n.ensure(ctx)
}

// chooseRanges completes the ranges. A subnet that is not configured is the former one.
func (n *Network) chooseRanges(old Shape) (err error) {
	v4, v6 := &n.cfg.V4, &n.cfg.V6
	same := old.Bridge == n.cfg.Bridge
	if !v4.Subnet.IsValid() && same {
		v4.Subnet = old.V4.Subnet
	}
	if !v4.Subnet.IsValid() {
		if v4.Subnet, err = freeSubnet(); err != nil {
			return err
		}
	}
	if err := v4.complete(true); err != nil || !n.cfg.IPv6 {
		return err
	}
	if !v6.Subnet.IsValid() && same {
		v6.Subnet = old.V6.Subnet
	}
	if !v6.Subnet.IsValid() {
		if v6.Subnet, err = uniqueLocal(); err != nil {
			return err
		}
	}
	if err := v6.complete(false); err != nil {
		return err
	}
	return clashesWithHost(v6.Subnet, n.cfg.Bridge)
}

// ensure puts in place what the network needs of the host.
func (n *Network) ensure(ctx context.Context) error {
	for _, r := range n.rules {
		if err := r.ensure(ctx); err != nil {
			return err
		}
	}
	if !n.cfg.IPv6 {
		return nil
	}
	return errors.Join(forwardIPv6(procFiles), makeBridge(ctx, n.cfg.Bridge))
}

// Name is the network's name.
func (n *Network) Name() string { return n.cfg.Name }

// Shape tells how the network is made.
func (n *Network) Shape() Shape {
	return Shape{Name: n.cfg.Name, Bridge: n.cfg.Bridge, V4: n.cfg.V4.fixed(), V6: n.cfg.V6.fixed()}
}

// Gateway are the host's addresses in the network.
func (n *Network) Gateway() Pair { return Pair{n.cfg.V4.Gateway, n.cfg.V6.Gateway} }

func (n *Network) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case n.turn <- struct{}{}:
		return func() { <-n.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Attach joins a container and returns its addresses: the wished ones, else those that a
// container of this ID had before, unless they have become another's. On failure nothing
// is left. A host port that is taken is an *PortError, an address an *AddressError.
func (n *Network) Attach(ctx context.Context, a Attachment) (Pair, error) {
	unlock, err := n.lock(ctx)
	if err != nil {
		return Pair{}, err
	}
	defer unlock()
	if err := n.detach(ctx, a.ID); err != nil { // what a crash left
		return Pair{}, err
	}
	used, err := n.publishedPorts()
	if err != nil {
		return Pair{}, err
	}
	ports, err := choosePorts(a.Ports, n.cfg.IPv6, used, probePort)
	if err != nil {
		return Pair{}, err
	}
	if err := n.ensure(ctx); err != nil {
		return Pair{}, err
	}
	chosen, err := n.choose(a)
	if err != nil {
		return Pair{}, err
	}
	rt := n.runtimeConf(a, chosen, ports)
	result, err := n.cni.AddNetworkList(ctx, n.list, rt)
	if err != nil {
		undo := n.cni.DelNetworkList(context.WithoutCancel(ctx), n.list, rt)
		return Pair{}, errors.Join(fmt.Errorf("join network %s: %w", n.cfg.Name, err), undo)
	}
	got, err := pairOf(result)
	if err == nil && got != chosen {
		err = fmt.Errorf("join network %s: got addresses %s instead of %s", n.cfg.Name, got, chosen)
	}
	if err != nil {
		return Pair{}, errors.Join(err, n.detach(context.WithoutCancel(ctx), a.ID))
	}
	if err := n.addrs.keep(a.ID, got); err != nil {
		n.cfg.Log.WarnContext(ctx, "a module may get another address at its next start", "module", a.ID, "error", err)
	}
	return got, nil
}

// choose finds an address of each family that the network has.
func (n *Network) choose(a Attachment) (p Pair, err error) {
	taken, err := n.leases()
	if err != nil {
		return Pair{}, err
	}
	if p.V4, err = n.addrs.choose(a.ID, a.Wish.V4, n.cfg.V4, taken); err != nil {
		return Pair{}, err
	}
	if n.cfg.IPv6 {
		p.V6, err = n.addrs.choose(a.ID, a.Wish.V6, n.cfg.V6, taken)
	}
	return p, err
}

// runtimeConf asks the plugins for the chosen addresses and ports.
func (n *Network) runtimeConf(a Attachment, chosen Pair, ports []mapping) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: a.ID, NetNS: a.NetNS, IfName: IfName}
	ask := func(capability string, value any) {
		if rt.CapabilityArgs == nil {
			rt.CapabilityArgs = make(map[string]any)
		}
		rt.CapabilityArgs[capability] = value
	}
	if len(ports) > 0 {
		ask("portMappings", ports)
	}
	if chosen.V6.IsValid() {
		ask("ips", []string{chosen.V6.String()})
	}
	if a.MAC == "" {
		a.MAC = macOf(chosen.V4)
	}
	rt.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", chosen.V4.String()}, {"MAC", a.MAC}}
	return rt
}

func pairOf(result types.Result) (p Pair, err error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return Pair{}, fmt.Errorf("network result: %w", err)
	}
	for _, ip := range r.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			p = p.with(addr.Unmap())
		}
	}
	return p, nil
}

// Detach takes back a container's address and ports. It works after the
// container's namespace has gone and for one that was never attached.
func (n *Network) Detach(ctx context.Context, id string) error {
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return n.detach(ctx, id)
}

func (n *Network) detach(ctx context.Context, id string) error {
	attachments, err := n.cni.GetCachedAttachments(id)
	if err != nil {
		return fmt.Errorf("network attachments: %w", err)
	}
	for _, a := range attachments {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			list = n.list
		}
		if list == nil {
			return fmt.Errorf("leave network of %s: unreadable attachment", id)
		}
		rt := &libcni.RuntimeConf{
			ContainerID: a.ContainerID, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs,
		}
		if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
			return fmt.Errorf("leave network %s: %w", list.Name, err)
		}
	}
	return nil
}

// Joined reports whether a container is in the network. One that runs and is not has been
// cut off: the network was made anew since it started.
func (n *Network) Joined(id string) (bool, error) {
	attachments, err := n.cni.GetCachedAttachments(id)
	if err != nil {
		return false, fmt.Errorf("network attachments: %w", err)
	}
	return len(attachments) > 0, nil
}

// Release lets others have the addresses of modules that do not exist any more: those
// for which gone is true. It is for modules that are detached. A module that is made
// anew with such a name gets its former address if nobody has it by then.
func (n *Network) Release(gone func(id string) bool) error { return n.addrs.release(gone) }

// Reclaim detaches every container that is not in use any more: addresses and
// ports that stayed reserved over a crash or a restart of the machine. stopped
// names containers whose joining may have been cut short; unknown ones are found.
func (n *Network) Reclaim(ctx context.Context, running func(id string) bool, stopped []string) error {
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	attachments, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("network attachments: %w", err)
	}
	var errs []error
	for _, a := range attachments {
		if !running(a.ContainerID) {
			errs = append(errs, n.detach(ctx, a.ContainerID))
		}
	}
	for _, id := range stopped {
		rt := &libcni.RuntimeConf{ContainerID: id, IfName: IfName}
		errs = append(errs, n.cni.DelNetworkList(ctx, n.list, rt))
	}
	errs = append(errs, n.reclaimLeases(running))
	return errors.Join(errs...)
}

// TearDown removes the network from the machine: attachments, rules, bridge and
// files. The Network must not be used afterwards.
func (n *Network) TearDown(ctx context.Context) error {
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return errors.Join(n.tearDown(ctx, n.Shape()), os.RemoveAll(n.cfg.Dir))
}

func (n *Network) tearDown(ctx context.Context, s Shape) error {
	attachments, err := n.cni.GetCachedAttachments("")
	errs := []error{err}
	for _, a := range attachments {
		errs = append(errs, n.detach(ctx, a.ContainerID))
	}
	for _, r := range rulesOf(s) {
		errs = append(errs, r.remove(ctx))
	}
	errs = append(errs, deleteLink(s.Bridge), os.RemoveAll(n.leaseDir()))
	return errors.Join(errs...)
}
