// Package queue holds messages on disk until their endpoints have taken them: per
// endpoint and priority one queue in order of arrival, all of them in one log (package
// seglog). Whoever routes messages appends; package dispatch reads and settles.
//
//	Append -> waiting -> committer: one frame -> log -> Reader.Read -> Settle
//	                       ^                      |                      |
//	                       |                      +-> done: on disk      |
//	                       +------ settlements, with the next frame <----+
//
// Three surprises. What waits when the committer is ready becomes one frame, with one
// write and one sync, whatever the number of messages and endpoints. A Settle is
// written with the next frame, or after settleDelay, and without a sync of its own:
// after a crash messages may come twice, and none is lost. And the state of the
// queues is at the beginning of every segment, so a start reads no backlog.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Subfolder is where edgehub keeps its queues within the folder of its store.
const Subfolder = "messages"

// DefaultPriority is the priority of routes that name none, and the last to be
// served. The others are 0, the first, to 9.
const DefaultPriority = 2_000_000_000

// Errors that Append gives to done, beside those of seglog.Log.Write.
var (
	// ErrFull: Options.MaxBytes is reached. It is seglog.ErrFull too.
	ErrFull = fmt.Errorf("queue limit reached: %w", seglog.ErrFull)
	// ErrTooLarge: the message is over what a record can hold, which is more than
	// iothub.MaxMessageSize. Permanent.
	ErrTooLarge = errors.New("message too large to store")
)

// Options configure Open. The zero value is usable.
type Options struct {
	// Logger; nil means slog.Default.
	Logger *slog.Logger
	// Now is the system's clock; nil means time.Now.
	Now func() time.Time
	// Uptime is a clock that nobody sets, to tell when Now was. nil: the monotonic one
	// of the system if Now is nil too, else nobody sets Now.
	Uptime func() time.Duration
	// MaxBytes limits what all queues take on disk together; 0: only the disk
	// does. What is finished does not count.
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
	// MaxAhead bounds the bytes of messages in memory that are read ahead or in the
	// hands of readers, of all queues together; each queue may always have one chunk,
	// those of its messages that were stored together, up to 192 KiB or one message.
	// 0 means 32 MiB.
	MaxAhead int
	// MinFree is the disk space, in bytes, below which new messages are refused with
	// seglog.ErrFull, so that others on the disk have some left. 0 means 64 MiB;
	// negative: no check.
	MinFree int64
	// SegmentSize of the log in bytes; 0 means that of package seglog.
	SegmentSize int64
	// UnsafeNoSync: see seglog.Options.
	UnsafeNoSync bool
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
		if begin := time.Now(); o.Uptime == nil {
			o.Uptime = func() time.Duration { return time.Since(begin) }
		}
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 4096
	}
	if o.MaxPendingBytes <= 0 {
		o.MaxPendingBytes = 8 << 20
	}
	if o.MaxAhead <= 0 {
		o.MaxAhead = defaultMaxAhead
	}
	if o.MinFree == 0 {
		o.MinFree = 64 << 20
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

// Queue is all queues of a hub. Methods may be called concurrently. Close must be
// called.
type Queue struct {
	log   *seglog.Log
	o     Options
	clock clock

	mu        sync.Mutex
	fifos     map[fifoName]*fifo   // guarded by mu
	byID      map[uint32]*fifo     // guarded by mu
	endpoints map[string]*endpoint // guarded by mu
	nextID    uint32               // guarded by mu
	bytes     int64                // guarded by mu: of all fifos
	memory    int                  // guarded by mu: bytes of messages in memory, of all fifos
	loaded    sync.Cond            // of mu: a fifo is no longer loading
	full      fullness             // guarded by mu
	maxPassed int                  // the constant; tests make it small
	clockTold int                  // guarded by mu: clock.changes that are written
	resumed   *resumed             // the clock as found on disk; nil: nothing was

	room         sync.Cond   // of mu: waiting got shorter, or closed
	waiting      []*appended // guarded by mu
	waitingBytes int         // guarded by mu
	dirty        []*fifo     // guarded by mu: with settlements that are not written
	calls        []func()    // guarded by mu: to be run by the committer
	closed       bool        // guarded by mu
	ended        bool        // guarded by mu: the committer has ended

	turn      sync.Mutex // held by who writes the log; before mu
	committer committer  // guarded by turn

	wake    chan struct{} // capacity 1: something waits, or closed
	settled chan struct{} // capacity 1: reminded

	reminded atomic.Bool   // settleLate will be called
	done     chan struct{} // closed when the committer has ended
}

type fifoName struct {
	endpoint string
	priority uint32
}

// fifo is one queue. Offsets count its messages from 0 on:
//
//	done.head <= handed <= loaded <= stored
//
// Below head all is finished, up to handed a reader has it, up to loaded it lies
// in ahead, up to stored it is on disk. All fields are guarded by Queue.mu.
type fifo struct {
	id   uint32
	name fifoName

	stored uint64
	bytes  int64 // of chunks that are not finished
	done   finished
	named  bool // the name is on disk

	generation int // counts readers; settlements for an earlier one are ignored
	handed     uint64
	loaded     uint64
	loading    bool // a reader is reading from the log
	ahead      []*Entry
	aheadBytes int
	live       live
	memory     int  // bytes of ahead, of live, and in the reader's hands
	blocked    bool // the reader must be told when there is room in memory

	fresh   []uint64 // finished, and not written
	dirty   bool     // in Queue.dirty
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

// Open opens the queues that are in a folder, which then belongs to them.
func Open(folder seglog.Folder, o Options) (*Queue, error) {
	q, err := load(folder, o, false)
	if err != nil {
		return nil, err
	}
	go q.commitLoop()
	return q, nil
}

func newQueue(o Options) *Queue {
	o.defaults()
	q := &Queue{
		o:         o,
		fifos:     make(map[fifoName]*fifo),
		byID:      make(map[uint32]*fifo),
		endpoints: make(map[string]*endpoint),
		wake:      make(chan struct{}, 1),
		settled:   make(chan struct{}, 1),
		done:      make(chan struct{}),
		maxPassed: maxPassed,
	}
	q.clock = clock{now: q.o.Now, uptime: q.o.Uptime, jumped: q.jumped}
	q.clock.start()
	q.room.L, q.loaded.L = &q.mu, &q.mu
	q.committer.q = q
	return q
}

// Close refuses new messages, stores those that wait, and ends. It may be called more
// than once, but not from a callback of Append.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.room.Broadcast()
	q.mu.Unlock()
	q.nudge()
	<-q.done
	return q.log.Close()
}

// Failed is closed when a write or sync has gone wrong: from then on every message is
// refused, and the program should end and start again.
func (q *Queue) Failed() <-chan struct{} { return q.log.Failed() }

// Watch waits until the storage fails, and returns why, or until ctx ends, and returns
// nil. A program runs it beside its other parts, so that it ends with the storage.
func (q *Queue) Watch(ctx context.Context) error {
	select {
	case <-q.log.Failed():
		return q.log.Err()
	case <-ctx.Done():
		return nil
	}
}

// attach makes a fifo known. q.mu is held, or q is not shared yet.
func (q *Queue) attach(f *fifo) {
	q.fifos[f.name] = f
	q.byID[f.id] = f
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
		list = append(list, Length{name.endpoint, name.priority, f.len(), f.bytes})
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

// Bytes is about what all queues need on disk. It counts a message until its chunk,
// those that were stored with it, is finished.
func (q *Queue) Bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Usage is what the log takes on disk.
func (q *Queue) Usage() seglog.Usage { return q.log.Usage() }

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
// if there is none. It reads from disk.
func (q *Queue) OldestAge(endpoint string) (time.Duration, error) {
	q.mu.Lock()
	type place struct {
		id           uint32
		head, stored uint64
	}
	var heads []place
	if e := q.endpoints[endpoint]; e != nil {
		for _, f := range e.fifos {
			if f.len() > 0 {
				heads = append(heads, place{f.id, f.done.head, f.stored})
			}
		}
	}
	q.mu.Unlock()
	now := q.clock.time()
	oldest := now
	for _, h := range heads {
		err := q.log.Read(h.id, h.head, h.stored, func(p seglog.Part, _ seglog.Bodies) error {
			items, err := decodeChunk(p.Data)
			if err != nil {
				return err
			}
			if i := max(h.head, p.First) - p.First; i < uint64(len(items)) {
				oldest = min(oldest, items[i].enqueued)
			}
			return seglog.ErrStop
		}, nil)
		if err != nil {
			return 0, fmt.Errorf("oldest message of %s: %w", endpoint, err)
		}
	}
	return time.Duration(now-oldest) * time.Millisecond, nil
}
