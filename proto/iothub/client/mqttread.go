package client

import (
	"bufio"
	"fmt"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// read is the reader. It never waits for a handler, so that acknowledgements get
// through to handlers that wait for them.
func (l *mqttLink) read(br *bufio.Reader) {
	for {
		p, err := readPacket(br)
		if err == nil {
			err = l.take(p)
		}
		if err != nil {
			l.fail(fmt.Errorf("read: %w", err))
			return
		}
	}
}

func (l *mqttLink) take(p packets.ControlPacket) error {
	switch p := p.(type) {
	case *packets.PubackPacket:
		l.acknowledged(p.MessageID)
		return nil
	case *packets.PublishPacket:
		return l.deliver(p)
	case *packets.SubackPacket:
		l.mu.Lock()
		answer := l.subs[p.MessageID]
		delete(l.subs, p.MessageID)
		l.mu.Unlock()
		if answer != nil {
			answer <- p.ReturnCodes // has room for the one answer
		}
		return nil
	case *packets.PingrespPacket:
		return nil
	default:
		return fmt.Errorf("%w: %T from the hub", errProtocol, p)
	}
}

// acknowledged settles a sent message. Identifiers that are not in use are
// ignored.
func (l *mqttLink) acknowledged(id uint16) {
	l.mu.Lock()
	f := l.pending[id]
	delete(l.pending, id)
	l.mu.Unlock()
	if f == nil {
		return
	}
	<-l.window
	f.done(nil)
	l.mu.Lock()
	l.wakeIdlersLocked()
	l.mu.Unlock()
}

// deliver hands on what the hub published.
func (l *mqttLink) deliver(p *packets.PublishPacket) error {
	if p.Qos > 1 {
		return fmt.Errorf("%w: QoS %d", errProtocol, p.Qos)
	}
	t, err := topic.ParseDelivery(p.TopicName)
	if err != nil {
		l.log.Warn("message on an unreadable topic", "topic", p.TopicName, "err", err)
		return l.acknowledge(p)
	}
	switch t.Kind {
	case topic.Input, topic.C2D:
		return l.deliverMessage(p, t)
	case topic.TwinResponse:
		l.answer(t, p.Payload)
	case topic.DesiredChange:
		version := t.Version
		if version == 0 {
			version, _ = iothub.Version(p.Payload)
		}
		if !l.in.desired(p.Payload, version) {
			return ErrOverflow
		}
	case topic.MethodRequest:
		if !l.in.method(l, t.RequestID, iothub.MethodRequest{Name: t.Name, Payload: p.Payload}) {
			if err := l.postNow(response(t.RequestID, iothub.MethodResponse{Status: statusBusy})); err != nil {
				return err
			}
		}
	default:
		l.log.Debug("message on an unknown topic", "topic", p.TopicName)
	}
	return l.acknowledge(p)
}

func (l *mqttLink) deliverMessage(p *packets.PublishPacket, t topic.Topic) error {
	m := &iothub.Message{Body: p.Payload}
	if err := topic.DecodeBag(t.Bag, m, topic.ToClient); err != nil {
		l.log.Warn("message with unreadable properties", "topic", p.TopicName, "err", err)
		return l.acknowledge(p)
	}
	if t.Name != "" {
		m.System.Set(iothub.InputName, t.Name)
	}
	l.mu.Lock()
	full := l.overflowed
	if !full {
		l.undelivered++
	}
	l.mu.Unlock()
	if full {
		return nil
	}
	d := delivery{
		input:   t.Name,
		m:       m,
		done:    func(o outcome) { l.settled(p, o) },
		current: func() bool { return p.Qos == 0 || l.err() == nil },
	}
	if !l.in.message(d) {
		l.overflow()
	}
	return nil
}

// settled acknowledges a message that is not to come again. The last one of a link
// that overflowed ends it.
func (l *mqttLink) settled(p *packets.PublishPacket, o outcome) {
	if (o == handled || o == refused) && p.Qos > 0 {
		select {
		case l.out <- puback(p.MessageID):
		case <-l.stop:
		}
	}
	l.mu.Lock()
	l.undelivered--
	last := l.overflowed && l.undelivered == 0
	l.mu.Unlock()
	if last {
		l.leaveOverflowed()
	}
}

// overflow drops the message at hand and, so that order is kept, all that follow.
// The connection ends when the handlers are done with what they have, so that
// acknowledgements get through and the hub delivers only the rest again.
func (l *mqttLink) overflow() {
	l.mu.Lock()
	l.overflowed = true
	l.undelivered--
	none := l.undelivered == 0
	l.mu.Unlock()
	l.log.Warn("too many messages wait for their handler")
	if none {
		l.leaveOverflowed()
	}
}

// leaveOverflowed disconnects behind the acknowledgements; the writer then ends the
// link with ErrOverflow. If even the queue of the writer is full there is no good
// order to keep.
func (l *mqttLink) leaveOverflowed() {
	if err := l.postNow(packets.NewControlPacket(packets.Disconnect)); err != nil {
		l.fail(err)
	}
}

// statusBusy answers a method call for which there is no room.
const statusBusy = 429

// acknowledge acknowledges what needs no handler.
func (l *mqttLink) acknowledge(p *packets.PublishPacket) error {
	if p.Qos == 0 {
		return nil
	}
	return l.postNow(puback(p.MessageID))
}

// postNow queues a packet for the reader, which must not wait for the writer: that
// may itself wait for the hub to read.
func (l *mqttLink) postNow(p packets.ControlPacket) error {
	select {
	case l.out <- p:
		return nil
	default:
		return ErrOverflow
	}
}

func puback(id uint16) packets.ControlPacket {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	return p
}

// answer wakes the twin request that this is the response of, if it still waits.
func (l *mqttLink) answer(t topic.Topic, body []byte) {
	l.mu.Lock()
	answer := l.requests[t.RequestID]
	delete(l.requests, t.RequestID)
	l.mu.Unlock()
	if answer != nil {
		answer <- topicReply{status: t.Status, version: t.Version, body: body} // has room for the one answer
	}
}
