package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// Settle marks messages as finished, delivered or dropped: they will not come
// again, except after a crash that comes before it is on disk. Their space is
// given back soon. It does not block, and does nothing for an entry that is
// settled, is of an earlier reader, or whose endpoint was removed.
func (r *Reader) Settle(entries ...*Entry) {
	if len(entries) == 0 {
		return
	}
	r.q.mu.Lock()
	for _, e := range entries {
		r.q.settleLocked(e)
	}
	submit := r.q.needSettlingLocked()
	r.q.mu.Unlock()
	if submit {
		r.q.s.CommitRelaxed(r.q.fillSettled, r.q.settledDone)
	}
}

func (q *Queue) settleLocked(e *Entry) {
	f := e.f
	if e.settled || f.removed || e.generation != f.generation {
		return
	}
	e.settled = true
	if !f.done.add(e.Offset) {
		return
	}
	if e.c.left--; e.c.left == 0 {
		f.dead = append(f.dead, e.c)
		q.doomed += int64(e.c.cost)
	}
	q.dirtyLocked(f)
}

func (q *Queue) dirtyLocked(f *fifo) {
	if !f.dirty {
		f.dirty = true
		q.dirty = append(q.dirty, f)
	}
}

// needSettlingLocked tells whether the caller must have the settlements written.
func (q *Queue) needSettlingLocked() bool {
	if q.settling || len(q.dirty) == 0 {
		return false
	}
	q.settling = true
	return true
}

// fillSettled writes checkpoints and deletes chunks that are finished.
func (q *Queue) fillSettled(b *store.Batch) {
	q.mu.Lock()
	dirty := q.dirty
	q.dirty = nil
	q.mu.Unlock()
	for _, f := range dirty {
		q.fillChecked(b, f)
	}
}

// fillChecked writes one queue's part. When there is more to delete than fits, the
// checkpoint waits: behind it nobody would look for chunks.
func (q *Queue) fillChecked(b *store.Batch, f *fifo) {
	q.mu.Lock()
	f.dirty = false
	dead := f.dead
	f.dead = nil
	removed := f.removed
	q.mu.Unlock()
	if removed {
		return
	}
	n := 0
	for ; n < len(dead) && b.Size() < store.MaxAtomic/2; n++ {
		c := dead[n]
		b.Delete(offsetKey('m', f.id, c.last), c.cost)
		q.bodies.release(b, c.refs)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range dead[:n] {
		f.deleted += uint64(c.cost)
		q.bytes -= int64(c.cost)
		q.doomed -= int64(c.cost)
	}
	f.dead = append(dead[n:], f.dead...)
	if len(f.dead) > 0 {
		q.dirtyLocked(f)
		return
	}
	b.Put(queueKey('c', f.id), f.done.appendTo(nil, f.deleted))
}

func (q *Queue) settledDone(err error) {
	q.bodies.written()
	q.mu.Lock()
	q.settling = false
	again := q.needSettlingLocked()
	q.mu.Unlock()
	if err != nil && !errors.Is(err, store.ErrClosed) {
		q.o.Logger.Error("write queue checkpoints", "error", err)
		return // the store has failed: messages will be delivered again
	}
	if again && err == nil {
		q.s.CommitRelaxed(q.fillSettled, q.settledDone)
	}
}

// bodies counts references to body records. Owned by the committer's goroutine.
type bodies struct {
	s *store.Store
	// left holds counts that are not in the store yet: of the group being made.
	left map[bodyID]*bodyCount
}

type bodyCount struct{ n int }

// release takes references away, and with the last the body.
func (l *bodies) release(b *store.Batch, refs []bodyRef) {
	for _, ref := range refs {
		c := l.left[ref.id]
		if c == nil {
			c = &bodyCount{n: l.stored(ref)}
			l.left[ref.id] = c
		}
		if c.n--; c.n > 0 {
			b.Put(ref.id.key('r'), []byte{byte(c.n >> 16), byte(c.n >> 8), byte(c.n)})
			continue
		}
		b.Delete(ref.id.key('b'), 0)
		b.Delete(ref.id.key('r'), 0)
	}
}

func (l *bodies) stored(ref bodyRef) int { return refsLeft(l.s, ref) }

// refsLeft is how many references to a body are left, by what is stored.
func refsLeft(s Source, ref bodyRef) int {
	v, err := s.Get(ref.id.key('r'))
	if err != nil || len(v) != 3 {
		return ref.n // nobody has released it yet
	}
	return int(v[0])<<16 | int(v[1])<<8 | int(v[2])
}

// written tells that what was released is in the store.
func (l *bodies) written() { clear(l.left) }

// RemoveEndpoint deletes all queues of an endpoint and returns how many messages
// are lost by it. Its Reader must not be used any more. Messages appended
// meanwhile go to a new queue. When ctx ends first, the rest stays; it is gone for
// readers, and comes again at the next start.
func (q *Queue) RemoveEndpoint(ctx context.Context, name string) (lost int, err error) {
	var fifos []*fifo
	// In the committer, so that everything written to these queues is written.
	err = q.relaxed(ctx, func(*store.Batch) {
		q.mu.Lock()
		defer q.mu.Unlock()
		e := q.endpoints[name]
		if e == nil {
			return
		}
		fifos = e.fifos
		delete(q.endpoints, name)
		for _, f := range fifos {
			f.removed = true
			delete(q.fifos, f.name)
			q.bytes -= int64(f.appended - f.deleted)
			for _, c := range f.dead {
				q.doomed -= int64(c.cost)
			}
			f.dead = nil
		}
	})
	if err != nil {
		return 0, fmt.Errorf("remove endpoint %s: %w", name, err)
	}
	for _, f := range fifos {
		q.mu.Lock()
		lost += int(f.next - f.done.count())
		f.ahead = nil
		q.mu.Unlock()
		if err := q.eraseContext(ctx, f); err != nil {
			return lost, fmt.Errorf("remove endpoint %s: %w", name, err)
		}
	}
	return lost, nil
}

// erase deletes what the store holds of a queue that nobody knows any more.
func (q *Queue) erase(f *fifo) error { return q.eraseContext(context.Background(), f) }

func (q *Queue) eraseContext(ctx context.Context, f *fifo) error {
	var from []byte
	for more := true; more; {
		var chunks []*chunk
		refs := 0
		more = false
		err := q.s.Scan(queueKey('m', f.id), from, func(key, value []byte) error {
			items, err := decodeChunk(value)
			if err != nil {
				return err
			}
			last, err := keyOffset(key)
			if err != nil {
				return err
			}
			chunks = append(chunks, newChunk(last, len(value), items))
			refs += len(chunks[len(chunks)-1].refs)
			if more = len(chunks) == 64 || refs > 1000; more {
				return store.ErrStop // few enough for an atomic batch
			}
			return nil
		})
		if err != nil {
			return err
		}
		if more {
			from = offsetKey('m', f.id, chunks[len(chunks)-1].last+1)
		}
		err = q.relaxed(ctx, func(b *store.Batch) {
			for _, c := range chunks {
				b.Delete(offsetKey('m', f.id, c.last), c.cost)
				q.bodies.release(b, c.refs)
			}
			if !more {
				for _, kind := range []byte("dnc") {
					b.Delete(queueKey(kind, f.id), 0)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// relaxed runs one relaxed commit and waits for it.
func (q *Queue) relaxed(ctx context.Context, fill func(*store.Batch)) error {
	result := make(chan error, 1)
	q.s.CommitRelaxed(fill, func(err error) {
		q.bodies.written()
		result <- err
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
