package c2d

import (
	"context"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Receive locks the oldest message of an identity that nobody has and returns it, or
// nil if there is none. Its system property LockToken is for Settle.
func (q *Queues) Receive(id iothub.Identity) (*iothub.Message, error) {
	for {
		q.mu.Lock()
		qu := q.queues[id]
		if qu == nil || q.closed {
			q.mu.Unlock()
			return nil, nil
		}
		e := q.nextLocked(qu, 0)
		if e == nil {
			q.mu.Unlock()
			return nil, nil
		}
		l, deliveries := q.lockLocked(e, nil), e.deliveries
		q.mu.Unlock()
		m, err := q.message(e, l, deliveries)
		switch {
		case err != nil:
			q.mu.Lock()
			if e.lock == l {
				e.lock = nil
				q.rescheduleLocked(e)
			}
			q.mu.Unlock()
			return nil, err
		case m != nil:
			return m, nil
		}
		// It was purged meanwhile: take the next.
	}
}

// Settle ends the lock of a message that Receive gave out. Complete and Reject are on
// disk when it returns nil. Lost counts as a delivery, but not as an abandon. Errors:
// ErrLockLost, those of the store and of ctx.
func (q *Queues) Settle(ctx context.Context, id iothub.Identity, token string, o head.Outcome) error {
	q.mu.Lock()
	e := q.lockedLocked(id, token)
	if e == nil {
		q.mu.Unlock()
		return fmt.Errorf("%w: %.64q", ErrLockLost, token)
	}
	removed, counted := q.settleLocked(e, o)
	q.kickLocked(e.queue)
	q.mu.Unlock()
	if counted {
		q.saveCounts(e)
	}
	if removed == nil {
		return nil
	}
	result := make(chan error, 1)
	q.saveRemovals(removed, func(err error) { result <- err })
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("settle message: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *Queues) lockedLocked(id iothub.Identity, token string) *entry {
	qu := q.queues[id]
	if qu == nil {
		return nil
	}
	for _, e := range qu.entries {
		// Tokens are random and name a message of the caller's own queue: nothing to
		// compare in constant time for.
		if e.lock != nil && e.lock.sub == nil && e.lock.token == token {
			return e
		}
	}
	return nil
}

// settleLocked carries out an outcome. It returns the removal, or tells that the
// counts have changed.
func (q *Queues) settleLocked(e *entry, o head.Outcome) (removed []removal, counted bool) {
	switch o {
	case head.Complete:
		return []removal{q.removeLocked(e, Success)}, false
	case head.Reject:
		return []removal{q.removeLocked(e, Rejected)}, false
	case head.Abandon:
		if e.abandons++; e.abandons >= q.o.MaxDeliveries {
			e.deliveries++
			return []removal{q.removeLocked(e, DeliveryCountExceeded)}, false
		}
	case head.Lost:
	}
	q.releaseLocked(e)
	return nil, true
}
