package engine

import (
	"bytes"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

var (
	headerAMQP = []byte("AMQP\x00\x01\x00\x00")
	headerSASL = []byte("AMQP\x03\x01\x00\x00")
)

// header handles a protocol header.
func (c *Conn) header(p []byte) int {
	if len(p) < 8 {
		if !bytes.HasPrefix(headerAMQP, p[:min(len(p), 4)]) {
			c.wrongHeader()
		}
		return 0
	}
	second := c.phase == phaseSecondHeader
	switch {
	case bytes.Equal(p[:8], headerAMQP) && (second || !c.o.RequireSASL):
		c.out = append(c.out, headerAMQP...)
		c.phase = phaseWaitOpen
	case bytes.Equal(p[:8], headerSASL) && !second && len(c.o.Mechanisms) > 0:
		c.out = append(c.out, headerSASL...)
		c.phase = phaseSASL
		c.sasl(&wire.SASLMechanisms{Mechanisms: c.o.Mechanisms})
	default:
		c.wrongHeader()
		return 0
	}
	return 8
}

// wrongHeader tells the client which header would do.
func (c *Conn) wrongHeader() {
	if c.o.RequireSASL && c.phase == phaseHeader {
		c.out = append(c.out, headerSASL...)
	} else {
		c.out = append(c.out, headerAMQP...)
	}
	c.fail(wire.Errorf(wire.CondFramingError, "unknown protocol header"))
}

func (c *Conn) sasl(p wire.Performative) {
	c.out, _ = wire.AppendFrame(c.out, wire.FrameSASL, 0, p, nil, 0)
}

func (c *Conn) saslFrame(p wire.Performative) {
	switch p := p.(type) {
	case *wire.SASLInit:
		if c.mechanism != "" {
			break
		}
		if !slices.Contains(c.o.Mechanisms, p.Mechanism) {
			c.refuseSASL(wire.SASLAuth, "mechanism is not on offer")
			return
		}
		c.mechanism = p.Mechanism
		p.InitialResponse = bytes.Clone(p.InitialResponse)
		c.phase = phaseSASLDecision
		c.emit(Event{Kind: EventSASL, SASL: p})
		return
	case *wire.SASLResponse:
		if c.mechanism == "" {
			break
		}
		c.phase = phaseSASLDecision
		c.emit(Event{Kind: EventSASLResponse, Response: bytes.Clone(p.Response)})
		return
	}
	c.fail(wire.Errorf(wire.CondNotAllowed, "unexpected SASL frame"))
}

// SASLOutcome ends the SASL exchange: wire.SASLOK lets the client go on, all
// other codes end the connection.
func (c *Conn) SASLOutcome(code uint8) error {
	if c.phase != phaseSASLDecision {
		return errNotDecided
	}
	if code != wire.SASLOK {
		c.refuseSASL(code, "SASL refused")
		return nil
	}
	c.sasl(&wire.SASLOutcome{Code: code})
	c.phase = phaseSecondHeader
	c.resume()
	return nil
}

func (c *Conn) refuseSASL(code uint8, why string) {
	c.sasl(&wire.SASLOutcome{Code: code})
	c.cause = wire.Errorf(wire.CondUnauthorizedAccess, "%s", why)
	c.finish()
}

// SASLChallenge asks the client for more; EventSASLResponse brings its answer.
func (c *Conn) SASLChallenge(challenge []byte) error {
	if c.phase != phaseSASLDecision {
		return errNotDecided
	}
	c.sasl(&wire.SASLChallenge{Challenge: challenge})
	c.phase = phaseSASL
	c.resume()
	return nil
}

// minKeepAlive limits how many heartbeats a client can ask for.
const minKeepAlive = 20 * time.Millisecond

// opening handles the first frame of the AMQP layer.
func (c *Conn) opening(channel uint16, p wire.Performative) {
	open, ok := p.(*wire.Open)
	if !ok || channel != 0 {
		c.fail(wire.Errorf(wire.CondNotAllowed, "open expected"))
		return
	}
	c.client = *open
	// Larger frames gain nothing, and would let one link hold up the others.
	c.maxFrame = min(max(open.MaxFrameSize, wire.MinMaxFrameSize), 65536)
	// The standard wants the client to name half of its limit, and not all do. Of what
	// it names a third is kept, so that one heartbeat may come late.
	c.keepAlive = time.Duration(open.IdleTimeout) * time.Millisecond / 3
	if open.IdleTimeout > 0 {
		c.keepAlive = max(c.keepAlive, minKeepAlive)
	} else {
		c.keepAlive = c.o.Heartbeat
	}
	c.phase = phaseOpenDecision
	c.emit(Event{Kind: EventOpen, Open: open})
}

// AcceptOpen opens the connection. Close refuses it instead.
func (c *Conn) AcceptOpen() error {
	if c.phase != phaseOpenDecision {
		return errNotDecided
	}
	c.sendOpen()
	c.phase = phaseOpen
	c.resume()
	return nil
}

// ClientOpen returns what the client's open says.
func (c *Conn) ClientOpen() *wire.Open { return &c.client }

func (c *Conn) sendOpen() {
	if c.openSent {
		return
	}
	c.openSent = true
	idle := max(c.o.IdleTimeout.Milliseconds(), 0)
	c.append(0, &wire.Open{
		ContainerID: c.o.ContainerID, MaxFrameSize: c.o.MaxFrameSize, ChannelMax: c.o.ChannelMax,
		IdleTimeout:         uint32(min(idle, 1<<31)),
		OfferedCapabilities: c.o.OfferedCapabilities, Properties: c.o.Properties,
	})
}
