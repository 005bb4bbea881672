package dispatch

import "sync"

// mailbox is how other goroutines speak to a pump. It never blocks them.
type mailbox struct {
	signal chan struct{} // capacity 1: something is in the box

	mu      sync.Mutex
	results []result // guarded by mu; at most one for each delivery in flight
	sink    Sink     // guarded by mu: replaces the pump's, or nil
	wakes   int      // guarded by mu: counts calls of wake
}

type result struct {
	it      *item
	attempt int // which delivery of the item it is the result of
	err     error
}

func newMailbox() *mailbox { return &mailbox{signal: make(chan struct{}, 1)} }

func (b *mailbox) nudge() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *mailbox) deliver(it *item, attempt int, err error) {
	b.mu.Lock()
	b.results = append(b.results, result{it, attempt, err})
	first := len(b.results) == 1
	b.mu.Unlock()
	if first {
		b.nudge()
	}
}

func (b *mailbox) replace(s Sink) {
	b.mu.Lock()
	b.sink = s
	b.wakes++
	b.mu.Unlock()
	b.nudge()
}

func (b *mailbox) wake() {
	b.mu.Lock()
	b.wakes++
	b.mu.Unlock()
	b.nudge()
}

// take empties the box. spare is memory for the next results.
func (b *mailbox) take(spare []result) (results []result, sink Sink, wakes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	results, sink, wakes = b.results, b.sink, b.wakes
	b.results, b.sink = spare[:0], nil
	return results, sink, wakes
}
