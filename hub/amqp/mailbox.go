package amqp

import (
	"sync"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// command is something that another goroutine wants from the owner of a
// connection: to settle a delivery, to send a message, or anything else (fn).
type command struct {
	delivery *engine.Delivery
	state    wire.State
	outgoing *engine.Outgoing
	sender   *Sender
	fn       func()
}

// mailbox brings commands to the owner in order. It is bounded by what posts
// to it: one settlement for each delivery of a window, the messages that a
// Sender lets pass, and one accept, refuse or detach for each link.
type mailbox struct {
	wake chan struct{} // has a token when commands wait

	mu     sync.Mutex
	queue  []command
	closed bool

	taken []command // owned by the owner
}

// post queues a command; false means that the connection is over.
func (b *mailbox) post(c command) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.queue = append(b.queue, c)
	first := len(b.queue) == 1
	b.mu.Unlock()
	if first {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns what has been posted, valid until the next call.
func (b *mailbox) take() []command {
	clear(b.taken)
	if cap(b.taken) > 1024 {
		b.taken = nil // what a burst has left
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken, b.queue = b.queue, b.taken[:0]
	return b.taken
}

func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// commands carries out what has been posted and returns how many.
func (c *Conn) commands() int {
	list := c.box.take()
	for i := range list {
		switch m := &list[i]; {
		case m.delivery != nil:
			m.delivery.Settle(m.state)
		case m.outgoing != nil:
			m.sender.enqueue(m.outgoing)
		default:
			m.fn()
		}
	}
	return len(list)
}

// dispatch hands events to the handlers and returns how many.
func (c *Conn) dispatch() (n int) {
	for {
		e, ok := c.e.Next()
		if !ok {
			return n
		}
		n++
		c.event(&e)
	}
}

func (c *Conn) event(e *engine.Event) {
	switch e.Kind {
	case engine.EventSASL:
		c.handler.OnSASL(&SASL{c: c, init: e.SASL, Response: e.SASL.InitialResponse})
	case engine.EventSASLResponse:
		c.handler.OnSASL(&SASL{c: c, init: &wire.SASLInit{}, Response: e.Response, Continued: true})
	case engine.EventOpen:
		c.handler.OnOpen(&Open{Open: e.Open, c: c})
	case engine.EventAttach:
		a := &Attach{c: c, l: e.Link, client: e.Link.Attach()}
		e.Link.Data = &linkData{}
		c.handler.OnAttach(a)
	case engine.EventDetach:
		e.Link.Data.(*linkData).detached(e.Err)
	case engine.EventDelivery:
		if r := e.Link.Data.(*linkData).receiver; r != nil {
			r.handler.OnDelivery(&Delivery{c: c, d: e.Delivery, settled: e.Delivery.Settled()})
		}
	case engine.EventCredit:
		if s := e.Link.Data.(*linkData).sender; s != nil {
			s.onCredit()
		}
	case engine.EventSettled:
		c.settled(e)
	case engine.EventLost:
		e.Outgoing.Data.(*outgoing).finish(Outcome{Lost: true})
	}
}

// settled hands an outcome to the application and confirms it unless that is
// the application's business.
func (c *Conn) settled(e *engine.Event) {
	m := e.Outgoing.Data.(*outgoing)
	out := Outcome{State: e.State, c: c}
	if !e.Outgoing.Unconfirmed() {
		m.finish(out)
		return
	}
	out.o = e.Outgoing
	m.finish(out)
	if !m.sender.o.ManualConfirm {
		e.Outgoing.Confirm(wire.Accepted())
	}
}

// linkData is what the server keeps with a link. Owned by the connection's
// goroutine.
type linkData struct {
	receiver *Receiver
	sender   *Sender
	gone     bool
	err      *wire.Error
}

func (d *linkData) detached(err *wire.Error) {
	d.gone, d.err = true, err
	switch {
	case d.receiver != nil:
		d.receiver.handler.OnDetach(err)
	case d.sender != nil:
		d.sender.gone.Store(true)
		d.sender.limit.Store(0)
		d.sender.handler.OnDetach(err)
	}
}
