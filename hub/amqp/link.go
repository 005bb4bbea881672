package amqp

import (
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Errors of Sender.Send.
var (
	// ErrLinkGone: the link or the connection has ended.
	ErrLinkGone = engine.ErrLinkGone
	// ErrQueueFull: SenderOptions.MaxInFlight messages are not settled.
	ErrQueueFull = engine.ErrQueueFull
	// ErrTooLarge: the client does not take messages of that size.
	ErrTooLarge = engine.ErrTooLarge
)

// ReceiverHandler hears of a link on which the client sends. Its methods run on
// the goroutine of the connection and must not block.
type ReceiverHandler interface {
	// OnDelivery takes a message, which must be settled once, now or later.
	OnDelivery(d *Delivery)
	// OnDetach tells that the link has ended, by the client or by us. It comes
	// once, and nothing comes after it.
	OnDetach(err *wire.Error)
}

// SenderHandler hears of a link on which the client receives. Its methods run
// on the goroutine of the connection and must not block.
type SenderHandler interface {
	// OnCredit tells that the client's credit has changed, and how many more
	// messages it takes now. With drain the client wants all there is at once.
	OnCredit(s *Sender, credit uint32, drain bool)
	// OnDetach tells that the link has ended, by the client or by us. It comes
	// once, after the callbacks of all messages that were lost.
	OnDetach(err *wire.Error)
}

// Receiver is a link on which the client sends.
type Receiver struct {
	c       *Conn
	l       *engine.Link
	handler ReceiverHandler
}

// SetWindow changes how many messages the client may have on the way and with
// the application. A smaller window does not take back credit.
func (r *Receiver) SetWindow(n uint32) {
	r.c.box.post(command{fn: func() { r.l.SetWindow(n) }})
}

// Detach closes the link, with an error or nil.
func (r *Receiver) Detach(err *wire.Error) {
	r.c.box.post(command{fn: func() { r.l.Detach(err) }})
}

// Delivery is a message from the client.
type Delivery struct {
	c       *Conn
	d       *engine.Delivery
	settled bool
	done    atomic.Bool
}

// Settled tells whether the client has sent the message settled and so does not
// wait for an outcome.
func (d *Delivery) Settled() bool { return d.settled }

// Payload returns the encoded message, which the application may keep but not
// change.
func (d *Delivery) Payload() []byte { return d.d.Payload }

// Tag returns the delivery tag, which must not be changed.
func (d *Delivery) Tag() []byte { return d.d.Tag }

// Format returns the message format; 0 is AMQP's own.
func (d *Delivery) Format() uint32 { return d.d.Format }

// Message decodes the payload. Its data sections alias the payload.
func (d *Delivery) Message() (*wire.Message, error) {
	m := new(wire.Message)
	if err := wire.DecodeMessage(d.d.Payload, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Settle tells the client the outcome and makes room for the next message. Each
// delivery must be settled once, also one that the client has settled itself;
// settling again, or when the link has gone, does nothing.
func (d *Delivery) Settle(state wire.State) {
	if d.done.CompareAndSwap(false, true) {
		d.c.box.post(command{delivery: d.d, state: state})
	}
}

// Accept settles the delivery as accepted.
func (d *Delivery) Accept() { d.Settle(wire.Accepted()) }

// Reject settles the delivery as rejected, with the reason or nil.
func (d *Delivery) Reject(err *wire.Error) { d.Settle(wire.Rejected(err)) }

// Release settles the delivery as released: the client may send it again.
func (d *Delivery) Release() { d.Settle(wire.Released()) }

// Sender is a link on which the client receives.
type Sender struct {
	c       *Conn
	l       *engine.Link
	handler SenderHandler
	o       SenderOptions

	gone     atomic.Bool
	inFlight atomic.Int64
	sent     atomic.Uint64 // messages that Send has taken
	limit    atomic.Uint64 // messages that the client has permitted in all
}

// Outcome is the fate of a message.
type Outcome struct {
	// State is the outcome that the client has given; none when Lost.
	State wire.State
	// Lost tells that the link has ended before there was an outcome.
	Lost bool

	c *Conn
	o *engine.Outgoing
}

// Confirm answers a client that waits until its outcome has been applied
// (receiver settles second), with SenderOptions.ManualConfirm: accepted when it
// was, whatever the outcome, or rejected. For clients that do not wait it does
// nothing, and so it does the second time. Any goroutine may call it.
func (o *Outcome) Confirm(state wire.State) {
	if o.o != nil {
		out := o.o
		o.c.box.post(command{fn: func() { out.Confirm(state) }})
	}
}

// SendOptions are how a message is sent.
type SendOptions struct {
	Tag     []byte // delivery tag of up to 32 bytes, which is kept; nil: one is made
	Format  uint32
	Settled bool // the outcome does not matter; the link's mode may overrule it
}

// outgoing is what the server keeps with a message.
type outgoing struct {
	sender  *Sender
	settled func(Outcome)
}

// Send sends a message as soon as the client has credit and calls settled, on
// the goroutine of the connection, with its fate: exactly once if Send returns
// nil, else never. settled may be nil. A message sent settled counts as
// accepted once it is written out.
func (s *Sender) Send(m *wire.Message, o SendOptions, settled func(Outcome)) error {
	return s.SendPayload(wire.AppendMessage(nil, m), o, settled)
}

// SendPayload is Send for a message that is encoded already. The payload is
// kept and must not be changed.
func (s *Sender) SendPayload(payload []byte, o SendOptions, settled func(Outcome)) error {
	if limit := s.l.Attach().MaxMessageSize; limit > 0 && uint64(len(payload)) > limit {
		return ErrTooLarge
	}
	if s.gone.Load() {
		return ErrLinkGone
	}
	if s.inFlight.Add(1) > int64(s.o.MaxInFlight) {
		s.inFlight.Add(-1)
		return ErrQueueFull
	}
	s.sent.Add(1)
	out := &engine.Outgoing{Payload: payload, Tag: o.Tag, Format: o.Format, Settled: o.Settled, Data: &outgoing{s, settled}}
	if !s.c.box.post(command{outgoing: out, sender: s}) {
		s.inFlight.Add(-1)
		return ErrLinkGone
	}
	return nil
}

// Credit returns how many messages more would leave at once. It can be out of
// date as soon as it returns, but falls with every Send.
func (s *Sender) Credit() uint32 {
	if limit, sent := s.limit.Load(), s.sent.Load(); limit > sent {
		return uint32(min(limit-sent, 1<<31))
	}
	return 0
}

// SettledOnly tells whether the client wants all messages settled, so that it
// never gives an outcome.
func (s *Sender) SettledOnly() bool { return s.l.Attach().SenderMode == wire.SenderSettled }

// Drained says that there is nothing more to send for now, which ends a drain
// once the messages sent before have left; with SenderOptions.ManualDrain.
func (s *Sender) Drained() {
	s.c.box.post(command{fn: s.l.Drained})
}

// Detach closes the link, with an error or nil. Messages not settled are lost.
func (s *Sender) Detach(err *wire.Error) {
	s.c.box.post(command{fn: func() { s.l.Detach(err) }})
}

// enqueue gives a message to the engine. On the goroutine of the connection.
func (s *Sender) enqueue(o *engine.Outgoing) {
	if err := s.l.Send(o); err != nil {
		o.Data.(*outgoing).finish(Outcome{Lost: true})
	}
}

// onCredit tells the handler. On the goroutine of the connection.
func (s *Sender) onCredit() {
	s.limit.Store(s.l.Limit())
	drain := s.l.Draining()
	s.handler.OnCredit(s, s.Credit(), drain)
	if drain && !s.o.ManualDrain {
		s.Drained()
	}
}

// finish calls the application back. On the goroutine of the connection.
func (m *outgoing) finish(out Outcome) {
	m.sender.inFlight.Add(-1)
	if m.settled != nil {
		m.settled(out)
	}
}
