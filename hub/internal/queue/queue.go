// Package queue holds messages on disk until their endpoints have taken them: per
// endpoint and priority one queue in order of arrival, on the store's group
// commit. Whoever routes messages appends; package dispatch reads and settles.
//
//	Append -> waiting -> (store's committer) chunk -> store -> Reader.Read -> Settle
//	                                           |                               |
//	                                           +-> done: on disk               +-> checkpoint, deletes
//
// Three surprises. Messages that are stored by one group commit become one record,
// a chunk, which is why a busy queue costs the database little. A Settle is
// remembered on disk soon, but without a sync: after a crash messages may come
// twice, and none is lost. And the counters of a queue are written beside it, so a
// start reads two small records a queue, however long it is.
package queue

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// DefaultPriority is the priority of routes that name none, and the last to be
// served. The others are 0, the first, to 9.
const DefaultPriority = 2_000_000_000

// Errors that Append gives to done, beside those of store.Commit.
var (
	// ErrFull: Options.MaxBytes is reached. It is store.ErrFull too.
	ErrFull = fmt.Errorf("queue limit reached: %w", store.ErrFull)
	// ErrTooLarge: the message is over what a record can hold, which is more than
	// iothub.MaxMessageSize. Permanent.
	ErrTooLarge = errors.New("message too large to store")
)

// Options configure New. The zero value is usable.
type Options struct {
	// Logger; nil means slog.Default.
	Logger *slog.Logger
	// Now is the clock of enqueue times and expiry; nil means time.Now.
	Now func() time.Time
	// MaxBytes limits what all queues take on disk together; 0: only the disk
	// does. What is finished and about to be deleted does not count.
	MaxBytes int64
	// WhenFull says what to do when MaxBytes is reached.
	WhenFull Policy
	// LiveFirst lets new messages pass while a reader works through a backlog: each
	// half of what it reads. Within both, order stays. By default all is in order.
	LiveFirst bool
	// Evicted is called for each message that was dropped by DropOldest, with its
	// endpoint, from the goroutine that appends; nil: nobody wants to know.
	Evicted func(m *iothub.Message, endpoint string)
	// MaxPending and MaxPendingBytes bound the messages that wait for the
	// committer; Append blocks above them. 0 means 4096 and 8 MiB.
	MaxPending      int
	MaxPendingBytes int
	// Expired is called for each message whose time to live ended before it was
	// delivered, from the goroutine that reads; nil: nobody wants to know.
	Expired func(m *iothub.Message)
}

// Policy is what happens to a message for which there is no room.
type Policy uint8

const (
	// RefuseNew refuses it with ErrFull; what is stored stays.
	RefuseNew Policy = iota
	// DropOldest drops the oldest messages of the lowest priority that no reader
	// has in its hands. If there are none, the new message is refused.
	DropOldest
)

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 4096
	}
	if o.MaxPendingBytes <= 0 {
		o.MaxPendingBytes = 8 << 20
	}
	if o.Evicted == nil {
		o.Evicted = func(*iothub.Message, string) {}
	}
	if o.Expired == nil {
		o.Expired = func(*iothub.Message) {}
	}
}

// Target is one queue that a message goes to.
type Target struct {
	Endpoint string
	Priority uint32 // 0 to 9, or DefaultPriority
	// TTL is the time to live from now on: the message expires when it has passed,
	// at once if it is 0. Negative: never.
	TTL time.Duration
}

// Queue is all queues of a hub. Methods may be called concurrently. It has no
// goroutine of its own and needs no Close: closing the store ends it.
type Queue struct {
	s *store.Store
	o Options

	mu        sync.Mutex
	fifos     map[fifoName]*fifo   // guarded by mu
	endpoints map[string]*endpoint // guarded by mu
	nextID    uint32               // guarded by mu
	bytes     int64                // guarded by mu: of all fifos
	doomed    int64                // guarded by mu: of bytes, finished and not deleted yet
	loaded    sync.Cond            // of mu: a fifo is no longer loading
	full      fullness             // guarded by mu

	room         sync.Cond   // of mu: waiting got shorter
	waiting      []*appended // guarded by mu
	waitingBytes int         // guarded by mu
	ticket       bool        // guarded by mu: a commit that will take waiting is under way

	dirty    []*fifo // guarded by mu: with settlements that are not written
	settling bool    // guarded by mu: a commit that will write them is under way

	bodies bodies // owned by the committer's goroutine
}

type fifoName struct {
	endpoint string
	priority uint32
}

// fifo is one queue. Offsets count its messages from 0 on:
//
//	done.head <= handed <= loaded <= stored <= next
//
// Below head all is finished, up to handed a reader has it, up to loaded it lies
// in ahead, up to stored it is on disk, up to next it is being written. All fields
// are guarded by Queue.mu.
type fifo struct {
	id   uint32
	name fifoName

	next     uint64
	stored   uint64
	appended uint64 // bytes ever written
	deleted  uint64 // bytes ever given back
	done     finished

	generation int // counts readers; settlements for an earlier one are ignored
	handed     uint64
	loaded     uint64
	loading    bool // a reader is reading from the store
	ahead      []*Entry
	aheadBytes int
	live       live

	dead    []*chunk // finished, to be deleted
	dirty   bool
	removed bool
}

func (f *fifo) len() int { return int(f.stored - f.done.count()) }

// endpoint is the queues of one endpoint, by ascending priority. Guarded by
// Queue.mu.
type endpoint struct {
	fifos []*fifo
	read  bool          // there is a Reader
	ready chan struct{} // capacity 1: something was stored
}

func (e *endpoint) nudge() {
	select {
	case e.ready <- struct{}{}:
	default:
	}
}

// New loads the queues of a store. The store serves one Queue only.
func New(s *store.Store, o Options) (*Queue, error) {
	o.defaults()
	q := &Queue{
		s:         s,
		o:         o,
		fifos:     make(map[fifoName]*fifo),
		endpoints: make(map[string]*endpoint),
		bodies:    bodies{s: s, left: make(map[bodyID]*bodyCount)},
	}
	q.room.L, q.loaded.L = &q.mu, &q.mu
	if err := q.load(); err != nil {
		return nil, fmt.Errorf("load queues: %w", err)
	}
	return q, nil
}

func (q *Queue) load() error {
	switch b, err := q.s.Get(keyNextID); {
	case err == nil && len(b) == 4:
		q.nextID = binary.BigEndian.Uint32(b)
	case err == nil:
		return fmt.Errorf("next id: %w", errCorrupt)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	var old []*fifo
	err := q.s.Scan([]byte("qd"), nil, func(key, value []byte) error {
		if len(key) != 6 || len(value) < 4 {
			return fmt.Errorf("queue name: %w", errCorrupt)
		}
		f := &fifo{id: binary.BigEndian.Uint32(key[2:])}
		f.name = fifoName{endpoint: string(value[4:]), priority: binary.BigEndian.Uint32(value)}
		if twin := q.fifos[f.name]; twin != nil {
			// A removal that did not come to its end before the queue came again.
			old = append(old, twin)
		}
		q.fifos[f.name] = f
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range q.fifos {
		if err := q.loadCounters(f); err != nil {
			return fmt.Errorf("endpoint %s priority %d: %w", f.name.endpoint, f.name.priority, err)
		}
		q.attach(f)
		q.bytes += int64(f.appended - f.deleted)
	}
	for _, f := range old {
		if err := q.erase(f); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) loadCounters(f *fifo) error {
	b, err := q.s.Get(queueKey('n', f.id))
	if err != nil {
		return err
	}
	r := reader{b: b}
	f.next, f.appended = r.uvarint(), r.uvarint()
	if r.err != nil {
		return r.err
	}
	switch b, err = q.s.Get(queueKey('c', f.id)); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	default:
		if f.done, f.deleted, err = decodeFinished(b); err != nil {
			return err
		}
	}
	// A power cut may keep a checkpoint without the messages it speaks of only if
	// those were never acknowledged: their offsets must not be used again.
	f.next = max(f.next, f.done.head)
	if n := len(f.done.spans); n > 0 {
		f.next = max(f.next, f.done.spans[n-1].hi)
	}
	f.appended = max(f.appended, f.deleted)
	f.stored = f.next
	f.handed, f.loaded = f.done.head, f.done.head
	return nil
}

// attach makes a fifo known. q.mu is held, or q is not shared yet.
func (q *Queue) attach(f *fifo) {
	q.fifos[f.name] = f
	e := q.endpointLocked(f.name.endpoint)
	i, _ := slices.BinarySearchFunc(e.fifos, f.name.priority, func(f *fifo, p uint32) int {
		return cmp.Compare(f.name.priority, p)
	})
	e.fifos = slices.Insert(e.fifos, i, f)
}

func (q *Queue) endpointLocked(name string) *endpoint {
	e := q.endpoints[name]
	if e == nil {
		e = &endpoint{ready: make(chan struct{}, 1)}
		q.endpoints[name] = e
	}
	return e
}

// Length is how many messages wait in one queue, those being delivered included.
type Length struct {
	Endpoint string
	Priority uint32
	Messages int
	Bytes    int64 // on disk
}

// Lengths returns the length of every queue, in order of endpoint and priority.
func (q *Queue) Lengths() []Length {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]Length, 0, len(q.fifos))
	for name, f := range q.fifos {
		list = append(list, Length{name.endpoint, name.priority, f.len(), int64(f.appended - f.deleted)})
	}
	slices.SortFunc(list, func(a, b Length) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Priority, b.Priority))
	})
	return list
}

// Len returns how many messages wait in one queue; 0 if there is none.
func (q *Queue) Len(endpoint string, priority uint32) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f := q.fifos[fifoName{endpoint, priority}]; f != nil {
		return f.len()
	}
	return 0
}

// Bytes is about what all queues take on disk. It counts a message until its
// chunk is deleted.
func (q *Queue) Bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Endpoints returns the endpoints that have queues, sorted; queues may be empty.
func (q *Queue) Endpoints() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []string
	for name, e := range q.endpoints {
		if len(e.fifos) > 0 {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// OldestAge is how long the first unfinished message of an endpoint has waited; 0
// if there is none. It reads from the store.
func (q *Queue) OldestAge(endpoint string) (time.Duration, error) {
	q.mu.Lock()
	type place struct {
		id   uint32
		head uint64
	}
	var heads []place
	if e := q.endpoints[endpoint]; e != nil {
		for _, f := range e.fifos {
			if f.len() > 0 {
				heads = append(heads, place{f.id, f.done.head})
			}
		}
	}
	q.mu.Unlock()
	now := q.o.Now().UnixMilli()
	oldest := now
	for _, h := range heads {
		prefix := queueKey('m', h.id)
		err := q.s.Scan(prefix, offsetKey('m', h.id, h.head), func(key, value []byte) error {
			items, err := decodeChunk(value)
			if err != nil {
				return err
			}
			last, err := keyOffset(key)
			if err != nil {
				return err
			}
			first := last + 1 - uint64(len(items))
			if i := max(h.head, first) - first; i < uint64(len(items)) {
				oldest = min(oldest, items[i].enqueued)
			}
			return store.ErrStop
		})
		if err != nil {
			return 0, fmt.Errorf("oldest message of %s: %w", endpoint, err)
		}
	}
	return time.Duration(now-oldest) * time.Millisecond, nil
}
