package c2d

import (
	"sync"

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
	// Deliver hands a message to the client. settled is called exactly once, maybe
	// before Deliver returns.
	Deliver func(m *iothub.Message, settled func(head.Outcome))
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
	running   bool // there is a goroutine that hands out
	paused    bool
	epoch     int // counts Resume
	closed    bool
}

// Subscribe starts to hand out messages, at once if there are any. There is one
// subscription for an identity: an older one is closed.
func (q *Queues) Subscribe(id iothub.Identity, o SubscribeOptions) *Subscription {
	s := &Subscription{q: q, id: id, o: o}
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

// Resume goes on after a pause.
func (s *Subscription) Resume() {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	s.epoch++
	s.paused = false
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
	if q.closed || s == nil || s.closed || s.paused || s.unsettled >= window {
		return nil
	}
	return q.nextLocked(qu, s.from)
}

func (s *Subscription) pump(qu *queue) {
	for {
		s.q.mu.Lock()
		var e *entry
		if qu.sub == s {
			e = s.q.offerLocked(qu)
		}
		if e == nil {
			s.running = false
			s.q.mu.Unlock()
			return
		}
		l, deliveries, epoch := s.q.lockLocked(e, s), e.deliveries, s.epoch
		s.unsettled++
		s.q.mu.Unlock()
		m, err := s.q.message(e, l, deliveries)
		switch {
		case err != nil:
			s.q.o.Logger.Error("cloud-to-device message not delivered", "identity", s.id.String(), "error", err)
			s.settled(e, l, head.Lost, epoch)
		case m == nil: // purged meanwhile
			s.settled(e, l, head.Lost, epoch-1)
		default:
			var once sync.Once
			s.o.Deliver(m, func(o head.Outcome) { once.Do(func() { s.settled(e, l, o, epoch) }) })
		}
	}
}

// settled takes the outcome of a delivery that began in an epoch.
func (s *Subscription) settled(e *entry, l *lock, o head.Outcome, epoch int) {
	q := s.q
	pause := o == head.Lost || o == head.Abandon && s.o.AbandonPauses
	var removed []removal
	counted := false
	q.mu.Lock()
	s.unsettled--
	if pause && epoch == s.epoch {
		s.paused = true
	}
	final := o == head.Complete || o == head.Reject
	switch {
	case e.gone:
	case e.lock == l && pause && o == head.Abandon: // not sent: this was no delivery
		e.lock = nil
		q.rescheduleLocked(e)
	case e.lock == l, final && (e.lock == nil || e.lock.sub == s):
		removed, counted = q.settleLocked(e, o)
	}
	q.kickLocked(e.queue)
	q.mu.Unlock()
	if counted {
		q.saveCounts(e)
	}
	q.saveRemovals(removed, q.logged)
}
