package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// cniVersion is the oldest version that hands the result of ADD to DEL, which the
// firewall plugin needs; every plugin release of the last years speaks it.
const cniVersion = "0.4.0"

// confName is the file of the configuration.
const confName = "modules.conflist"

type confList struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

type bridgeConf struct {
	Type        string   `json:"type"`
	Bridge      string   `json:"bridge"`
	IsGateway   bool     `json:"isGateway"`
	IPMasq      bool     `json:"ipMasq"`
	HairpinMode bool     `json:"hairpinMode"`
	IPAM        ipamConf `json:"ipam"`
	// Capabilities ask for what of an attachment is for this plugin.
	Capabilities map[string]bool `json:"capabilities,omitempty"`
}

type ipamConf struct {
	Type    string        `json:"type"`
	Ranges  [][]ipamRange `json:"ranges"`
	Routes  []ipamRoute   `json:"routes"`
	DataDir string        `json:"dataDir"`
}

type ipamRange struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

type ipamRoute struct {
	Dst netip.Prefix `json:"dst"`
}

type portmapConf struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	SNAT         bool            `json:"snat"`
}

type firewallConf struct {
	Type string `json:"type"`
}

// buildConf writes the plugin chain. Masquerading is not left to the bridge
// plugin: its rules are per container and stay behind when the namespace is gone
// before it is called.
func buildConf(cfg Config, leases string) ([]byte, error) {
	bridge := bridgeConf{
		Type: "bridge", Bridge: cfg.Bridge, IsGateway: true, HairpinMode: true,
		IPAM: ipamConf{
			Type:    "host-local",
			Ranges:  [][]ipamRange{{{Subnet: cfg.V4.Subnet, Gateway: cfg.V4.Gateway}}},
			Routes:  []ipamRoute{{Dst: netip.MustParsePrefix("0.0.0.0/0")}},
			DataDir: leases,
		},
	}
	if cfg.IPv6 {
		// The plugin takes one address from the arguments of an attachment, and others
		// from this capability.
		bridge.Capabilities = map[string]bool{"ips": true}
		bridge.IPAM.Ranges = append(bridge.IPAM.Ranges, []ipamRange{{Subnet: cfg.V6.Subnet, Gateway: cfg.V6.Gateway}})
		bridge.IPAM.Routes = append(bridge.IPAM.Routes, ipamRoute{Dst: netip.MustParsePrefix("::/0")})
	}
	list := confList{CNIVersion: cniVersion, Name: cfg.Name, Plugins: []any{
		bridge,
		portmapConf{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}, SNAT: true},
	}}
	if findPlugin(cfg.PluginDirs, "firewall") {
		list.Plugins = append(list.Plugins, firewallConf{Type: "firewall"})
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return data, nil
}

// Shape is what cannot be changed without making the network anew. The pools are not
// part of it. V6 is zero in a network without.
type Shape struct {
	Name, Bridge string
	V4, V6       Range
}

// Dir is where a daemon with that home directory keeps the state of its network.
func Dir(home string) string { return filepath.Join(home, "cni") }

// ReadShape reads how the network was last made in a daemon's directory of network state.
// The error is fs.ErrNotExist if it was not yet.
func ReadShape(dir string) (Shape, error) {
	data, err := os.ReadFile(filepath.Join(dir, confName))
	if err != nil {
		return Shape{}, err
	}
	s := readConf(data)
	if s.Bridge == "" {
		return Shape{}, fmt.Errorf("%s is damaged", filepath.Join(dir, confName))
	}
	return s, nil
}

// readConf finds the shape in a configuration that buildConf wrote; zero in others.
func readConf(data []byte) (s Shape) {
	var list struct {
		Name    string       `json:"name"`
		Plugins []bridgeConf `json:"plugins"`
	}
	if json.Unmarshal(data, &list) != nil || len(list.Plugins) == 0 {
		return Shape{}
	}
	b := list.Plugins[0]
	for _, set := range b.IPAM.Ranges {
		for _, r := range set {
			if to := &s.V4; r.Subnet.IsValid() {
				if r.Subnet.Addr().Is6() {
					to = &s.V6
				}
				*to = Range{Subnet: r.Subnet, Gateway: r.Gateway}
			}
		}
	}
	if !s.V4.Subnet.IsValid() {
		return Shape{}
	}
	s.Name, s.Bridge = list.Name, b.Bridge
	return s
}

func findPlugin(dirs []string, name string) bool {
	for _, dir := range dirs {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// CheckPlugins fails with the name of a needed plugin that is in none of the folders.
func CheckPlugins(dirs []string) error {
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		if !findPlugin(dirs, name) {
			return fmt.Errorf("CNI plugin %s not found in %s (package containernetworking-plugins)", name, strings.Join(dirs, ", "))
		}
	}
	return nil
}

// reclaimLeases frees addresses whose attachment was never recorded, and remembers the
// others.
func (n *Network) reclaimLeases(running func(id string) bool) error {
	leases, err := n.leases()
	if err != nil {
		return err
	}
	var errs []error
	for addr, id := range leases {
		if running(id) {
			errs = append(errs, n.addrs.keep(id, Pair{}.with(addr)))
		} else {
			errs = append(errs, os.Remove(filepath.Join(n.leaseDir(), n.cfg.Name, addr.String())))
		}
	}
	return errors.Join(errs...)
}
