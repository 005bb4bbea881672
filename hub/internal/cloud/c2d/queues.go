package c2d

import (
	"container/heap"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Bounds of IoT Hub (spec iothub-service 11.3 and 18).
const (
	// MaxPending is how many messages may wait in one queue, locked ones included.
	MaxPending = 50
	// MaxSize bounds a message, counted by iothub.Message.Size.
	MaxSize = 64 << 10
	// MaxTTL is the longest that a message waits.
	MaxTTL = 48 * time.Hour
)

// Errors of the package.
var (
	// ErrFull: MaxPending messages wait already.
	ErrFull = errors.New("the queue of the device is full")
	// ErrInvalid: the message can never be sent.
	ErrInvalid = errors.New("invalid message")
	// ErrTooLarge: the message is larger than MaxSize.
	ErrTooLarge = errors.New("message too large")
	// ErrLockLost: nothing is locked under this token (any more).
	ErrLockLost = errors.New("lock of the message is lost")
	// ErrClosed: the hub is going down.
	ErrClosed = errors.New("queues are closed")
)

// Options configure Open; zero values mean the defaults.
type Options struct {
	// TTL is how long a message waits that names no expiry: 1 h.
	TTL time.Duration
	// MaxDeliveries is the number of abandons that ends a message: 10.
	MaxDeliveries int
	// LockTimeout is how long a receiver may take to settle: 1 min.
	LockTimeout time.Duration
	// FeedbackDelay is how long feedback waits for more, to go out together: 500 ms.
	FeedbackDelay time.Duration
	// Known tells whether an identity of this generation exists. Messages for others,
	// left behind by a crash, are dropped by Open. Nil means that all exist.
	Known func(id iothub.Identity, generation string) bool
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

func (o *Options) defaults() {
	if o.TTL == 0 {
		o.TTL = time.Hour
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = 10
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Minute
	}
	if o.FeedbackDelay == 0 {
		o.FeedbackDelay = 500 * time.Millisecond
	}
	if o.Known == nil {
		o.Known = func(iothub.Identity, string) bool { return true }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Queues holds the queues of all devices and modules. All methods may be called
// concurrently.
//
// Lock order: queue.send, Queues.mu, feedbackLog.mu. Callbacks of the store take the
// last two, so neither is held over Store.Commit, which may block.
type Queues struct {
	o                           Options
	s                           *store.Store
	messages, counts, sequences store.Bucket
	feedback                    *feedbackLog
	wake                        chan struct{} // capacity 1: something is due earlier than Run knows

	mu     sync.Mutex
	queues map[iothub.Identity]*queue
	due    dueHeap // stored entries, by what happens to them next
	closed bool
	pumps  sync.WaitGroup // never added to after closed
}

// queue is the queue of one identity.
type queue struct {
	id iothub.Identity
	// send is held by one sender over Store.Commit, so that sequence numbers get to
	// the disk in their order.
	send sync.Mutex

	// Guarded by Queues.mu.
	last    uint64   // sequence number given last
	entries []*entry // by sequence number
	sub     *Subscription
}

// entry is the index of one message.
type entry struct {
	queue *queue
	seq   uint64

	// Guarded by Queues.mu.
	stored               bool // on disk: may be handed out
	gone                 bool // removed
	expires              time.Time
	deliveries, abandons int
	lock                 *lock // nil: nobody has it
	tell                 tell
	index                int // in Queues.due; -1: not there
}

// lock is the right of one receiver to settle a message.
type lock struct {
	token string
	until time.Time
	sub   *Subscription // nil for Receive
	late  bool          // it ran out before the subscriber settled; guarded by Queues.mu
}

// at is when something happens to the entry by itself.
func (e *entry) at() time.Time {
	if e.lock != nil {
		return e.lock.until
	}
	return e.expires
}

func (e *entry) key() string { return messageKey(e.queue.id, e.seq) }

// Open reads the queues in s. Run must be called for messages to expire.
func Open(s *store.Store, o Options) (*Queues, error) {
	o.defaults()
	q := &Queues{o: o, s: s, messages: s.Bucket("cloud.c2d.messages"), counts: s.Bucket("cloud.c2d.counts"),
		sequences: s.Bucket("cloud.c2d.sequences"), wake: make(chan struct{}, 1), queues: map[iothub.Identity]*queue{}}
	if err := q.load(); err != nil {
		return nil, fmt.Errorf("cloud-to-device messages: %w", err)
	}
	var err error
	if q.feedback, err = openFeedback(s, o, q.nudge); err != nil {
		return nil, fmt.Errorf("cloud-to-device feedback: %w", err)
	}
	return q, nil
}

// Run lets messages expire and locks run out until ctx ends; then nothing more is
// handed out, and it waits for what is being handed out.
func (q *Queues) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ctx.Done():
			q.mu.Lock()
			q.closed = true
			q.mu.Unlock()
			q.pumps.Wait()
			return nil
		}
		next := q.sweep()
		if next.IsZero() {
			timer.Stop()
			continue
		}
		timer.Reset(max(next.Sub(q.o.Now()), 0))
	}
}

// sweep does what is due and returns when the next is; zero for never.
func (q *Queues) sweep() time.Time {
	now := q.o.Now()
	var removed []removal
	var released []*entry
	var stuck []func()
	q.mu.Lock()
	for len(q.due) > 0 && !q.due[0].at().After(now) {
		e := q.due[0]
		if e.lock == nil {
			removed = append(removed, q.removeLocked(e, Expired))
			continue
		}
		if s := e.lock.sub; s != nil && s.lateLocked(e.lock) {
			stuck = append(stuck, s.o.Stuck)
		}
		q.releaseLocked(e)
		released = append(released, e)
		q.kickLocked(e.queue)
	}
	var next time.Time
	if len(q.due) > 0 {
		next = q.due[0].at()
	}
	q.mu.Unlock()
	q.saveRemovals(removed, q.logged)
	for _, e := range released {
		q.saveCounts(e)
	}
	for _, f := range stuck {
		f()
	}
	if f := q.feedback.sweep(now); !f.IsZero() && (next.IsZero() || f.Before(next)) {
		next = f
	}
	return next
}

// nudge has Run look again when the next thing is due.
func (q *Queues) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Depth is how many messages wait for an identity, locked ones included.
func (q *Queues) Depth(id iothub.Identity) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if qu := q.queues[id]; qu != nil {
		return len(qu.entries)
	}
	return 0
}

// queueLocked returns the queue of an identity, making it if need be.
func (q *Queues) queueLocked(id iothub.Identity) *queue {
	qu := q.queues[id]
	if qu == nil {
		qu = &queue{id: id}
		q.queues[id] = qu
	}
	return qu
}

// nextLocked is the oldest message from a sequence number on that nobody has.
func (q *Queues) nextLocked(qu *queue, from uint64) *entry {
	now := q.o.Now()
	for _, e := range qu.entries {
		if e.stored && e.lock == nil && e.seq >= from && e.expires.After(now) {
			return e
		}
	}
	return nil
}

func (q *Queues) lockLocked(e *entry, sub *Subscription) *lock {
	e.lock = &lock{token: newToken(), until: q.o.Now().Add(q.o.LockTimeout), sub: sub}
	q.rescheduleLocked(e)
	return e.lock
}

// releaseLocked puts a message back that was handed out.
func (q *Queues) releaseLocked(e *entry) {
	e.lock = nil
	e.deliveries++
	q.rescheduleLocked(e)
}

func (q *Queues) rescheduleLocked(e *entry) {
	if e.index >= 0 {
		heap.Fix(&q.due, e.index)
	} else {
		heap.Push(&q.due, e)
	}
	if e.index == 0 {
		q.nudge()
	}
}

// removal is a message that has come to an end, and what is to be done on disk.
type removal struct {
	id      iothub.Identity
	key     string
	counted bool
	status  Status
	tell    tell
}

func (q *Queues) removeLocked(e *entry, s Status) removal {
	e.gone, e.lock = true, nil
	e.queue.entries = slices.DeleteFunc(e.queue.entries, func(o *entry) bool { return o == e })
	if e.index >= 0 {
		heap.Remove(&q.due, e.index)
	}
	return removal{id: e.queue.id, key: e.key(), counted: e.deliveries > 0, status: s, tell: e.tell}
}

// saveRemovals removes messages from the disk and adds their feedback in one write.
// done is called from the store; it must not block.
func (q *Queues) saveRemovals(list []removal, done func(error)) {
	if len(list) == 0 {
		done(nil)
		return
	}
	var records []*feedbackRecord
	for _, r := range list {
		if r.tell.wants(r.status) {
			records = append(records, q.feedback.record(r))
		}
	}
	q.s.CommitLate(func(b *store.Batch) {
		for _, r := range list {
			b.Delete(q.messages.Key(r.key), 0)
			if r.counted {
				b.Delete(q.counts.Key(r.key), 0)
			}
		}
		for _, f := range records {
			b.Put(q.feedback.bucket.Key(f.key()), f.doc)
		}
	}, func(err error) {
		if err == nil {
			q.feedback.add(records)
		}
		done(err)
	})
}

// saveCounts writes how often a message was delivered; in a crash of the machine
// that may be lost.
func (q *Queues) saveCounts(e *entry) {
	q.s.CommitRelaxed(func(b *store.Batch) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if !e.gone {
			b.Put(q.counts.Key(e.key()), counts{Deliveries: e.deliveries, Abandons: e.abandons}.encode())
		}
	}, q.logged)
}

// logged is the end of writes that nobody waits for. What they should have removed
// comes again after a restart.
func (q *Queues) logged(err error) {
	if err != nil {
		q.o.Logger.Warn("state of cloud-to-device messages not stored", "error", err)
	}
}

// newToken returns a random UUID.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// dueHeap is a heap of entries by at.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at().Before(h[j].at()) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
