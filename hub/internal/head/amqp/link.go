package amqp

import (
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// kind is what a link of a client is for: a node and a direction. A client has one
// link of each kind.
type kind uint8

// Kinds of links, from the client's side.
const (
	kindTelemetry   kind = iota // sends messages
	kindDeviceBound             // receives cloud-to-device messages
	kindInputs                  // receives messages at a module's inputs
	kindMethodSend              // sends answers of methods
	kindMethodReceive
	kindTwinSend
	kindTwinReceive
	kinds
)

func (k kind) String() string {
	return [...]string{"telemetry", "devicebound", "inputs", "method answers", "methods", "twin requests", "twin"}[k]
}

// kindOf is what a link to a node in a direction is for; false if there is no such.
func kindOf(addr address, clientSends bool) (kind, bool) {
	switch addr.node {
	case nodeEvents:
		if clientSends {
			return kindTelemetry, true
		}
		return kindInputs, addr.id.IsModule()
	case nodeDeviceBound:
		return kindDeviceBound, !clientSends
	case nodeMethods:
		if clientSends {
			return kindMethodSend, true
		}
		return kindMethodReceive, true
	case nodeTwin:
		if clientSends {
			return kindTwinSend, true
		}
		return kindTwinReceive, true
	}
	return 0, false
}

// partner is the other link of a feature that has two.
func (k kind) partner() (kind, bool) {
	switch k {
	case kindMethodSend:
		return kindMethodReceive, true
	case kindMethodReceive:
		return kindMethodSend, true
	case kindTwinSend:
		return kindTwinReceive, true
	case kindTwinReceive:
		return kindTwinSend, true
	}
	return 0, false
}

// features lists what a link on which the client receives stands for, and those
// that begin with it unasked.
func (k kind) features(f Flavor) (all, begin []head.Feature) {
	switch k {
	case kindDeviceBound:
		all = []head.Feature{head.C2D}
	case kindInputs:
		all = []head.Feature{head.Inputs}
	case kindMethodReceive:
		all = []head.Feature{head.Methods}
	case kindTwinReceive:
		all = []head.Feature{head.TwinResponses, head.DesiredChanges}
		if f == Cloud {
			return all, all[:1]
		}
	}
	return all, all
}

func kindOfFeature(f head.Feature) kind {
	switch f {
	case head.C2D:
		return kindDeviceBound
	case head.Inputs:
		return kindInputs
	case head.Methods:
		return kindMethodReceive
	}
	return kindTwinReceive
}

// attach is a link that waits to be accepted.
type attach struct {
	*amqp.Attach
	kind kind
}

// link is one link of a client. Its handler methods run on the goroutine of the
// connection.
type link struct {
	c           *client
	kind        kind
	correlation string // pairs the two links of a feature
	receiver    *amqp.Receiver
	sender      *amqp.Sender
	unsettled   atomic.Int64 // deliveries that the Backend waits for
	starved     atomic.Bool  // the Backend may have seen that there is no credit

	begun bool // the client has given credit once
}

var (
	_ amqp.ReceiverHandler = (*link)(nil)
	_ amqp.SenderHandler   = (*link)(nil)
)

// Windows of links on which the client sends control messages.
const controlWindow = 100

// accept accepts a link, and closes an older one of its kind and one that was the
// partner of that. c.mu is held.
func (c *client) accept(a *attach) {
	l := &link{c: c, kind: a.kind, correlation: a.Client().Properties.Text(propCorrelation)}
	o := &c.conn.srv.opts
	old := c.links[a.kind]
	if a.ClientSends() {
		window := uint32(controlWindow)
		if a.kind == kindTelemetry {
			window = uint32(o.Window)
		}
		l.receiver = a.AcceptReceiver(l, amqp.ReceiverOptions{Window: window})
	} else {
		l.sender = a.AcceptSender(l, amqp.SenderOptions{MaxInFlight: o.MaxQueued, ManualConfirm: a.kind == kindDeviceBound || a.kind == kindInputs})
	}
	if l.receiver == nil && l.sender == nil {
		return // the connection is over
	}
	c.busy.Add(1)
	c.links[a.kind] = l
	if old != nil {
		old.detach(wire.Errorf(wire.CondStolen, "the link was attached again"))
	}
	if other, ok := a.kind.partner(); ok {
		if p := c.links[other]; p != nil && p.correlation != l.correlation && p.correlation != "" && l.correlation != "" {
			p.detach(wire.Errorf(wire.CondStolen, "the other link of the pair was attached again"))
		}
	}
}

// detach closes the link; OnDetach follows.
func (l *link) detach(why *wire.Error) {
	if l.receiver != nil {
		l.receiver.Detach(why)
		return
	}
	l.sender.Detach(why)
}

// OnDelivery implements amqp.ReceiverHandler.
func (l *link) OnDelivery(d *amqp.Delivery) {
	switch l.kind {
	case kindTelemetry:
		l.c.onTelemetry(d)
	case kindTwinSend:
		l.c.onTwinRequest(d)
	case kindMethodSend:
		l.c.onMethodAnswer(d)
	default:
		d.Release() // no such link is accepted
	}
}

// credit is how many messages more the client takes now. When it is 0, OnCredit
// will tell the Backend of more.
func (l *link) credit() int {
	if n := l.sender.Credit(); n > 0 {
		return int(n)
	}
	l.starved.Store(true)
	return int(l.sender.Credit())
}

// OnCredit implements amqp.SenderHandler. With the first credit the Backend hears
// what the client wants; with more after there was none, that its window has grown.
func (l *link) OnCredit(_ *amqp.Sender, credit uint32, _ bool) {
	if credit == 0 || l.begun && !l.starved.Load() {
		return
	}
	l.starved.Store(false)
	l.begun = true
	s := l.c.enter()
	if s == nil {
		return
	}
	defer l.c.leave()
	_, begin := l.kind.features(l.c.conn.srv.opts.Flavor)
	for _, f := range begin {
		s.Subscribe(f)
	}
}

// OnDetach implements both handlers. The client ends with its last link.
func (l *link) OnDetach(err *wire.Error) {
	c := l.c
	c.mu.Lock()
	current := c.links[l.kind] == l
	if current {
		c.links[l.kind] = nil
	}
	live := c.hasLinks()
	c.mu.Unlock()
	if all, _ := l.kind.features(c.conn.srv.opts.Flavor); l.sender != nil && current {
		if s := c.enter(); s != nil {
			for _, f := range all {
				s.Unsubscribe(f)
			}
			c.leave()
		}
	}
	c.busy.Done()
	if live {
		return
	}
	if err != nil {
		c.end(err, nil)
		return
	}
	// What the client has sent before its goodbye is still handed on.
	c.telemetry.do(func() {
		c.mu.Lock()
		live := c.hasLinks()
		c.mu.Unlock()
		if !live {
			c.end(nil, nil)
		}
	}, 0)
}

// hasLinks tells whether there are links, or such that wait. c.mu is held.
func (c *client) hasLinks() bool {
	for _, l := range c.links {
		if l != nil {
			return true
		}
	}
	return len(c.waiting) > 0
}
