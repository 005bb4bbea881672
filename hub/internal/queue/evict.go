package queue

import (
	"cmp"
	"slices"
	"time"
)

// fullness counts what a full queue has cost since it was last logged.
type fullness struct {
	refused, dropped int
	next             int64 // when there may be a line again
}

// fullLogInterval is the least time between two lines in the log about a full queue.
const fullLogInterval = 10 * time.Second

// makeRoomLocked tells whether so many bytes may be stored, after dropping others if
// that is the policy. It may give up the lock meanwhile.
func (q *Queue) makeRoomLocked(size int) bool {
	if q.o.MaxBytes <= 0 {
		return true
	}
	over := func() bool { return q.bytes+int64(q.waitingBytes+size) > q.o.MaxBytes }
	if !over() {
		return true
	}
	if q.o.WhenFull == DropOldest {
		for over() && q.evictLocked() {
		}
	}
	ok := !over()
	if !ok {
		q.full.refused++
	}
	q.logFullLocked()
	return ok
}

func (q *Queue) logFullLocked() {
	now := q.clock.time()
	if now < q.full.next {
		return
	}
	q.o.Logger.Warn("queue limit reached", "limit", q.o.MaxBytes, "bytes", q.bytes,
		"refused", q.full.refused, "dropped", q.full.dropped)
	q.full = fullness{next: now + fullLogInterval.Milliseconds()}
}

// evictLocked drops one chunk, the first in the queues of the lowest priority that
// has messages which no reader has, and tells whether there was one.
func (q *Queue) evictLocked() bool {
	list := make([]*fifo, 0, len(q.fifos))
	for _, f := range q.fifos {
		if f.handed < f.stored {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *fifo) int {
		return cmp.Or(cmp.Compare(b.name.priority, a.name.priority), b.size(a), cmp.Compare(a.id, b.id))
	})
	for _, f := range list {
		if q.evictFromLocked(f) {
			return true
		}
	}
	return false
}

// size compares what two queues take.
func (f *fifo) size(other *fifo) int {
	return cmp.Compare(f.bytes, other.bytes)
}

func (q *Queue) evictFromLocked(f *fifo) bool {
	for len(f.ahead) == 0 {
		for f.loading {
			q.loaded.Wait()
		}
		if len(f.ahead) > 0 {
			break
		}
		if f.removed || f.loaded >= f.stored {
			return false
		}
		r := &Reader{q: q, name: f.name.endpoint, e: q.endpoints[f.name.endpoint]}
		load := r.loadLocked(f)
		q.mu.Unlock()
		err := load()
		q.mu.Lock()
		if err != nil {
			q.o.Logger.Error("make room in queue", "endpoint", f.name.endpoint, "error", err)
			return false
		}
	}
	n := 0
	for c := f.ahead[0].c; n < len(f.ahead) && f.ahead[n].c == c; n++ {
		e := f.ahead[n]
		f.aheadBytes -= e.Size
		f.handed = e.Offset + 1
		q.settleLocked(e)
	}
	dropped := slices.Clone(f.ahead[:n])
	clear(f.ahead[:n])
	f.ahead = f.ahead[n:]
	q.full.dropped += n
	q.mu.Unlock()
	for _, e := range dropped {
		q.o.Evicted(e.Message, f.name.endpoint)
	}
	q.mu.Lock()
	return true
}
