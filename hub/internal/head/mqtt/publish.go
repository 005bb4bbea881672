package mqtt

import (
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"github.com/mochi-mqtt/server/v2/packets"
)

// publish handles a PUBLISH of QoS 0 or 1. It may wait for room in the window of
// unsettled publishes or in the Backend: then the client is not read, as it shall
// be.
func (c *client) publish(pk *packets.Packet) {
	t, err := topic.ParsePublish(pk.TopicName)
	if err != nil {
		c.stop(err)
		return
	}
	if t.Kind == topic.Unknown && c.srv.opts.Flavor == Cloud {
		c.stop(errUnknown)
		return
	}
	if t.Kind == topic.Telemetry && t.Identity != c.id {
		c.stop(errForeign)
		return
	}
	seq, err := c.in.begin(c.ctx, pk.PacketID, len(pk.Payload)+len(pk.TopicName))
	if err != nil {
		return // the connection is ending
	}
	switch t.Kind {
	case topic.Telemetry:
		c.telemetry(t.Bag, pk, seq)
	case topic.TwinGet, topic.TwinPatchReported:
		c.twinRequest(t, pk.Payload, seq)
	case topic.MethodResponse:
		c.methods.Complete(t.RequestID, t.Status, pk.Payload)
		c.in.settle(seq)
	default:
		c.complain("mqtt publish dropped: unknown topic", "topic", head.Clip(pk.TopicName))
		c.in.settle(seq)
	}
}

// telemetry hands a message to the Backend. The PUBACK goes out when the Backend
// says that the message is safe; when it says that it is not, the connection ends
// without one.
func (c *client) telemetry(bag string, pk *packets.Packet, seq uint64) {
	m := &iothub.Message{Body: pk.Payload}
	edge := c.srv.opts.Flavor == Edge
	if err := topic.DecodeBag(bag, m, topic.ToHub); err != nil {
		if !edge {
			c.stop(err)
			return
		}
		c.complain("mqtt message dropped", "err", head.Clip(err.Error()))
		c.in.settle(seq)
		return
	}
	if pk.FixedHeader.Retain {
		m.Properties.Set("mqtt-retain", "true")
	}
	if pk.FixedHeader.Dup && edge {
		m.Properties.Set("mqtt-dup", "true")
	}
	if m.Size() > c.srv.opts.MaxMessageSize {
		c.stop(errOversized)
		return
	}
	if f := c.srv.opts.Events.MessageReceived; f != nil {
		f(c.id, len(m.Body))
	}
	send := c.session.Telemetry
	if c.storing != nil && pk.PacketID != 0 && c.in.alone(seq) {
		c.later, send = true, c.storing.TelemetryLater
	}
	send(c.ctx, m, func(err error) {
		if err != nil {
			c.stop(fmt.Errorf("message not accepted: %w", err))
			return
		}
		c.in.settle(seq)
	})
}

// goesOn is called when there is another packet after one that was to be stored later.
func (c *client) goesOn() {
	if c.later {
		c.later = false
		c.storing.Store(nil)
	}
}

// pauses is called when the client has sent nothing more for now. A client that waits
// for each acknowledgement gets it without any other goroutine: on the reader's, its
// message is stored and the PUBACK written.
func (c *client) pauses() {
	if !c.later {
		return
	}
	c.later = false
	c.out.hold()
	c.storing.Store(func() {
		if _, err := c.out.write(c.wire); err != nil {
			c.stop(fmt.Errorf("write: %w", err))
		}
	})
	c.out.release()
}
