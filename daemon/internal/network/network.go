// Package network joins modules to the module network: a bridge with addresses
// from a private subnet, masquerading to the outside, published ports, and names
// by a hosts file per module. It drives the CNI plugins bridge, host-local,
// portmap and, where installed, firewall.
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
)

// Config describes the module network. Zero fields get defaults.
type Config struct {
	// Name is what deployments call the network: azure-iot-edge.
	Name string
	// Bridge is the interface, at most 15 characters: "bw-edge0".
	Bridge string
	// Subnet is an IPv4 range of at least a /30. Invalid (zero) means to choose a
	// private /24 that does not clash with the host's routes, and to keep it.
	Subnet netip.Prefix
	// Dir is the daemon's directory for network state; required, absolute.
	Dir string
	// PluginDirs are searched in order.
	PluginDirs []string
	Log        *slog.Logger
}

// DefaultName is the network that deployments and the agent expect.
const DefaultName = "azure-iot-edge"

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
	rules rules
	addrs *addresses
	// turn holds a token while a change is made.
	turn chan struct{}
}

// Attachment is what a module asks of the network.
type Attachment struct {
	// ID is the container, NetNS the path of its network namespace.
	ID    string
	NetNS string
	// Address and MAC are optional wishes.
	Address netip.Addr
	MAC     string
	Ports   []Port
}

var linkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

// Open sets the network up. What an earlier run left is taken over; if it was
// configured otherwise, it is torn down first.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	if cfg.Bridge == "" {
		cfg.Bridge = "bw-edge0"
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

// configure chooses the subnet, replaces a differing older network, and writes
// the configuration.
func (n *Network) configure(ctx context.Context) error {
	old, err := os.ReadFile(n.confFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network configuration: %w", err)
	}
	oldBridge, oldSubnet := readConf(old)
	if !n.cfg.Subnet.IsValid() && oldSubnet.IsValid() && oldBridge == n.cfg.Bridge {
		n.cfg.Subnet = oldSubnet
	}
	if !n.cfg.Subnet.IsValid() {
		if n.cfg.Subnet, err = freeSubnet(); err != nil {
			return err
		}
	}
	n.cfg.Subnet = n.cfg.Subnet.Masked()
	if !n.cfg.Subnet.Addr().Is4() || n.cfg.Subnet.Bits() > 30 || n.cfg.Subnet.Bits() < 8 {
		return fmt.Errorf("subnet %s: want an IPv4 range between /8 and /30", n.cfg.Subnet)
	}
	conf, err := buildConf(n.cfg, n.leaseDir())
	if err != nil {
		return err
	}
	if oldSubnet.IsValid() && (oldBridge != n.cfg.Bridge || oldSubnet != n.cfg.Subnet) {
		if err := n.tearDown(ctx, oldBridge, oldSubnet); err != nil {
			return fmt.Errorf("remove the network's former shape: %w", err)
		}
	}
	if !bytes.Equal(old, conf) {
		if err := replaceFile(n.confFile(), conf); err != nil {
			return fmt.Errorf("network configuration: %w", err)
		}
	}
	if n.list, err = libcni.NetworkConfFromBytes(conf); err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	n.rules = rules{name: n.cfg.Name, bridge: n.cfg.Bridge, subnet: n.cfg.Subnet}
	return n.rules.ensure(ctx)
}

// Name is the network's name.
func (n *Network) Name() string { return n.cfg.Name }

// Gateway is the host's address in the network.
func (n *Network) Gateway() netip.Addr { return n.cfg.Subnet.Addr().Next() }

// Subnet is the range of the modules' addresses.
func (n *Network) Subnet() netip.Prefix { return n.cfg.Subnet }

func (n *Network) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case n.turn <- struct{}{}:
		return func() { <-n.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Attach joins a container and returns its address: the wished one, else the one that a
// container of this ID had before, unless it has become another's. On failure nothing is
// left. A host port that is taken is an *PortError, an address an *AddressError.
func (n *Network) Attach(ctx context.Context, a Attachment) (netip.Addr, error) {
	unlock, err := n.lock(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unlock()
	if err := n.detach(ctx, a.ID); err != nil { // what a crash left
		return netip.Addr{}, err
	}
	used, err := n.publishedPorts()
	if err != nil {
		return netip.Addr{}, err
	}
	ports, err := choosePorts(a.Ports, used, probePort)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := n.rules.ensure(ctx); err != nil {
		return netip.Addr{}, err
	}
	taken, err := n.leases()
	if err != nil {
		return netip.Addr{}, err
	}
	if a.Address, err = n.addrs.choose(a.ID, a.Address, n.cfg.Subnet, taken); err != nil {
		return netip.Addr{}, err
	}
	rt := n.runtimeConf(a, ports)
	result, err := n.cni.AddNetworkList(ctx, n.list, rt)
	if err != nil {
		undo := n.cni.DelNetworkList(context.WithoutCancel(ctx), n.list, rt)
		return netip.Addr{}, errors.Join(fmt.Errorf("join network %s: %w", n.cfg.Name, err), undo)
	}
	addr, err := address(result)
	if err == nil && addr != a.Address {
		err = fmt.Errorf("join network %s: got address %s instead of %s", n.cfg.Name, addr, a.Address)
	}
	if err != nil {
		return netip.Addr{}, errors.Join(err, n.detach(context.WithoutCancel(ctx), a.ID))
	}
	if err := n.addrs.keep(a.ID, addr); err != nil {
		n.cfg.Log.WarnContext(ctx, "a module may get another address at its next start", "module", a.ID, "error", err)
	}
	return addr, nil
}

// runtimeConf asks the plugins for the chosen address and ports.
func (n *Network) runtimeConf(a Attachment, ports []mapping) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: a.ID, NetNS: a.NetNS, IfName: IfName,
		CapabilityArgs: map[string]any{"portMappings": ports},
	}
	if len(ports) == 0 {
		rt.CapabilityArgs = nil
	}
	if a.MAC == "" {
		a.MAC = macOf(a.Address)
	}
	rt.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", a.Address.String()}, {"MAC", a.MAC}}
	return rt
}

func address(result types.Result) (netip.Addr, error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("network result: %w", err)
	}
	for _, ip := range r.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok && addr.Unmap().Is4() {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, errors.New("network result has no IPv4 address")
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
	return errors.Join(n.tearDown(ctx, n.cfg.Bridge, n.cfg.Subnet), os.RemoveAll(n.cfg.Dir))
}

func (n *Network) tearDown(ctx context.Context, bridge string, subnet netip.Prefix) error {
	attachments, err := n.cni.GetCachedAttachments("")
	errs := []error{err}
	for _, a := range attachments {
		errs = append(errs, n.detach(ctx, a.ContainerID))
	}
	errs = append(errs,
		rules{name: n.cfg.Name, bridge: bridge, subnet: subnet}.remove(ctx),
		deleteLink(bridge),
		os.RemoveAll(n.leaseDir()))
	return errors.Join(errs...)
}
