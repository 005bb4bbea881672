package amqp

import (
	"sync"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// formatBatch is the message format of a batch: each data section is a message.
const formatBatch = 0x80013700

// onTelemetry hands a message or a batch to the Backend. It is accepted when all of
// it is safe, else rejected.
func (c *client) onTelemetry(d *amqp.Delivery) {
	list, refusal := c.messages(d)
	if refusal != nil {
		c.conn.complain(c.log, "amqp message refused", "err", refusal)
		d.Reject(refusal)
		return
	}
	if len(list) == 0 {
		d.Accept()
		return
	}
	p := &pending{c: c, d: d, left: len(list)}
	c.telemetry.do(func() {
		s := c.enter()
		if s == nil {
			d.Release() // the link has gone with the client
			return
		}
		defer c.leave()
		for _, m := range list {
			s.Telemetry(c.ctx, m, p.done)
		}
	}, 0) // the window of the link bounds it
}

// messages decodes what a delivery holds.
func (c *client) messages(d *amqp.Delivery) ([]*iothub.Message, *wire.Error) {
	var w wire.Message // on the stack; nothing of it is kept but what it points to
	if err := wire.DecodeMessage(d.Payload(), &w); err != nil {
		return nil, wire.Errorf(wire.CondDecodeError, "malformed message")
	}
	if d.Format() != formatBatch {
		m, refusal := c.message(&w)
		if refusal != nil {
			return nil, refusal
		}
		return []*iothub.Message{m}, nil
	}
	if len(d.Payload()) > maxBatch {
		return nil, wire.Errorf(wire.CondMessageSizeExceeded, "batch of more than %d bytes", maxBatch)
	}
	list := make([]*iothub.Message, 0, len(w.Data))
	for _, section := range w.Data {
		inner := new(wire.Message)
		if err := wire.DecodeMessage(section, inner); err != nil {
			return nil, wire.Errorf(wire.CondDecodeError, "malformed message in a batch")
		}
		m, refusal := c.message(inner)
		if refusal != nil {
			return nil, refusal
		}
		list = append(list, m)
	}
	return list, nil
}

func (c *client) message(w *wire.Message) (*iothub.Message, *wire.Error) {
	m, refusal := decode(w, fromDevice)
	if refusal != nil {
		return nil, refusal
	}
	if limit := c.conn.srv.opts.MaxMessageSize; m.Size() > limit {
		return nil, wire.Errorf(wire.CondMessageSizeExceeded, "message of more than %d bytes", limit)
	}
	return m, nil
}

// pending is a delivery whose messages are with the Backend.
type pending struct {
	c *client
	d *amqp.Delivery

	mu   sync.Mutex
	left int
	err  error // the first
}

func (p *pending) done(err error) {
	p.mu.Lock()
	if p.left--; p.err == nil {
		p.err = err
	}
	left, first := p.left, p.err
	p.mu.Unlock()
	switch {
	case left > 0:
	case first == nil:
		p.d.Accept()
	default:
		p.c.conn.complain(p.c.log, "amqp message not accepted", "err", first)
		p.d.Reject(messageError(first))
	}
}

// messageError is wireError for a message: the client may send it again whatever
// the state of the link.
func messageError(err error) *wire.Error {
	e := wireError(err)
	if e.Condition == wire.CondDetachForced {
		return wire.Errorf(wire.CondInternalError, "the message cannot be stored now")
	}
	return e
}
