package edge

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const (
	// inputWindow is how many messages may wait for one module input's
	// settlement, and clientWindow for those of all inputs of a module together: more
	// would be too many for a head (see mqtt.Options.MaxQueued).
	inputWindow  = 128
	clientWindow = 1024
	// cloudWindow is how many may wait for the cloud's.
	cloudWindow = 1024
)

// inputSink delivers to one input of a module of this device, which shares the places
// of the module's session with the other inputs.
//
// A lane that has failed, or began on an earlier connection of the module, takes
// nothing before a message that is its first: others would overtake.
type inputSink struct {
	hub      *Hub
	endpoint string
	module   iothub.Identity
	input    string

	// Of the pump's goroutine: the session that places were last asked of, and what
	// this input has of them.
	from *session
	seat *seat

	mu       sync.Mutex
	failures int
	lanes    map[uint32]inputLane // by priority
}

type inputLane struct {
	session  *session
	failures int // of the sink, when the lane began
}

var _ dispatch.Sharing = (*inputSink)(nil)

// Window is 0 while the module is not there to listen, and no more than it lets
// on its way to it.
func (k *inputSink) Window() int {
	s := k.hub.session(k.module)
	if s == nil || !s.wants(head.Inputs) {
		return 0
	}
	return min(inputWindow, s.window())
}

// window is how many messages the client lets on their way to its inputs.
func (s *session) window() int {
	if w, ok := s.client.(head.Windowed); ok {
		return min(clientWindow, w.Window(head.Inputs))
	}
	return clientWindow
}

// Reserve takes places of the module's session.
func (k *inputSink) Reserve(n int) int {
	s := k.hub.session(k.module)
	if s != k.from {
		k.GiveBack(0) // to the session before
		k.from, k.seat = s, &seat{nudge: func() { k.hub.engine.Nudge(k.endpoint) }}
	}
	if s == nil {
		return 0
	}
	return s.places.reserve(k.seat, n, s.window(), len(k.hub.routing.Load().inputs[k.module]))
}

// GiveBack returns them.
func (k *inputSink) GiveBack(n int) {
	if k.from != nil {
		k.from.places.leave(k.seat, n)
	}
}

// begin tells whether a message may go to a session.
func (k *inputSink) begin(s *session, info dispatch.Info) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := inputLane{s, k.failures}
	if info.First {
		k.lanes[info.Priority] = now
	}
	return k.lanes[info.Priority] == now
}

func (k *inputSink) fail() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures++
}

var errNotSettled = errors.New("module did not settle the message in time")

// Deliver sends the message to the module and waits, elsewhere, for its answer.
func (k *inputSink) Deliver(m *iothub.Message, info dispatch.Info, done func(error)) {
	s, seat := k.from, k.seat
	free := func(err error) {
		s.places.done(seat)
		done(err)
	}
	// The places are of the session that they were asked of.
	if k.hub.session(k.module) != s || !s.wants(head.Inputs) || !k.begin(s, info) {
		k.fail()
		free(dispatch.ErrNotReady)
		return
	}
	var settled atomic.Bool
	once := func(err error) (first bool) {
		if !settled.CompareAndSwap(false, true) {
			return false
		}
		if err != nil && !errors.Is(err, dispatch.ErrPermanent) {
			k.fail()
		}
		free(err)
		return true
	}
	timer := time.AfterFunc(k.hub.o.AckTimeout, func() { once(errNotSettled) })
	s.client.Deliver(k.input, toClient(m), func(o head.Outcome) bool {
		timer.Stop()
		switch o {
		case head.Complete:
			return once(nil)
		case head.Reject:
			return once(fmt.Errorf("%w: module %s has refused the message", dispatch.ErrPermanent, k.module))
		default: // abandoned, or lost with the connection: again when the module listens
			return once(dispatch.ErrNotReady)
		}
	})
}

// toClient is the message as a module gets it: of a twin change the reporter is
// shown as the sender (spec edgehub-routing 7).
func toClient(m *iothub.Message) *iothub.Message {
	reporter := m.System.Get(iothub.ReportedByDeviceID)
	if reporter == "" || m.System.Get(iothub.MessageType) != twinChangeNotification {
		return m
	}
	c := m.Clone()
	c.System.Set(iothub.ConnectionDeviceID, reporter)
	if module := m.System.Get(iothub.ReportedByModuleID); module != "" {
		c.System.Set(iothub.ConnectionModuleID, module)
	} else {
		c.System.Delete(iothub.ConnectionModuleID)
	}
	return c
}

// cloudSink delivers to the cloud, over the connection of each message's sender.
type cloudSink struct{ hub *Hub }

var _ dispatch.SenderOrdered = cloudSink{}

// OrderedBySender: one sender's trouble must not hold up the others.
func (cloudSink) OrderedBySender() {}

// Window is 0 while there is no cloud.
func (k cloudSink) Window() int {
	if !k.hub.online.Load() {
		return 0
	}
	return cloudWindow
}

// Deliver sends the message upstream.
func (k cloudSink) Deliver(m *iothub.Message, info dispatch.Info, done func(error)) {
	if m.Sender().IsZero() {
		done(fmt.Errorf("%w: message has no sender", dispatch.ErrPermanent))
		return
	}
	lane := upstream.Lane{Priority: info.Priority, First: info.First}
	k.hub.pool.Send(m, lane, func(err error) {
		switch {
		case errors.Is(err, upstream.ErrMessage),
			// Nobody is given up before the cloud has told who there is.
			errors.Is(err, upstream.ErrNoIdentity) && k.hub.scope.Complete():
			err = fmt.Errorf("%w: %w", dispatch.ErrPermanent, err)
		}
		done(err)
	})
}
