package queue

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Bounds of what lies in memory of one queue, ready to be read. One group or one
// chunk may go over them.
const (
	aheadCount = 1024
	aheadBytes = 1 << 20
)

// chunk is a chunk of which something is in memory. left is guarded by Queue.mu.
type chunk struct {
	last    uint64   // offset of the last message
	left    int      // messages that are not finished
	cost    int      // what it counts for in the size of the queue
	entries []*Entry // while it is being stored
	passed  bool     // some of it has passed the backlog
}

// Entry is a message in the hands of a reader.
type Entry struct {
	Message  *iothub.Message
	Priority uint32
	Offset   uint64 // in its queue
	Enqueued time.Time
	Size     int // on disk

	clock      *clock
	expires    int64 // by clock
	f          *fifo
	c          *chunk
	generation int
	settled    bool // guarded by Queue.mu
}

// Expired tells whether the time to live has ended at a time that has just been.
func (e *Entry) Expired(now time.Time) bool {
	return e.expires != math.MaxInt64 && e.clock.at(now) >= e.expires
}

// Reader reads the queues of one endpoint. Settle may be called from anywhere; the
// other methods from one goroutine at a time.
type Reader struct {
	q    *Queue
	name string
	e    *endpoint
}

// Reader returns a reader that starts with the first unfinished message of every
// queue of the endpoint. A reader that was made before for the same endpoint must
// not be used any more.
func (q *Queue) Reader(endpoint string) *Reader {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.endpointLocked(endpoint)
	e.read = true
	for _, f := range e.fifos {
		f.generation++
		f.handed, f.loaded = f.done.head, f.done.head
		f.ahead, f.aheadBytes = nil, 0
		f.live = live{}
		q.holdLocked(f, -f.memory)
	}
	e.nudge()
	return &Reader{q: q, name: endpoint, e: e}
}

// Ready receives after messages have been stored. It may do so without need.
func (r *Reader) Ready() <-chan struct{} { return r.e.ready }

// Priorities appends the priorities that have messages to be read, the most urgent
// first.
func (r *Reader) Priorities(list []uint32) []uint32 {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	for _, f := range r.e.fifos {
		if len(f.ahead) > 0 || f.loaded < f.stored || len(f.live.entries) > 0 {
			list = append(list, f.name.priority)
		}
	}
	return list
}

// Read returns the next messages of one priority, in order, at most count, and no
// more once they have size bytes, or Options.MaxAhead is reached; then Ready receives
// when there is room again. Expired ones are finished and reported instead of returned.
// Every entry must be settled; until then it comes again after a restart. With a count
// of 0 it only removes expired messages from the front.
func (r *Reader) Read(priority uint32, count, size int) ([]*Entry, error) {
	var out, expired []*Entry
	now := r.q.clock.time()
	defer func() { r.expire(expired) }()
	for {
		r.q.mu.Lock()
		f := r.q.fifos[fifoName{r.name, priority}]
		if f == nil {
			r.q.mu.Unlock()
			return out, nil
		}
		for f.loading { // somebody makes room
			r.q.loaded.Wait()
		}
		out, expired, size = f.live.take(out, expired, now, count, size)
		n := 0
		for ; n < len(f.ahead); n++ {
			e := f.ahead[n]
			if now >= e.expires {
				expired = append(expired, e)
			} else if len(out) < count && size > 0 {
				out = append(out, e)
				size -= e.Size
			} else {
				break
			}
			f.aheadBytes -= e.Size
			f.handed = e.Offset + 1
		}
		clear(f.ahead[:n])
		f.ahead = f.ahead[n:]
		if len(f.ahead) > 0 || f.loaded >= f.stored || count > 0 && (len(out) >= count || size <= 0) {
			r.q.mu.Unlock()
			return out, nil
		}
		if len(expired) >= aheadCount {
			r.q.mu.Unlock()
			if count > 0 {
				r.e.nudge() // there is more, which nobody else would tell
				return out, nil
			}
			r.expire(expired)
			expired = nil
			continue
		}
		if !r.q.mayLoadLocked(f) {
			r.q.mu.Unlock()
			return out, nil
		}
		load := r.loadLocked(f)
		r.q.mu.Unlock()
		if err := load(); err != nil {
			return out, fmt.Errorf("read queue %s priority %d: %w", r.name, priority, err)
		}
	}
}

// expire finishes and reports messages.
func (r *Reader) expire(list []*Entry) {
	r.Settle(list...)
	for _, e := range list {
		r.q.o.Expired(e.Message)
	}
}

// loadLocked begins to read chunks from the log into f.ahead; the caller runs what
// it returns, without the lock.
func (r *Reader) loadLocked(f *fifo) func() error {
	f.loading = true
	from, to, generation := f.loaded, f.stored, f.generation
	size := min(aheadBytes/2, r.q.roomLocked(f))
	return func() error { return r.load(f, from, to, size, generation) }
}

func (r *Reader) load(f *fifo, from, to uint64, size, generation int) error {
	loaded, err := r.readChunks(f, from, to, size)
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	f.loading = false
	r.q.loaded.Broadcast()
	if err != nil {
		return err
	}
	if f.generation != generation || f.removed { // a new reader begins anew
		return nil
	}
	next, more := from, false
	for _, lc := range loaded {
		r.q.skipLocked(f, next, lc.first)
		next, more = lc.c.last+1, lc.more
		before := f.live.bytes
		passed := f.live.meet(lc.c.last)
		r.q.holdLocked(f, f.live.bytes-before)
		for _, e := range lc.entries {
			if passed != nil {
				_, taken := f.live.taken[e.Offset]
				if e.c = passed; taken || f.done.has(e.Offset) {
					continue
				}
			} else if f.done.has(e.Offset) {
				lc.c.left--
				continue
			}
			e.generation = f.generation
			f.ahead = append(f.ahead, e)
			f.aheadBytes += e.Size
			r.q.holdLocked(f, e.Size)
		}
	}
	if !more {
		r.q.skipLocked(f, next, to)
		next = to
	}
	f.loaded = next
	return nil
}

// skipLocked finishes what is not there to be read, and not finished: it is damaged.
func (q *Queue) skipLocked(f *fifo, from, to uint64) {
	lost := 0
	for o := max(from, f.done.head); o < to; o++ {
		if f.done.add(o) {
			q.log.Finish(f.id, o, o+1)
			f.fresh = append(f.fresh, o)
			lost++
		}
	}
	if lost > 0 {
		q.emptiedLocked(f)
		q.dirtyLocked(f)
		q.o.Logger.Error("messages are lost, since they cannot be read from disk",
			"endpoint", f.name.endpoint, "priority", f.name.priority, "messages", lost)
	}
}

type loadedChunk struct {
	c       *chunk
	first   uint64
	entries []*Entry
	more    bool // reading stopped after it
}

// readChunks reads chunks until they have most bytes, at least one.
func (r *Reader) readChunks(f *fifo, from, to uint64, most int) ([]loadedChunk, error) {
	var list []loadedChunk
	count, size := 0, 0
	err := r.q.log.Read(f.id, from, to, func(p seglog.Part, bodies seglog.Bodies) error {
		lc, err := r.decode(f, p, bodies)
		if errors.Is(err, errCorrupt) {
			// Its checksum is right, so it was written like that: it will not get better.
			r.q.o.Logger.Error("messages on disk cannot be understood", "endpoint", r.name, "offset", p.First, "messages", p.Count, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		list = append(list, lc)
		for _, e := range lc.entries {
			size += e.Size
		}
		if count += len(lc.entries); count >= aheadCount/2 || size >= most {
			list[len(list)-1].more = true
			return seglog.ErrStop
		}
		return nil
	}, func(d seglog.Damage) {
		r.q.o.Logger.Error("messages on disk are damaged", "endpoint", r.name, "where", d.String())
	})
	return list, err
}

func (r *Reader) decode(f *fifo, p seglog.Part, bodies seglog.Bodies) (loadedChunk, error) {
	items, err := decodeChunk(p.Data)
	if err != nil {
		return loadedChunk{}, err
	}
	if len(items) != p.Count {
		return loadedChunk{}, fmt.Errorf("%w: %d messages instead of %d", errCorrupt, len(items), p.Count)
	}
	lc := loadedChunk{c: &chunk{last: p.First + uint64(p.Count) - 1, left: len(items), cost: p.Cost}, first: p.First}
	for i := range items {
		it := &items[i]
		offset := lc.first + uint64(i)
		m, err := it.decode(bodies)
		if err != nil {
			return loadedChunk{}, fmt.Errorf("message %d: %w", offset, err)
		}
		lc.entries = append(lc.entries, &Entry{
			Message:  m,
			Priority: f.name.priority,
			Offset:   offset,
			Enqueued: r.q.clock.system(it.enqueued),
			clock:    &r.q.clock,
			expires:  it.expires(),
			Size:     it.size,
			f:        f,
			c:        lc.c,
		})
	}
	return lc, nil
}

// decode returns the message, which may lie in a body.
func (it *item) decode(bodies seglog.Bodies) (*iothub.Message, error) {
	record := it.message
	if it.shared > 0 {
		var ok bool
		if record, ok = bodies[it.body]; !ok || len(record) != it.size {
			return nil, fmt.Errorf("%w: body %d is missing", errCorrupt, it.body)
		}
	}
	return decodeMessage(record)
}
