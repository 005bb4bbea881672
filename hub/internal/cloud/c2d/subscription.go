package c2d

import (
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// window is how many messages of a subscription are unsettled at most (spec
// iothub-mqtt 8).
const window = 16

// SubscribeOptions say how a subscriber wants its messages.
type SubscribeOptions struct {
	// OnlyNew leaves messages in the queue that are there already.
	OnlyNew bool
	// AbandonPauses is for protocols in which a client cannot abandon: then the
	// head means that it could not send the message. It does not count, and nothing
	// more is handed out before Resume.
	AbandonPauses bool
	// Window, if not nil, is how many messages the client takes at a time now. When
	// that grows Resume must be called.
	Window func() int
	// Stuck, if not nil, is called when as many messages as may be unsettled are, all
	// for longer than LockTimeout. Nothing more can be handed out then before the
	// client settles, which in a protocol without abandon may be never.
	Stuck func()
	// Deliver hands a message to the client. settled is called exactly once, maybe
	// before Deliver returns. It says whether the outcome counts, and is not too late.
	Deliver func(m *iothub.Message, settled func(head.Outcome) (counts bool))
}

// Subscription hands the messages of one identity to its client, oldest first, with
// at most 16 unsettled. After a message came back as lost, with its connection,
// nothing more is handed out before Resume.
//
// A client that settles a message after its lock has run out is still heard, unless
// the message has gone to another one: it has had it, after all.
type Subscription struct {
	q    *Queues
	id   iothub.Identity
	from uint64 // sequence number
	o    SubscribeOptions

	// Guarded by Queues.mu.
	unsettled int
	late      int  // those of unsettled whose lock has run out
	limit     int  // of unsettled, as last heard of Window
	running   bool // there is a goroutine that hands out
	paused    bool
	epoch     int // counts Resume
	closed    bool
}

// Subscribe starts to hand out messages, at once if there are any. There is one
// subscription for an identity: an older one is closed.
func (q *Queues) Subscribe(id iothub.Identity, o SubscribeOptions) *Subscription {
	s := &Subscription{q: q, id: id, o: o, limit: window}
	q.mu.Lock()
	defer q.mu.Unlock()
	qu := q.queueLocked(id)
	if qu.sub != nil {
		qu.sub.closed = true
	}
	qu.sub = s
	if o.OnlyNew {
		s.from = qu.last + 1
	}
	q.kickLocked(qu)
	return s
}

// Resume goes on after a pause, or when the window has grown.
func (s *Subscription) Resume() {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	s.epoch++
	s.paused, s.limit = false, window
	if qu := s.q.queues[s.id]; qu != nil {
		s.q.kickLocked(qu)
	}
}

// Close hands out nothing more; what is unsettled may still be settled. A Deliver
// that runs is not waited for.
func (s *Subscription) Close() {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	s.closed = true
	qu := s.q.queues[s.id]
	if qu == nil || qu.sub != s {
		return
	}
	qu.sub = nil
	if qu.last == 0 && len(qu.entries) == 0 {
		delete(s.q.queues, s.id)
	}
}

// kickLocked has the subscriber of a queue look for messages, on a goroutine that
// ends when there are none.
func (q *Queues) kickLocked(qu *queue) {
	s := qu.sub
	if s == nil || s.running || q.offerLocked(qu) == nil {
		return
	}
	s.running = true
	q.pumps.Go(func() { s.pump(qu) })
}

// offerLocked is the message to hand to the subscriber of a queue now.
func (q *Queues) offerLocked(qu *queue) *entry {
	s := qu.sub
	if q.closed || s == nil || s.closed || s.paused || s.unsettled >= s.limit {
		return nil
	}
	return q.nextLocked(qu, s.from)
}

func (s *Subscription) pump(qu *queue) {
	for {
		e, l, deliveries, epoch := s.next(qu)
		if e == nil {
			return
		}
		m, err := s.q.message(e, l, deliveries)
		switch {
		case err != nil:
			s.q.o.Logger.Error("cloud-to-device message not delivered", "identity", s.id.String(), "error", err)
			s.settled(e, l, head.Lost, epoch)
		case m == nil: // purged meanwhile
			s.settled(e, l, head.Lost, epoch-1)
		default:
			var done atomic.Bool
			s.o.Deliver(m, func(o head.Outcome) bool { return !done.Swap(true) && s.settled(e, l, o, epoch) })
		}
	}
}

// next locks the message to hand out; without one the pump has ended.
func (s *Subscription) next(qu *queue) (e *entry, l *lock, deliveries, epoch int) {
	q := s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	// Nobody else's code runs under mu; if Resume is called meanwhile, what Window
	// said is old.
	for s.o.Window != nil {
		epoch = s.epoch
		q.mu.Unlock()
		limit := s.o.Window()
		q.mu.Lock()
		if epoch == s.epoch {
			s.limit = min(window, limit)
			break
		}
	}
	if qu.sub == s {
		e = q.offerLocked(qu)
	}
	if e == nil {
		s.running = false
		return nil, nil, 0, 0
	}
	s.unsettled++
	return e, q.lockLocked(e, s), e.deliveries, s.epoch
}

// lateLocked notes that a lock has run out, and tells whether Stuck is to be called.
func (s *Subscription) lateLocked(l *lock) bool {
	l.late = true
	s.late++
	return s.late == window && !s.closed && s.o.Stuck != nil
}

// settled takes the outcome of a delivery that began in an epoch, and tells whether it
// has come in time to count.
func (s *Subscription) settled(e *entry, l *lock, o head.Outcome, epoch int) (counts bool) {
	q := s.q
	pause := o == head.Lost || o == head.Abandon && s.o.AbandonPauses
	var removed []removal
	counted := false
	q.mu.Lock()
	s.unsettled--
	if l.late {
		s.late--
	}
	if pause && epoch == s.epoch {
		s.paused = true
	}
	final := o == head.Complete || o == head.Reject
	switch {
	case e.gone:
	case e.lock == l && pause && o == head.Abandon: // not sent: this was no delivery
		e.lock = nil
		q.rescheduleLocked(e)
		counts = true
	case e.lock == l, final && (e.lock == nil || e.lock.sub == s):
		removed, counted = q.settleLocked(e, o)
		counts = true
	}
	q.kickLocked(e.queue)
	q.mu.Unlock()
	if counted {
		q.saveCounts(e)
	}
	q.saveRemovals(removed, q.logged)
	return counts
}
