package c2d

import (
	"context"
	"fmt"
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Send queues a message for an identity of this generation; it is on disk when Send
// returns nil. When ctx ends first it may still be sent. Errors: ErrFull, ErrInvalid,
// ErrTooLarge, ErrClosed, those of the store and of ctx.
func (q *Queues) Send(ctx context.Context, id iothub.Identity, generation string, m *iothub.Message) error {
	result := make(chan error, 1)
	if err := q.enqueue(id, generation, m, func(err error) { result <- err }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *Queues) enqueue(id iothub.Identity, generation string, m *iothub.Message, done func(error)) error {
	r, t, err := newRecord(id, generation, m, q.o.Now(), q.o.TTL)
	if err != nil {
		return err
	}
	raw, err := r.encode()
	if err != nil {
		return err
	}
	if len(raw) > store.MaxValue {
		return fmt.Errorf("%w: %d bytes on disk", ErrTooLarge, len(raw))
	}
	qu := q.lockQueue(id)
	defer qu.send.Unlock()
	q.mu.Lock()
	if q.closed || len(qu.entries) >= MaxPending {
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return ErrClosed
		}
		return fmt.Errorf("%w: %d messages wait for %s", ErrFull, MaxPending, id)
	}
	qu.last++
	e := &entry{queue: qu, seq: qu.last, expires: r.Expires, tell: t, index: -1}
	qu.entries = append(qu.entries, e)
	q.mu.Unlock()
	var b store.Batch
	b.Put(q.messages.Key(e.key()), raw)
	b.Put(q.sequences.Key(id.String()), strconv.AppendUint(nil, e.seq, 10))
	q.s.Commit(&b, func(err error) {
		q.decided(e, err)
		done(err)
	})
	return nil
}

// lockQueue returns the queue of an identity with its send held.
func (q *Queues) lockQueue(id iothub.Identity) *queue {
	for {
		q.mu.Lock()
		qu := q.queueLocked(id)
		q.mu.Unlock()
		qu.send.Lock()
		q.mu.Lock()
		current := q.queues[id] == qu
		q.mu.Unlock()
		if current {
			return qu
		}
		qu.send.Unlock() // it was forgotten meanwhile
	}
}

// decided is told whether a message got to the disk.
func (q *Queues) decided(e *entry, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case e.gone:
	case err != nil:
		q.removeLocked(e, Purged)
	default:
		e.stored = true
		q.rescheduleLocked(e)
		q.kickLocked(e.queue)
	}
}

// Purge removes all messages of an identity, those that a receiver has too, and
// returns how many.
func (q *Queues) Purge(ctx context.Context, id iothub.Identity) (int, error) {
	q.mu.Lock()
	none := q.queues[id] == nil
	q.mu.Unlock()
	if none {
		return 0, nil
	}
	result := make(chan error, 1)
	n := q.purge(id, false, func(err error) { result <- err })
	select {
	case err := <-result:
		if err != nil {
			return n, fmt.Errorf("purge: %w", err)
		}
		return n, nil
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

// Forget purges the queue of an identity that was deleted; nobody waits. Should the
// disk not follow before a crash, Open drops the rest.
func (q *Queues) Forget(id iothub.Identity) {
	q.mu.Lock()
	none := q.queues[id] == nil
	q.mu.Unlock()
	if none {
		return
	}
	q.purge(id, true, q.logged)
}

// purge holds send, so that no message gets to the disk behind its removal.
func (q *Queues) purge(id iothub.Identity, forget bool, done func(error)) int {
	qu := q.lockQueue(id)
	defer qu.send.Unlock()
	var removed []removal
	q.mu.Lock()
	for len(qu.entries) > 0 {
		removed = append(removed, q.removeLocked(qu.entries[0], Purged))
	}
	if forget {
		qu.last = 0
		if qu.sub == nil {
			delete(q.queues, id)
		}
	}
	q.mu.Unlock()
	if forget {
		q.s.CommitRelaxed(func(b *store.Batch) { b.Delete(q.sequences.Key(id.String()), 0) }, q.logged)
	}
	q.saveRemovals(removed, done)
	return len(removed)
}
