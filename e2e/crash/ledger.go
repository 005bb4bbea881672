package crash

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// The ways of a message through the hub; the names of the load's outputs.
const (
	toModule = "in"
	toCloud  = "up"
	toBoth   = "both"
)

// ledger is what is known outside the hub: every message that was sent, whether it
// was acknowledged, and how often it came out at each end.
type ledger struct {
	mu      sync.Mutex
	sent    []record // by number
	acked   int
	unknown []string // deliveries of what was never sent
	last    map[string]int
	late    int // came first after one that was sent later, at the same end
}

type record struct {
	way               string
	acked             bool
	atModule, atCloud uint16
}

func newLedger() *ledger { return &ledger{last: make(map[string]int)} }

// send enters a message and returns its number.
func (l *ledger) send(way string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, record{way: way})
	return len(l.sent) - 1
}

func (l *ledger) ack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[n].acked = true
	l.acked++
}

// body is what a message with the number says; deliver finds the number in it.
func body(n, size int) []byte {
	s := fmt.Sprintf("n=%d;", n)
	return []byte(s + strings.Repeat("x", max(0, size-len(s))))
}

// deliver enters that a text with the body of a message has arrived.
func (l *ledger) deliver(end, text string) {
	_, rest, _ := strings.Cut(text, "n=")
	number, _, ok := strings.Cut(rest, ";")
	n, err := strconv.Atoi(number)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || err != nil || n < 0 || n >= len(l.sent) {
		if len(l.unknown) < 10 {
			l.unknown = append(l.unknown, fmt.Sprintf("%s got %.80q", end, text))
		}
		return
	}
	count := &l.sent[n].atModule
	if end == toCloud {
		count = &l.sent[n].atCloud
	}
	*count++
	if *count == 1 {
		// Each way has an order of its own at each end only where queues are shared:
		// all of this load shares one queue per end.
		if n < l.last[end] {
			l.late++
		}
		l.last[end] = max(l.last[end], n)
	}
}

// missing lists acknowledged messages that have not arrived where they should, up
// to a few, and how many they are.
func (l *ledger) missing() (few []string, count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, r := range l.sent {
		if !r.acked {
			continue
		}
		lost := ""
		if r.way != toCloud && r.atModule == 0 {
			lost = "module"
		}
		if r.way != toModule && r.atCloud == 0 {
			lost += " cloud"
		}
		if lost == "" {
			continue
		}
		if count++; len(few) < 5 || n%200 == 0 {
			few = append(few, fmt.Sprintf("message %d (%s) has not reached: %s", n, r.way, strings.TrimSpace(lost)))
		}
	}
	return few, count
}

// arrived is how many deliveries there were, and how many of them were repeats.
func (l *ledger) arrived() (all, repeats int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.sent {
		for _, n := range [2]uint16{r.atModule, r.atCloud} {
			all += int(n)
			repeats += max(0, int(n)-1)
		}
	}
	return all, repeats
}

func (l *ledger) totals() (sent, acked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sent), l.acked
}
