package amqp

import (
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// SASL is a step of authentication that waits for an answer: one of Accept,
// Refuse and Challenge, once. Later answers do nothing.
type SASL struct {
	// Response is the initial response, or the answer to a challenge
	// (Continued).
	Response  []byte
	Continued bool

	c    *Conn
	init *wire.SASLInit
	done atomic.Bool
}

// Mechanism returns the mechanism that the client has chosen; "" when
// Continued.
func (s *SASL) Mechanism() string { return s.init.Mechanism }

// Hostname returns the host that the client means to talk to; "" when
// Continued.
func (s *SASL) Hostname() string { return s.init.Hostname }

func (s *SASL) answer(fn func()) {
	if s.done.CompareAndSwap(false, true) {
		s.c.box.post(command{fn: fn})
	}
}

// Accept lets the client in.
func (s *SASL) Accept() { s.answer(func() { _ = s.c.e.SASLOutcome(wire.SASLOK) }) }

// Refuse ends the connection with one of the codes of wire.SASLOutcome.
func (s *SASL) Refuse(code uint8) { s.answer(func() { _ = s.c.e.SASLOutcome(code) }) }

// Challenge asks the client for more. Its answer comes with OnSASL.
func (s *SASL) Challenge(challenge []byte) {
	s.answer(func() { _ = s.c.e.SASLChallenge(challenge) })
}

// Plain splits the response of the mechanism PLAIN into its parts.
func Plain(response []byte) (authzid, authcid, password string, ok bool) {
	var parts [3]string
	n := 0
	start := 0
	for i, b := range response {
		if b != 0 {
			continue
		}
		if n == 2 {
			return "", "", "", false
		}
		parts[n] = string(response[start:i])
		n++
		start = i + 1
	}
	if n != 2 {
		return "", "", "", false
	}
	return parts[0], parts[1], string(response[start:]), true
}

// Open is a connection that waits to be accepted or refused, once. Later
// answers do nothing.
type Open struct {
	// Open is what the client says.
	*wire.Open

	c    *Conn
	done atomic.Bool
}

// Accept opens the connection.
func (o *Open) Accept() {
	if o.done.CompareAndSwap(false, true) {
		o.c.box.post(command{fn: func() { _ = o.c.e.AcceptOpen() }})
	}
}

// Refuse closes the connection with an error.
func (o *Open) Refuse(err *wire.Error) {
	if o.done.CompareAndSwap(false, true) {
		o.c.Close(err)
	}
}

// Attach is a link that waits to be accepted or refused, once. Later answers
// do nothing.
type Attach struct {
	c      *Conn
	l      *engine.Link
	client *wire.Attach
	done   atomic.Bool
}

// Client returns the client's attach, which must not be changed.
func (a *Attach) Client() *wire.Attach { return a.client }

// Channel tells sessions of the connection apart: the client's channel.
func (a *Attach) Channel() uint16 { return a.l.Session().Channel() }

// ClientSends tells whether the client is the sender of the link, so that it
// wants AcceptReceiver; else it wants AcceptSender.
func (a *Attach) ClientSends() bool { return a.l.Role() == wire.RoleReceiver }

// Address returns the address of the node that the client wants: of the target
// when it sends, of the source when it receives; "" when there is none.
func (a *Attach) Address() string {
	switch p := a.client; {
	case a.ClientSends() && p.Target != nil:
		return p.Target.Address
	case !a.ClientSends() && p.Source != nil:
		return p.Source.Address
	}
	return ""
}

// Refuse refuses the link.
func (a *Attach) Refuse(err *wire.Error) {
	if a.done.CompareAndSwap(false, true) {
		a.c.box.post(command{fn: func() { _ = a.l.RefuseAttach(err) }})
	}
}

// Reply is what a link is accepted with. The zero Reply echoes source and
// target of the client, as most clients expect. A client that wants a node made
// (dynamic) is refused with amqp:not-implemented unless Source or Target names
// one; the link's handler then hears OnDetach at once.
type Reply struct {
	Source     *wire.Source
	Target     *wire.Target
	Properties wire.Map
	// MaxMessageSize is announced and, for a Receiver, enforced; 0: that of the
	// engine's Options.
	MaxMessageSize uint64
}

func (a *Attach) accept(r Reply, window uint32, twoStep bool) {
	data := a.l.Data.(*linkData)
	err := a.l.AcceptAttach(engine.AttachReply{
		Source: r.Source, Target: r.Target, Properties: r.Properties, MaxMessageSize: r.MaxMessageSize, Window: window, TwoStep: twoStep,
	})
	if err != nil {
		data.detached(data.err)
	}
}

// ReceiverOptions are how a link is accepted on which the client sends.
type ReceiverOptions struct {
	Reply
	// Window is how many messages the client may have on the way and with the
	// application, not settled; 100.
	Window uint32
	// TwoStep follows the standard when the client wants to settle second. See
	// engine.AttachReply for why this is not the default.
	TwoStep bool
}

// AcceptReceiver accepts a link on which the client sends. When the link has
// gone meanwhile, h hears OnDetach and nothing else. It returns nil when the
// link has been answered before or is of the other direction, or when the
// connection is over.
func (a *Attach) AcceptReceiver(h ReceiverHandler, o ReceiverOptions) *Receiver {
	if !a.ClientSends() || !a.done.CompareAndSwap(false, true) {
		return nil
	}
	if o.Window == 0 {
		o.Window = 100
	}
	r := &Receiver{c: a.c, l: a.l, handler: h}
	ok := a.c.box.post(command{fn: func() {
		a.l.Data.(*linkData).receiver = r
		a.accept(o.Reply, o.Window, o.TwoStep)
	}})
	if !ok {
		return nil
	}
	return r
}

// SenderOptions are how a link is accepted on which the client receives.
type SenderOptions struct {
	Reply
	// MaxInFlight is how many messages may be sent and not settled, those
	// included that wait for credit; Send refuses more. 1024.
	MaxInFlight int
	// ManualConfirm leaves it to the application to confirm outcomes to clients
	// that wait for it (Outcome.Confirm). Otherwise accepted is confirmed when
	// the callback of Send returns.
	ManualConfirm bool
	// ManualDrain leaves it to the application to call Sender.Drained when the
	// client drains. Otherwise a drain ends when OnCredit and what it has sent
	// are done.
	ManualDrain bool
}

// AcceptSender accepts a link on which the client receives. When the link has
// gone meanwhile, h hears OnDetach and nothing else. It returns nil when the
// link has been answered before or is of the other direction, or when the
// connection is over.
func (a *Attach) AcceptSender(h SenderHandler, o SenderOptions) *Sender {
	if a.ClientSends() || !a.done.CompareAndSwap(false, true) {
		return nil
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 1024
	}
	s := &Sender{c: a.c, l: a.l, handler: h, o: o}
	ok := a.c.box.post(command{fn: func() {
		a.l.Data.(*linkData).sender = s
		a.accept(o.Reply, 0, false)
	}})
	if !ok {
		return nil
	}
	return s
}
