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

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
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

// place is the addresses that a module has or had; at least one.
type place struct {
	V4 netip.Addr `json:"address,omitzero"`
	V6 netip.Addr `json:"address6,omitzero"`
	// Released says that the module has been removed.
	Released bool `json:"released,omitempty"`
	// At is the clock of the last change.
	At uint64 `json:"at"`
}

// like is the address of the same family as another.
func (p place) like(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return p.V4
	}
	return p.V6
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
		all := Pair{p.V4, p.V6}.All()
		if len(all) == 0 {
			return a, fmt.Errorf("remembered addresses: %s has none", name)
		}
		for _, addr := range all {
			if seen[addr] {
				return a, fmt.Errorf("remembered addresses: %s has %s, as another one", name, addr)
			}
			seen[addr] = true
		}
		a.clock = max(a.clock, p.At)
	}
	a.entries = entries
	if entries == nil {
		a.entries = make(map[string]place)
	}
	return a, nil
}

// choose returns the address for a module in a complete range. wish is what its
// deployment asks for; invalid is nothing. taken are the addresses that other modules have
// now, by address: they are never returned. Without a wish it is the module's former
// address; else one of the pool that nobody is remembered with; else that of the module
// that was removed longest ago; else that of one that has not run for longest.
func (a *addresses) choose(name string, wish netip.Addr, r Range, taken map[netip.Addr]string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if wish.IsValid() {
		switch by, ok := taken[wish]; {
		case !r.usable(wish):
			return netip.Addr{}, &AddressError{Addr: wish, Net: r.Subnet}
		case ok:
			return netip.Addr{}, &AddressError{Addr: wish, By: by, Net: r.Subnet}
		}
		return wish, nil
	}
	free := func(addr netip.Addr) bool {
		_, ok := taken[addr]
		return !ok && r.usable(addr)
	}
	former := func(p place) netip.Addr { return p.like(r.Subnet.Addr()) }
	if p, ok := a.entries[name]; ok && free(former(p)) {
		return former(p), nil
	}
	remembered := make(map[netip.Addr]bool, len(a.entries))
	var oldest *place
	for other, p := range a.entries {
		remembered[former(p)] = true
		if other == name || !r.Pool.Contains(former(p)) || !free(former(p)) {
			continue
		}
		if oldest == nil || p.Released && !oldest.Released || p.Released == oldest.Released && p.At < oldest.At {
			oldest = &p
		}
	}
	for addr := r.Pool.Addr(); r.Pool.Contains(addr); addr = addr.Next() {
		if free(addr) && !remembered[addr] {
			return addr, nil
		}
	}
	if oldest == nil {
		return netip.Addr{}, &AddressError{Net: r.Pool}
	}
	return former(*oldest), nil
}

// keep remembers that a module has these addresses, and writes it down. Another that was
// remembered with one of them is so no more. What is known of a family without an address
// here stays.
func (a *addresses) keep(name string, now Pair) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.entries[name]
	was := next
	for _, addr := range now.All() {
		for other, p := range a.entries {
			if other != name && p.like(addr) == addr {
				a.forgetLocked(other, addr)
			}
		}
		p := Pair{next.V4, next.V6}.with(addr)
		next.V4, next.V6 = p.V4, p.V6
	}
	if next.Released = false; next == was {
		return nil
	}
	a.clock++
	next.At = a.clock
	a.entries[name] = next
	a.boundLocked()
	return a.writeLocked()
}

// forgetLocked takes one address away from what is remembered of a module.
func (a *addresses) forgetLocked(name string, addr netip.Addr) {
	p := a.entries[name]
	if p.V4 == addr {
		p.V4 = netip.Addr{}
	} else {
		p.V6 = netip.Addr{}
	}
	if a.entries[name] = p; p.V4 == p.V6 { // none is left
		delete(a.entries, name)
	}
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
		err = atomicfile.Write(a.file, data, 0o600)
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
