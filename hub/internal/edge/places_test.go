package edge

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// player is an input that uses places as a pump does: it reserves, and before it
// rests it has each place under way or given back.
type player struct {
	seat     seat
	flight   int
	reserved int
	told     int
}

func newPlayer() *player {
	p := &player{}
	p.seat.nudge = func() { p.told++ }
	return p
}

func TestPlacesAreNeverMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p places
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		players := make([]*player, rapid.IntRange(1, 30).Draw(t, "inputs"))
		for i := range players {
			players[i] = newPlayer()
		}
		total := func() (n int) {
			for _, k := range players {
				n += k.flight + k.reserved + k.seat.given
			}
			return n
		}
		pick := func() *player { return players[rapid.IntRange(0, len(players)-1).Draw(t, "input")] }
		var before int
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				k := pick()
				k.reserved += p.reserve(&k.seat, rapid.IntRange(1, 50).Draw(t, "n"), limit, len(players))
			},
			"send": func(*rapid.T) {
				k := pick()
				k.flight, k.reserved = k.flight+k.reserved, 0
			},
			"give back": func(*rapid.T) {
				k := pick()
				p.leave(&k.seat, k.reserved)
				k.reserved = 0
			},
			"done": func(t *rapid.T) {
				if k := pick(); k.flight > 0 {
					k.flight--
					p.done(&k.seat)
				}
			},
			"limit": func(t *rapid.T) { limit = rapid.IntRange(0, 40).Draw(t, "limit") },
			"": func(t *rapid.T) {
				n := total()
				if n > max(limit, before) && n > p.limit {
					t.Fatalf("%d places of %d are taken", n, limit)
				}
				if before = n; n != p.taken {
					t.Fatalf("%d places are taken, %d counted", n, p.taken)
				}
				for _, k := range players {
					if k.seat.waits && p.freeLocked(&k.seat) > 0 {
						t.Fatal("an input waits for a place that is free")
					}
				}
			},
		})
		for _, k := range players {
			p.leave(&k.seat, k.reserved)
			for range k.flight {
				p.done(&k.seat)
			}
			p.leave(&k.seat, 0) // one that came meanwhile
		}
		if p.taken != 0 || p.more != 0 || len(p.queue) != 0 {
			t.Fatalf("in the end %d are taken, %d more, %d wait", p.taken, p.more, len(p.queue))
		}
	})
}

func TestPlaces(t *testing.T) {
	// Inputs reserve in turn, by their number, and get so many.
	type step struct{ input, n, want int }
	tests := []struct {
		name          string
		limit, inputs int
		steps         []step
	}{
		{"a single input gets all", 1024, 1, []step{{0, 128, 128}, {0, 1000, 896}, {0, 1, 0}}},
		{"idle inputs cost the busy one a place each", 1024, 100, []step{{0, 1024, 925}, {1, 1, 1}, {2, 5, 1}}},
		{"of many idle inputs a quarter has a place", 1024, 1000, []step{{0, 1024, 769}}},
		{"a small window is not kept for the idle", 3, 100, []step{{0, 9, 3}, {1, 1, 0}}},
		{"no window", 0, 2, []step{{0, 9, 0}, {1, 1, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p places
			seats := make([]seat, tt.inputs)
			for i, s := range tt.steps {
				if got := p.reserve(&seats[s.input], s.n, tt.limit, tt.inputs); got != s.want {
					t.Errorf("step %d: %d places, want %d", i, got, s.want)
				}
			}
		})
	}
}

func TestPlacesGoToWhoHasWaitedLongest(t *testing.T) {
	var p places
	players := []*player{newPlayer(), newPlayer(), newPlayer(), newPlayer()}
	reserve := func(i int) int { return p.reserve(&players[i].seat, 10, 4, 4) }
	if got := reserve(0); got != 4-1+1 {
		t.Fatalf("the first got %d", got)
	}
	var order []int
	for i := range players {
		reserve(i)
		players[i].seat.nudge = func() { order = append(order, i) }
	}
	for range 6 { // one that gets a place uses it, wants another, and is done with it
		before := len(order)
		from := 0
		if before > 0 {
			from = order[before-1]
			if got := reserve(from); got != 1 {
				t.Errorf("%d was told, and got %d places", from, got)
			}
		}
		p.done(&players[from].seat)
		if len(order) != before+1 {
			t.Fatalf("nobody, or many were told of a place: %v", order)
		}
	}
	if want := []int{0, 1, 2, 3, 0, 1}; !slices.Equal(order, want) {
		t.Errorf("places went to %v, want %v", order, want)
	}
}

func TestPlacesUnderManyPumps(t *testing.T) {
	const inputs, limit, each = 20, 16, 500
	var p places
	var flight, most atomic.Int64
	var wg, settling sync.WaitGroup
	for range inputs {
		wake := make(chan struct{}, 1)
		s := &seat{nudge: func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}}
		wg.Go(func() {
			for left := each; left > 0; {
				n := p.reserve(s, min(left, 5), limit, inputs)
				use := min(n, 1+rand.N(5))
				for range use {
					for now := flight.Add(1); ; {
						old := most.Load()
						if now <= old || most.CompareAndSwap(old, now) {
							break
						}
					}
					settling.Go(func() { flight.Add(-1); p.done(s) })
				}
				left -= use
				if n > use {
					p.leave(s, n-use)
				}
				if n == 0 {
					<-wake // or the test hangs: none may be forgotten
				}
			}
			p.leave(s, 0)
		})
	}
	wg.Wait()
	settling.Wait()
	if n := most.Load(); n > limit || n < limit/2 {
		t.Errorf("at most %d of %d places were in use", n, limit)
	}
	if p.taken != 0 {
		t.Errorf("%d places are left taken", p.taken)
	}
}
