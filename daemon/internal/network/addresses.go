package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// addresses remembers which module had which address last, so that it gets the same
// one again: after a restart of the module, the daemon or the machine, and when a
// module of that name is made anew while nobody else needs the address. Connections of
// others to its former address then fail or work at once, and do not hang.
//
// It only proposes. Who really has an address is written in the leases of the
// host-local plugin, which gives none to two.
type addresses struct {
	file string

	mu sync.Mutex
	// clock counts changes; the smallest number in an entry is the oldest.
	clock   uint64
	entries map[string]place
}

// place is an address that a module has or had.
type place struct {
	Addr netip.Addr `json:"address"`
	// Released says that the module has been removed.
	Released bool `json:"released,omitempty"`
	// At is the clock of the last change.
	At uint64 `json:"at"`
}

// maxPlaces bounds what is remembered of removed modules.
const maxPlaces = 1024

// AddressError is an address that cannot be had.
type AddressError struct {
	Addr netip.Addr // invalid: any of the network
	By   string     // the module that has it, if one has
	Net  netip.Prefix
}

func (e *AddressError) Error() string {
	switch {
	case e.By != "":
		return fmt.Sprintf("address %s is taken by module %s", e.Addr, e.By)
	case e.Addr.IsValid():
		return fmt.Sprintf("address %s is not for a module of the network %s", e.Addr, e.Net)
	}
	return fmt.Sprintf("no address of the network %s is free", e.Net)
}

// openAddresses reads the file. One that cannot be read is an error beside an empty
// memory, which can be used.
func openAddresses(file string) (*addresses, error) {
	a := &addresses{file: file, entries: make(map[string]place)}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, fmt.Errorf("remembered addresses: %w", err)
	}
	var entries map[string]place
	if err := json.Unmarshal(data, &entries); err != nil {
		return a, fmt.Errorf("remembered addresses: %w", err)
	}
	seen := make(map[netip.Addr]bool)
	for name, p := range entries {
		if !p.Addr.IsValid() || seen[p.Addr] {
			return a, fmt.Errorf("remembered addresses: %s has %s, as another one", name, p.Addr)
		}
		seen[p.Addr] = true
		a.clock = max(a.clock, p.At)
	}
	a.entries = entries
	if entries == nil {
		a.entries = make(map[string]place)
	}
	return a, nil
}

// choose returns the address for a module. wish is what its deployment asks for;
// invalid is nothing. taken are the addresses that other modules have now, by
// address: they are never returned. Without a wish it is the module's former address;
// else one that nobody is remembered with; else that of the module that was removed
// longest ago; else that of one that has not run for longest.
func (a *addresses) choose(name string, wish netip.Addr, subnet netip.Prefix, taken map[netip.Addr]string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if wish.IsValid() {
		switch by, ok := taken[wish]; {
		case !usable(subnet, wish):
			return netip.Addr{}, &AddressError{Addr: wish, Net: subnet}
		case ok:
			return netip.Addr{}, &AddressError{Addr: wish, By: by, Net: subnet}
		}
		return wish, nil
	}
	free := func(addr netip.Addr) bool {
		_, ok := taken[addr]
		return !ok && usable(subnet, addr)
	}
	if p, ok := a.entries[name]; ok && free(p.Addr) {
		return p.Addr, nil
	}
	remembered := make(map[netip.Addr]bool, len(a.entries))
	var oldest *place
	for other, p := range a.entries {
		remembered[p.Addr] = true
		if other == name || !free(p.Addr) {
			continue
		}
		if oldest == nil || p.Released && !oldest.Released || p.Released == oldest.Released && p.At < oldest.At {
			oldest = &p
		}
	}
	for addr := subnet.Addr().Next(); subnet.Contains(addr); addr = addr.Next() {
		if free(addr) && !remembered[addr] {
			return addr, nil
		}
	}
	if oldest == nil {
		return netip.Addr{}, &AddressError{Net: subnet}
	}
	return oldest.Addr, nil
}

// usable reports whether an address of a subnet can be a module's: not the network's
// own, not the gateway's (the first), and not the one for all (the last).
func usable(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Contains(addr) && addr != subnet.Addr() && addr != subnet.Addr().Next() && subnet.Contains(addr.Next())
}

// keep remembers that a module has an address, and writes it down. Another that was
// remembered with it is forgotten.
func (a *addresses) keep(name string, addr netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p, ok := a.entries[name]; ok && p.Addr == addr && !p.Released {
		return nil
	}
	for other, p := range a.entries {
		if p.Addr == addr {
			delete(a.entries, other)
		}
	}
	a.clock++
	a.entries[name] = place{Addr: addr, At: a.clock}
	a.boundLocked()
	return a.writeLocked()
}

// release says that modules have been removed, and writes it down: those for which
// gone is true. Their addresses are others' when there are no better ones.
func (a *addresses) release(gone func(name string) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := false
	for name, p := range a.entries {
		if !p.Released && gone(name) {
			a.clock++
			p.Released, p.At, changed = true, a.clock, true
			a.entries[name] = p
		}
	}
	if !changed {
		return nil
	}
	a.boundLocked()
	return a.writeLocked()
}

func (a *addresses) boundLocked() {
	for len(a.entries) > maxPlaces {
		oldest := ""
		for name, p := range a.entries {
			if p.Released && (oldest == "" || p.At < a.entries[oldest].At) {
				oldest = name
			}
		}
		if oldest == "" {
			return
		}
		delete(a.entries, oldest)
	}
}

func (a *addresses) writeLocked() error {
	data, err := json.MarshalIndent(a.entries, "", "  ")
	if err == nil {
		err = replaceFile(a.file, data)
	}
	if err != nil {
		return fmt.Errorf("remember addresses: %w", err)
	}
	return nil
}

// leases returns who has which address now, as the host-local plugin wrote it down.
func (n *Network) leases() (map[netip.Addr]string, error) {
	dir := filepath.Join(n.leaseDir(), n.cfg.Name)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("address leases: %w", err)
	}
	out := make(map[netip.Addr]string)
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("address leases: %w", err)
		}
		id, _, _ := strings.Cut(string(data), "\n")
		out[addr] = strings.TrimSpace(id)
	}
	return out, nil
}

// macOf is the hardware address that goes with an address: a module that comes back
// with its address is reached at once by those who know both.
func macOf(addr netip.Addr) string {
	b := addr.As4()
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}
