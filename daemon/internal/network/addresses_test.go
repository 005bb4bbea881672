package network_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

// players are modules that come and go in a network of any size.
type players struct {
	t      *testing.T
	file   string
	subnet netip.Prefix
	pool   netip.Prefix
	book   *network.Addresses
	taken  map[netip.Addr]string
}

func newPlayers(t *testing.T, subnet string) *players {
	t.Helper()
	p := &players{t: t, file: filepath.Join(t.TempDir(), "addresses.json"), subnet: netip.MustParsePrefix(subnet), taken: make(map[netip.Addr]string)}
	p.restart()
	return p
}

// restart is a new daemon.
func (p *players) restart() {
	p.t.Helper()
	var err error
	if p.book, err = network.OpenAddresses(p.file); err != nil {
		p.t.Fatal(err)
	}
}

func (p *players) start(name, wish string) (string, error) {
	p.t.Helper()
	var want netip.Addr
	if wish != "" {
		want = netip.MustParseAddr(wish)
	}
	r, err := network.Range{Subnet: p.subnet, Pool: p.pool}.Complete()
	if err != nil {
		p.t.Fatal(err)
	}
	addr, err := p.book.Choose(name, want, r, p.taken)
	if err != nil {
		return "", err
	}
	if by, ok := p.taken[addr]; ok {
		p.t.Fatalf("%s gets %s, which %s has", name, addr, by)
	}
	if !r.Usable(addr) {
		p.t.Fatalf("%s gets %s of %s", name, addr, p.subnet)
	}
	p.taken[addr] = name
	if err := p.book.Keep(name, pair(addr.String())); err != nil {
		p.t.Fatal(err)
	}
	return addr.String(), nil
}

// pair is made of addresses of both families.
func pair(addrs ...string) (p network.Pair) {
	for _, s := range addrs {
		if a := netip.MustParseAddr(s); a.Is4() {
			p.V4 = a
		} else {
			p.V6 = a
		}
	}
	return p
}

func (p *players) stop(name string) {
	maps.DeleteFunc(p.taken, func(_ netip.Addr, by string) bool { return by == name })
}

func (p *players) remove(name string) {
	p.t.Helper()
	p.stop(name)
	if err := p.book.Release(func(n string) bool { return n == name }); err != nil {
		p.t.Fatal(err)
	}
}

func (p *players) gets(name, wish, want string) {
	p.t.Helper()
	if got, err := p.start(name, wish); got != want || err != nil {
		p.t.Errorf("%s gets %q (%v), want %s", name, got, err, want)
	}
}

func TestAModuleKeepsItsAddress(t *testing.T) {
	p := newPlayers(t, "10.0.0.0/24")
	p.gets("a", "", "10.0.0.2")
	p.gets("b", "", "10.0.0.3")
	p.stop("a")
	p.gets("c", "", "10.0.0.4") // not a's, though it is free
	p.gets("a", "", "10.0.0.2")
	p.remove("a")
	p.gets("d", "", "10.0.0.5")
	p.gets("a", "", "10.0.0.2") // made anew
	p.stop("b")
	p.restart()
	p.gets("b", "", "10.0.0.3")
}

func TestAWishedAddress(t *testing.T) {
	p := newPlayers(t, "10.0.0.0/29")
	p.gets("a", "10.0.0.4", "10.0.0.4")
	var taken *network.AddressError
	if _, err := p.start("b", "10.0.0.4"); !errors.As(err, &taken) || taken.By != "a" {
		t.Errorf("error %v, want one that names the holder", err)
	}
	p.stop("a")
	p.gets("b", "10.0.0.4", "10.0.0.4") // it wishes, a only remembers
	p.gets("a", "", "10.0.0.2")
	for _, never := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "::1"} {
		if _, err := p.start("c", never); !errors.As(err, &taken) || taken.By != "" {
			t.Errorf("%s: error %v", never, err)
		}
	}
}

func TestAFullNetwork(t *testing.T) {
	p := newPlayers(t, "10.0.0.0/29") // 2 to 6
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		p.gets(name, "", fmt.Sprintf("10.0.0.%d", i+2))
	}
	var full *network.AddressError
	if _, err := p.start("f", ""); !errors.As(err, &full) || full.Addr.IsValid() {
		t.Errorf("error %v", err)
	}
	p.stop("a")
	p.remove("d")
	p.remove("c")
	p.gets("f", "", "10.0.0.5") // of the module that was removed first
	p.gets("g", "", "10.0.0.4")
	p.gets("h", "", "10.0.0.2") // of one that only stands still
	if _, err := p.start("a", ""); err == nil {
		t.Error("the sixth of five addresses")
	}
	p.remove("b")
	p.gets("a", "", "10.0.0.3")
}

func TestAddressesOfIPv6(t *testing.T) {
	p := newPlayers(t, "fd00:1::/64")
	p.gets("a", "", "fd00:1::2")
	p.gets("b", "fd00:1::ffff", "fd00:1::ffff")
	p.stop("a")
	p.restart()
	p.gets("c", "", "fd00:1::3")
	p.gets("a", "", "fd00:1::2")
	for _, never := range []string{"fd00:1::", "fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff", "fd00:2::5", "10.0.0.2"} {
		var taken *network.AddressError
		if _, err := p.start("d", never); !errors.As(err, &taken) || taken.By != "" {
			t.Errorf("%s: error %v", never, err)
		}
	}
}

func TestAddressesOfARange(t *testing.T) {
	p := newPlayers(t, "10.0.0.0/24")
	p.pool = netip.MustParsePrefix("10.0.0.8/31")
	p.gets("a", "", "10.0.0.8")
	p.gets("wishes", "10.0.0.99", "10.0.0.99") // beyond the range, in the subnet
	p.gets("b", "", "10.0.0.9")
	var full *network.AddressError
	if _, err := p.start("c", ""); !errors.As(err, &full) || full.Addr.IsValid() || full.Net != p.pool {
		t.Errorf("error %v", err)
	}
	p.remove("wishes") // whose address is nobody's choice
	if _, err := p.start("c", ""); err == nil {
		t.Error("an address outside of the range was chosen")
	}
}

// What a module has of one family outlives that the network loses the other, and that
// another module takes it.
func TestFamiliesAreRememberedEachForItself(t *testing.T) {
	file := filepath.Join(t.TempDir(), "addresses.json")
	v4, err := network.Range{Subnet: netip.MustParsePrefix("10.0.0.0/24")}.Complete()
	noErr(t, err)
	v6, err := network.Range{Subnet: netip.MustParsePrefix("fd00:1::/64")}.Complete()
	noErr(t, err)
	book, err := network.OpenAddresses(file)
	noErr(t, err, book.Keep("a", pair("10.0.0.7", "fd00:1::7")))
	noErr(t, book.Keep("a", pair("10.0.0.7")), book.Keep("b", pair("10.0.0.8"))) // without IPv6 for a while
	noErr(t, book.Keep("thief", pair("10.0.0.7", "fd00:1::9")))
	book, err = network.OpenAddresses(file)
	noErr(t, err)
	for name, want := range map[string]network.Pair{
		"a": pair("10.0.0.2", "fd00:1::7"), "b": pair("10.0.0.8", "fd00:1::2"), "thief": pair("10.0.0.7", "fd00:1::9"),
	} {
		var got network.Pair
		if got.V4, err = book.Choose(name, netip.Addr{}, v4, nil); err != nil {
			t.Fatal(err)
		}
		if got.V6, err = book.Choose(name, netip.Addr{}, v6, nil); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s gets %s, want %s", name, got, want)
		}
	}
	noErr(t, book.Keep("a", pair("10.0.0.2")), book.Keep("b", pair("10.0.0.2", "fd00:1::7")))
	if book.Len() != 2 { // a has none left
		t.Errorf("%d entries", book.Len())
	}
}

func TestAnotherSubnet(t *testing.T) {
	p := newPlayers(t, "10.0.0.0/24")
	p.gets("a", "", "10.0.0.2")
	p.stop("a")
	p.subnet = netip.MustParsePrefix("10.9.0.0/24")
	p.gets("a", "", "10.9.0.2")
	p.stop("a")
	p.restart()
	p.gets("a", "", "10.9.0.2")
}

func TestADamagedMemoryIsSaidAndReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"torn":           `{"a":{"addr`,
		"no address":     `{"a":{"at":1}}`,
		"twice the same": `{"a":{"address":"10.0.0.2","at":1},"b":{"address":"10.0.0.2","at":2}}`,
		"twice of IPv6":  `{"a":{"address6":"fd00::2","at":1},"b":{"address":"10.0.0.2","address6":"fd00::2","at":2}}`,
	} {
		file := filepath.Join(t.TempDir(), "addresses.json")
		noErr(t, os.WriteFile(file, []byte(content), 0o600))
		book, err := network.OpenAddresses(file)
		if err == nil || book.Len() != 0 {
			t.Errorf("%s: %d entries, %v", name, book.Len(), err)
		}
		noErr(t, book.Keep("a", pair("10.0.0.2")))
		if book, err = network.OpenAddresses(file); err != nil || book.Len() != 1 {
			t.Errorf("%s: afterwards %v", name, err)
		}
	}
}

func TestRemovedModulesAreForgottenInTheEnd(t *testing.T) {
	var entries []string
	addr := netip.MustParseAddr("10.0.0.1")
	for i := range network.MaxPlaces + 20 {
		addr = addr.Next()
		entries = append(entries, fmt.Sprintf(`"m%d":{"address":"%s","at":%d}`, i, addr, i))
	}
	file := filepath.Join(t.TempDir(), "addresses.json")
	noErr(t, os.WriteFile(file, []byte("{"+strings.Join(entries, ",")+"}"), 0o600))
	book, err := network.OpenAddresses(file)
	noErr(t, err)
	noErr(t, book.Keep("one more", pair(addr.Next().String())))
	if book.Len() != network.MaxPlaces+21 {
		t.Errorf("%d entries of modules that are there", book.Len())
	}
	noErr(t, book.Release(func(string) bool { return true }))
	if book.Len() != network.MaxPlaces {
		t.Errorf("%d entries", book.Len())
	}
}

// Whatever happens, no two modules have one address, and one whose address nobody
// needed meanwhile gets it again. start checks the first.
func TestNoAddressIsGivenTwice(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 7))
		p := newPlayers(t, []string{"10.0.0.0/29", "10.0.0.0/28", "10.0.0.0/30"}[seed%3])
		last, running := make(map[string]string), make(map[string]bool)
		for range 200 {
			name := fmt.Sprint("m", r.IntN(9))
			switch r.IntN(6) {
			case 0:
				p.remove(name)
				delete(running, name)
			case 1:
				p.stop(name)
				delete(running, name)
			case 2:
				p.restart()
			default:
				if running[name] {
					continue
				}
				wish := ""
				if r.IntN(4) == 0 {
					wish = fmt.Sprint("10.0.0.", r.IntN(16))
				}
				got, err := p.start(name, wish)
				if err != nil {
					if wish == "" && len(p.taken) < 1<<(32-p.subnet.Bits())-3 {
						t.Fatalf("seed %d: %v with %d taken", seed, err, len(p.taken))
					}
					continue
				}
				if had := last[name]; wish == "" && had != "" && got != had {
					t.Fatalf("seed %d: %s had %s, which nobody got since, and gets %s", seed, name, had, got)
				}
				maps.DeleteFunc(last, func(_, addr string) bool { return addr == got })
				last[name], running[name] = got, true
			}
		}
		if held := slices.Collect(maps.Values(p.taken)); len(held) != len(running) {
			t.Errorf("seed %d: %v hold addresses, %v run", seed, held, running)
		}
	}
}

func TestHardwareAddressesFollowAddresses(t *testing.T) {
	if got := network.MACOf(netip.MustParseAddr("172.30.0.254")); got != "02:42:ac:1e:00:fe" {
		t.Error(got)
	}
}
