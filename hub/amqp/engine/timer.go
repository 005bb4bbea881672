package engine

import (
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// silence is how long the client may be silent: what it was told and a quarter
// more, for clients that keep to it to the second.
func (c *Conn) silence() time.Duration { return c.o.IdleTimeout + c.o.IdleTimeout/4 }

// Deadline returns when Tick wants to be called; zero for never.
func (c *Conn) Deadline() time.Time {
	var d time.Time
	sooner := func(t time.Time) {
		if d.IsZero() || t.Before(d) {
			d = t
		}
	}
	switch c.phase {
	case phaseDone:
	case phaseClosing:
		sooner(c.closeSent.Add(c.o.CloseTimeout))
	case phaseOpen:
		if c.o.IdleTimeout > 0 {
			sooner(c.lastIn.Add(c.silence()))
		}
		if c.keepAlive > 0 {
			sooner(c.lastOut.Add(c.keepAlive))
		}
	default:
		sooner(c.created.Add(c.o.HandshakeTimeout))
	}
	return d
}

// Tick acts on the time: it sends heartbeats and ends connections that are
// silent or too slow.
func (c *Conn) Tick(now time.Time) {
	c.now = now
	switch c.phase {
	case phaseDone:
	case phaseClosing:
		if now.Sub(c.closeSent) >= c.o.CloseTimeout {
			c.finish()
		}
	case phaseOpen:
		c.tickOpen(now)
	default:
		if now.Sub(c.created) >= c.o.HandshakeTimeout {
			c.fail(wire.Errorf(wire.CondResourceLimitExceeded, "not open after %v", c.o.HandshakeTimeout))
		}
	}
}

func (c *Conn) tickOpen(now time.Time) {
	if c.o.IdleTimeout > 0 && now.Sub(c.lastIn) >= c.silence() {
		if c.WantsInput() {
			c.Close(wire.Errorf(wire.CondResourceLimitExceeded, "idle timeout: nothing received for %v", now.Sub(c.lastIn)))
			return
		}
		c.lastIn = now // it is us who do not read
	}
	if c.keepAlive > 0 && now.Sub(c.lastOut) >= c.keepAlive {
		if len(c.out) == 0 {
			c.append(0, nil)
		}
		c.lastOut = now
	}
}
