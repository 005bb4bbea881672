package engine

import (
	"bytes"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Delivery is a message from the client. Its fields must not be changed.
type Delivery struct {
	Tag     []byte
	Format  uint32
	Payload []byte
	// Data belongs to the application.
	Data any

	l       *Link
	id      uint32
	settled bool // nobody waits for our disposition
	decided bool // Settle was called
	counted bool // counts as outstanding
}

// Link returns the link on which the message came.
func (d *Delivery) Link() *Link { return d.l }

// Settled tells whether the sender has settled the delivery and so does not
// wait for an outcome.
func (d *Delivery) Settled() bool { return d.settled }

// onTransfer handles a transfer frame.
func (s *Session) onTransfer(p *wire.Transfer, payload []byte) {
	if s.inWindow == 0 {
		s.End(wire.Errorf(wire.CondWindowViolation, "more than %d transfers", s.c.o.IncomingWindow))
		return
	}
	s.inWindow--
	s.nextIncoming++
	if s.inWindow <= s.c.o.IncomingWindow/2 {
		s.touch()
	}
	l := s.handles[p.Handle]
	switch {
	case l == nil:
		s.End(wire.Errorf(wire.CondUnattachedHandle, "transfer on handle %d", p.Handle))
	case l.state == linkDetaching:
	case l.role != wire.RoleReceiver:
		s.End(wire.Errorf(wire.CondNotAllowed, "transfer to a receiver"))
	default:
		l.onTransfer(p, payload)
	}
}

func (l *Link) onTransfer(p *wire.Transfer, payload []byte) {
	d := l.partial
	if d == nil {
		if d = l.newDelivery(p); d == nil {
			return
		}
	} else if p.DeliveryID.Set && p.DeliveryID.V != d.id {
		l.s.End(wire.Errorf(wire.CondInvalidField, "delivery %d within delivery %d", p.DeliveryID.V, d.id))
		return
	}
	if p.Settled.Or(false) {
		d.settled = true
	}
	if p.Aborted {
		l.dropPartial()
		l.outstanding--
		l.refill()
		return
	}
	if uint64(len(d.Payload))+uint64(len(payload)) > l.maxMessage {
		l.Detach(wire.Errorf(wire.CondMessageSizeExceeded, "message is larger than %d bytes", l.maxMessage))
		return
	}
	if p.More && l.c.partial+len(payload) > l.c.limit.partial {
		l.c.fail(wire.Errorf(wire.CondResourceLimitExceeded, "more than %d bytes of incomplete messages", l.c.limit.partial))
		return
	}
	d.Payload = append(d.Payload, payload...)
	l.c.partial += len(payload)
	if p.More {
		l.partial = d
		return
	}
	l.complete(d)
}

// newDelivery begins a delivery, or returns nil after an error.
func (l *Link) newDelivery(p *wire.Transfer) *Delivery {
	if l.credit == 0 || l.state != linkAttached {
		l.Detach(wire.Errorf(wire.CondTransferLimitExceeded, "transfer without credit"))
		return nil
	}
	if !p.DeliveryID.Set {
		l.s.End(wire.Errorf(wire.CondInvalidField, "transfer without delivery-id"))
		return nil
	}
	if len(p.DeliveryTag) > 32 {
		l.s.End(wire.Errorf(wire.CondInvalidField, "delivery-tag of %d bytes", len(p.DeliveryTag)))
		return nil
	}
	if l.s.incoming[p.DeliveryID.V] != nil {
		l.s.End(wire.Errorf(wire.CondInvalidField, "delivery %d is not settled yet", p.DeliveryID.V))
		return nil
	}
	l.credit--
	l.deliveryCount++
	l.outstanding++
	return &Delivery{l: l, id: p.DeliveryID.V, Tag: bytes.Clone(p.DeliveryTag), Format: p.MessageFormat.Or(0), counted: true}
}

func (l *Link) complete(d *Delivery) {
	l.partial = nil
	l.c.partial -= len(d.Payload)
	l.c.buffered += len(d.Payload)
	if !d.settled {
		put(&l.s.incoming, d.id, d)
	}
	l.c.emit(Event{Kind: EventDelivery, Session: l.s, Link: l, Delivery: d})
}

func (l *Link) dropPartial() {
	if l.partial != nil {
		l.c.partial -= len(l.partial.Payload)
		l.partial = nil
	}
}

// Settle tells the client the outcome of a delivery and returns its credit.
// Every delivery must be settled once, those that the sender has settled too.
// Settling again, or after the link has gone, does nothing.
func (d *Delivery) Settle(state wire.State) {
	if d.decided {
		return
	}
	d.decided = true
	l := d.l
	l.c.buffered -= len(d.Payload)
	if l.state != linkAttached {
		return
	}
	if d.settled {
		d.finish()
		return
	}
	l.s.disposition(wire.RoleReceiver, d.id, !l.twoStep, &state)
	if !l.twoStep {
		delete(l.s.incoming, d.id)
		d.settled = true
		d.finish()
	}
}

// finish returns the delivery's credit.
func (d *Delivery) finish() {
	if d.counted && d.decided && d.settled {
		d.counted = false
		d.l.outstanding--
		d.l.refill()
	}
}

// dropIncoming forgets the deliveries of a link that goes.
func (l *Link) dropIncoming() {
	if l.role != wire.RoleReceiver {
		return
	}
	l.dropPartial()
	for id, d := range l.s.incoming {
		if d.l == l {
			d.settled = true
			delete(l.s.incoming, id)
		}
	}
}

// SetWindow changes how many deliveries may be on the way or with the
// application. A smaller window does not take back credit already given.
func (l *Link) SetWindow(n uint32) {
	l.window = n
	l.refill()
}

// refill puts the link on Flush's list when it is due for credit.
func (l *Link) refill() {
	if !l.creditDue && l.state == linkAttached && l.missing() > 0 {
		l.creditDue = true
		l.c.credits = append(l.c.credits, l)
	}
}

// missing returns how much credit to add, 0 while less than half the window is
// missing.
func (l *Link) missing() uint32 {
	have := uint64(l.credit) + uint64(l.outstanding)
	if have >= uint64(l.window) {
		return 0
	}
	if n := l.window - uint32(have); n >= (l.window+1)/2 {
		return n
	}
	return 0
}
