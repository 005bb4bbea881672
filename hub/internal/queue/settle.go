package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
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
	defer r.q.mu.Unlock()
	for _, e := range entries {
		r.q.settleLocked(e)
	}
}

func (q *Queue) settleLocked(e *Entry) {
	f := e.f
	if e.settled || f.removed || e.generation != f.generation {
		return
	}
	e.settled = true
	q.holdLocked(f, -e.Size)
	defer q.unblockLocked(f)
	delete(f.live.taken, e.Offset)
	if !f.done.add(e.Offset) {
		return
	}
	q.log.Finish(f.id, e.Offset, e.Offset+1)
	if e.c.left--; e.c.left == 0 {
		f.bytes -= int64(e.c.cost)
		q.bytes -= int64(e.c.cost)
		f.live.settled(e.c)
	}
	q.emptiedLocked(f)
	f.fresh = append(f.fresh, e.Offset)
	q.dirtyLocked(f)
}

// emptiedLocked keeps what damage on disk does to the count of bytes from lasting.
func (q *Queue) emptiedLocked(f *fifo) {
	if f.done.head == f.stored {
		q.bytes -= f.bytes
		f.bytes = 0
	}
}

func (q *Queue) dirtyLocked(f *fifo) {
	if f.dirty {
		return
	}
	f.dirty = true
	q.dirty = append(q.dirty, f)
	q.remind()
}

// remind has the committer write settlements soon, if it does not know already: to
// wake it for each would cost more than to write them.
func (q *Queue) remind() {
	if !q.reminded.CompareAndSwap(false, true) {
		return
	}
	select {
	case q.settled <- struct{}{}:
	default:
	}
}

// maxSettled bounds the settlements of one frame.
const maxSettled = 32 << 10

// fillSettled puts settlements into the frame, and tells whether there are more.
func (q *Queue) fillSettled(frame *seglog.Frame) (more bool) {
	q.fillClock(frame)
	q.mu.Lock()
	defer q.mu.Unlock()
	room := maxSettled
	for len(q.dirty) > 0 && room > 0 {
		f := q.dirty[0]
		if f.removed {
			f.fresh = nil
		}
		n := min(len(f.fresh), room)
		if n > 0 {
			frame.Add(seglog.Part{Kind: seglog.Meta, Data: settledChange(f, spansOf(f.fresh[:n]))})
		}
		room -= n + 1
		if f.fresh = f.fresh[n:]; len(f.fresh) == 0 {
			f.fresh, f.dirty = nil, false
			q.dirty[0] = nil
			q.dirty = q.dirty[1:]
		}
	}
	if more = len(q.dirty) > 0; more {
		q.remind()
	}
	return more
}

// spansOf sorts offsets and joins them.
func spansOf(offsets []uint64) []span {
	slices.Sort(offsets)
	var list []span
	for _, o := range offsets {
		if n := len(list); n > 0 && list[n-1].hi >= o {
			list[n-1].hi = o + 1
		} else {
			list = append(list, span{o, o + 1})
		}
	}
	return list
}

// RemoveEndpoint deletes all queues of an endpoint and returns how many messages
// are lost by it. Its Reader must not be used any more. Messages appended
// meanwhile go to a new queue. When ctx ends first, it happens all the same, later.
func (q *Queue) RemoveEndpoint(ctx context.Context, name string) (lost int, err error) {
	type result struct {
		lost int
		err  error
	}
	removed := make(chan result, 1)
	// In the committer, so that everything written to these queues is written. Synced:
	// an endpoint that is added again under this name must not find them.
	q.call(func() {
		var frame seglog.Frame
		lost := q.removeQueues(name, &frame)
		removed <- result{lost, q.log.Write(&frame, true)}
	})
	select {
	case r := <-removed:
		lost, err = r.lost, r.err
	case <-q.done:
		err = seglog.ErrClosed
	case <-ctx.Done():
		return 0, fmt.Errorf("remove endpoint %s: %w", name, ctx.Err())
	}
	if err != nil {
		return lost, fmt.Errorf("remove endpoint %s: %w", name, err)
	}
	return lost, nil
}

func (q *Queue) removeQueues(name string, frame *seglog.Frame) (lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.endpoints[name]
	if e == nil {
		return 0
	}
	for _, f := range slices.Clone(e.fifos) {
		lost += f.len()
		q.bytes -= f.bytes
		f.ahead, f.live = nil, live{}
		q.holdLocked(f, -f.memory)
		q.forget(f)
		q.log.Drop(f.id)
		frame.Add(seglog.Part{Kind: seglog.Meta, Data: removedChange(f)})
	}
	delete(q.endpoints, name)
	return lost
}
