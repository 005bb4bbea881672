package rig

import (
	"maps"
	"slices"
	"sync"
)

// Ledger counts messages by identity and by the key that the sender gave them.
// It may be used concurrently.
type Ledger struct {
	mu sync.Mutex
	by map[string]map[string]int
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger { return &Ledger{by: make(map[string]map[string]int)} }

// Reset empties the ledger.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.by)
}

// Add notes a message.
func (l *Ledger) Add(identity string, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.by[identity]
	if m == nil {
		m = make(map[string]int)
		l.by[identity] = m
	}
	m[key]++
}

// Count returns the number of different messages and of repeated ones.
func (l *Ledger) Count(identity string) (messages, duplicates int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.by[identity] {
		messages++
		duplicates += n - 1
	}
	return messages, duplicates
}

// Identities lists who has sent, in order.
func (l *Ledger) Identities() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.by))
}

// Keys lists the keys noted for an identity, in order.
func (l *Ledger) Keys(identity string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.by[identity]))
}

// Missing lists the given keys that are not noted for the identity.
func (l *Ledger) Missing(identity string, keys []string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []string
	for _, n := range keys {
		if l.by[identity][n] == 0 {
			missing = append(missing, n)
		}
	}
	return missing
}
