package engine

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Errors of Link.Send.
var (
	ErrQueueFull = errors.New("amqp: too many messages wait for credit")
	ErrTooLarge  = errors.New("amqp: message is larger than the client takes")
)

// Outgoing is a message to the client. Payload and Tag are kept and must not be
// changed.
type Outgoing struct {
	Payload []byte
	Format  uint32
	Tag     []byte // nil: one is made
	Settled bool   // nobody wants to know the outcome; the link's mode may overrule it
	// Data belongs to the application.
	Data any

	l           *Link
	id          uint32
	off         int
	begun       bool
	unconfirmed bool
}

// Link returns the link on which the message was sent.
func (o *Outgoing) Link() *Link { return o.l }

// Unconfirmed tells whether the client waits for Confirm.
func (o *Outgoing) Unconfirmed() bool { return o.unconfirmed }

// Send queues a message, which leaves when there is credit. EventSettled or
// EventLost tells its fate; a settled one counts as accepted once it is written.
func (l *Link) Send(o *Outgoing) error {
	switch {
	case l.state != linkAttached || l.role != wire.RoleSender:
		return ErrLinkGone
	case l.Queued() >= l.c.o.MaxQueue:
		return ErrQueueFull
	case l.attach.MaxMessageSize > 0 && uint64(len(o.Payload)) > l.attach.MaxMessageSize:
		return ErrTooLarge
	}
	switch l.attach.SenderMode {
	case wire.SenderSettled:
		o.Settled = true
	case wire.SenderUnsettled:
		o.Settled = false
	}
	o.l = l
	l.queue = append(l.queue, o)
	l.wake()
	return nil
}

// Queued returns how many messages wait for credit.
func (l *Link) Queued() int { return len(l.queue) - l.head }

// Credit returns how many more messages the client takes beyond those queued.
func (l *Link) Credit() uint32 {
	if n := uint32(l.Queued()); n < l.credit {
		return l.credit - n
	}
	return 0
}

// Limit returns how many messages the client has permitted since the link was
// attached, sent ones included.
func (l *Link) Limit() uint64 { return l.begun + uint64(l.credit) }

// Draining tells whether the client waits for its credit to be used up.
func (l *Link) Draining() bool { return l.drain }

// Drained says that the application has nothing more to send for now. After
// the queue is empty the client gets its remaining credit back.
func (l *Link) Drained() {
	if l.drain && l.state == linkAttached {
		l.drainable = true
		if !l.isDrain {
			l.isDrain = true
			l.c.drains = append(l.c.drains, l)
		}
	}
}

// onCredit handles the client's flow.
func (l *Link) onCredit(p *wire.Flow) {
	if p.LinkCredit.Set {
		limit := p.DeliveryCount.Or(0) + p.LinkCredit.V
		l.credit = limit - l.deliveryCount
		if l.credit > p.LinkCredit.V {
			l.credit = 0 // what we have sent meanwhile has used it up
		}
	}
	l.drain = p.Drain
	l.drainable = l.drainable && l.drain
	if l.state == linkAttached {
		l.wake()
		l.c.emit(Event{Kind: EventCredit, Session: l.s, Link: l})
	}
}

// wake puts the link on the list of those that may have something to send.
func (l *Link) wake() {
	if !l.isReady && l.sendable() {
		l.isReady = true
		l.c.ready = append(l.c.ready, l)
	}
}

func (l *Link) sendable() bool {
	if l.state != linkAttached || l.Queued() == 0 || l.s.outWindow == 0 {
		return false
	}
	o := l.queue[l.head]
	return o.begun || l.credit > 0 && (o.Settled || l.unsettled < l.c.o.MaxUnsettled)
}

// pump writes transfers, one frame of each link in turn, until nothing is
// sendable or enough output waits.
func (c *Conn) pump() {
	n := 0
	for n < len(c.ready) && len(c.out) < c.o.MaxOutput/2 {
		l := c.ready[n]
		n++
		if l.sendable() {
			l.sendFrame()
		}
		switch {
		case !l.sendable():
			l.isReady = false
		case n == len(c.ready): // it is the only one
			n--
		default:
			c.ready = append(c.ready, l)
		}
	}
	c.ready = slices.Delete(c.ready, 0, n)
}

// sendFrame writes the next frame of the first message in the queue.
func (l *Link) sendFrame() {
	o, c, s := l.queue[l.head], l.c, l.s
	t := &c.transfer
	*t = wire.Transfer{Handle: l.local}
	if !o.begun {
		l.beginOutgoing(o)
		t.DeliveryID = wire.Some(o.id)
		t.DeliveryTag = o.Tag
		t.MessageFormat = wire.Some(o.Format)
		t.Settled = wire.Some(o.Settled)
	}
	rest := o.Payload[o.off:]
	start := len(c.out)
	t.More = len(rest) > int(c.maxFrame)-wire.FrameHeaderSize
	var n int
	c.out, n = wire.AppendFrame(c.out, wire.FrameAMQP, s.local, t, rest, c.maxFrame)
	if n < len(rest) && !t.More {
		t.More = true
		c.out, n = wire.AppendFrame(c.out[:start], wire.FrameAMQP, s.local, t, rest, c.maxFrame)
	}
	o.off += n
	s.nextOutgoing++
	s.outWindow--
	if o.off == len(o.Payload) && !t.More {
		l.sent(o)
	}
}

func (l *Link) beginOutgoing(o *Outgoing) {
	s := l.s
	o.begun = true
	o.id = s.nextDelivery
	s.nextDelivery++
	l.credit--
	l.begun++
	l.deliveryCount++
	if len(o.Tag) == 0 {
		l.tag++
		o.Tag = binary.BigEndian.AppendUint32(nil, l.tag)
	}
	if !o.Settled {
		put(&s.outgoing, o.id, o)
		l.unsettled++
	}
}

// sent takes a message that is written to its end off the queue.
func (l *Link) sent(o *Outgoing) {
	l.queue[l.head] = nil
	if l.head++; l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
	} else if l.head > 64 && l.head > len(l.queue)/2 {
		l.queue = slices.Delete(l.queue, 0, l.head)
		l.head = 0
	}
	o.Payload = nil
	if o.Settled {
		l.c.emit(Event{Kind: EventSettled, Session: l.s, Link: l, Outgoing: o, State: wire.Accepted()})
	}
}

// answerDrain gives remaining credit back when there is nothing left to send.
func (l *Link) answerDrain() {
	if !l.drain || !l.drainable || l.state != linkAttached || l.credit > 0 && l.Queued() > 0 {
		return
	}
	l.deliveryCount += l.credit
	l.credit = 0
	l.s.sendFlow(l, true)
	l.drain, l.drainable = false, false
	l.c.emit(Event{Kind: EventCredit, Session: l.s, Link: l})
}

// dropOutgoing reports all messages of a link that goes as lost, in order.
func (l *Link) dropOutgoing() {
	if l.role != wire.RoleSender {
		return
	}
	var lost []*Outgoing
	for id, o := range l.s.outgoing {
		if o.l == l {
			delete(l.s.outgoing, id)
			if !o.unconfirmed {
				lost = append(lost, o)
			}
			o.unconfirmed = false
		}
	}
	slices.SortFunc(lost, func(a, b *Outgoing) int { return cmp.Compare(int32(a.id-b.id), 0) })
	for _, o := range l.queue[l.head:] {
		if !o.begun || o.Settled {
			lost = append(lost, o)
		}
	}
	l.queue, l.head, l.unsettled = nil, 0, 0
	for _, o := range lost {
		l.c.emit(Event{Kind: EventLost, Session: l.s, Link: l, Outgoing: o})
	}
}
