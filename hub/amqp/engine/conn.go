package engine

import (
	"errors"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

type phase uint8

const (
	phaseHeader       phase = iota // the client's first header
	phaseSASL                      // a SASL frame
	phaseSASLDecision              // the application, about SASL
	phaseSecondHeader              // the client's header after SASL
	phaseWaitOpen                  // the client's open
	phaseOpenDecision              // the application, about open
	phaseOpen
	phaseClosing // our close is sent, the client's is awaited
	phaseDone
)

// Conn is the server's end of a connection.
type Conn struct {
	o     Options
	limit limits
	phase phase
	now   time.Time
	in    []byte // input that waits: part of a frame, or all while a decision is pending
	out   []byte
	dec   wire.Decoder

	events []Event
	taken  int

	created, lastIn, lastOut, closeSent time.Time

	client    wire.Open     // the client's open
	maxFrame  uint32        // largest frame that the client takes
	keepAlive time.Duration // how often the client wants a frame; 0: never
	openSent  bool
	mechanism string
	cause     *wire.Error // why the connection ends

	sessions map[uint16]*Session // by the client's channel
	channels []*Session          // by our channel; nil: free
	links    int
	linkCost int // bytes that their attaches take

	partial  int // bytes of incomplete deliveries
	buffered int // bytes of complete deliveries that are not settled

	ready    []*Link    // links that may have something to send
	credits  []*Link    // receiving links whose credit may need a refill
	drains   []*Link    // sending links whose drain can be answered
	touched  []*Session // sessions with something for Flush
	ids      []uint32   // scratch
	transfer wire.Transfer
	flow     wire.Flow
	dispo    wire.Disposition
}

// New returns the server's end of a connection that begins at now.
func New(o Options, now time.Time) *Conn {
	c := &Conn{o: o.withDefaults(), now: now, created: now, lastIn: now, lastOut: now,
		maxFrame: wire.MinMaxFrameSize, sessions: make(map[uint16]*Session)}
	c.limit = c.o.limits(true)
	return c
}

// Trust ends the limits for strangers, once the application knows whom it serves.
func (c *Conn) Trust() { c.limit = c.o.limits(false) }

// Input takes bytes from the client; p is not kept.
func (c *Conn) Input(now time.Time, p []byte) {
	c.now, c.lastIn = now, now
	if len(c.in) > 0 {
		c.in = append(c.in, p...)
		p = c.in
	}
	c.process(p)
}

// resume processes what has waited for a decision.
func (c *Conn) resume() {
	if len(c.in) > 0 {
		c.process(c.in)
	}
}

// process handles whole frames at the front of p and keeps the rest.
func (c *Conn) process(p []byte) {
	for {
		n := c.step(p)
		if n == 0 {
			break
		}
		p = p[n:]
	}
	if c.phase == phaseDone {
		c.in = nil
		return
	}
	if len(p) == 0 && cap(c.in) > 1<<16 {
		c.in = nil
	}
	c.in = append(c.in[:0], p...)
}

// step handles one header or frame and returns its size, or 0.
func (c *Conn) step(p []byte) int {
	switch c.phase {
	case phaseHeader, phaseSecondHeader:
		return c.header(p)
	case phaseSASLDecision, phaseOpenDecision, phaseDone:
		return 0
	}
	limit := c.o.MaxFrameSize
	if c.phase == phaseSASL {
		limit = 65536
	}
	f, n, err := wire.SplitFrame(p, limit)
	if err != nil {
		c.fail(wire.Errorf(wire.CondFramingError, "%v", err))
		return 0
	}
	if n > 0 {
		c.frame(f)
	}
	return n
}

func (c *Conn) frame(f wire.Frame) {
	want := wire.FrameAMQP
	if c.phase == phaseSASL {
		want = wire.FrameSASL
	}
	if f.Type != want {
		c.fail(wire.Errorf(wire.CondFramingError, "frame type %d", f.Type))
		return
	}
	if len(f.Body) == 0 {
		if want == wire.FrameSASL {
			c.fail(wire.Errorf(wire.CondFramingError, "empty SASL frame"))
		}
		return
	}
	p, payload, err := c.dec.Decode(f.Type, f.Body)
	switch {
	case c.phase == phaseClosing:
		if _, ok := p.(*wire.Close); ok {
			c.finish()
		}
	case err != nil:
		c.fail(wire.Errorf(wire.CondDecodeError, "%v", err))
	case c.phase == phaseSASL:
		c.saslFrame(p)
	case c.phase == phaseWaitOpen:
		c.opening(f.Channel, p)
	default:
		c.opened(f.Channel, p, payload)
	}
}

// opened handles a frame of an open connection.
func (c *Conn) opened(channel uint16, p wire.Performative, payload []byte) {
	switch p := p.(type) {
	case *wire.Open:
		c.fail(wire.Errorf(wire.CondNotAllowed, "second open"))
		return
	case *wire.Close:
		c.cause = p.Error
		c.endAll(p.Error)
		c.append(0, &wire.Close{})
		c.finish()
		return
	case *wire.Begin:
		c.begin(channel, p)
		return
	}
	s := c.sessions[channel]
	if s == nil {
		c.fail(wire.Errorf(wire.CondNotAllowed, "no session on channel %d", channel))
		return
	}
	s.frame(p, payload)
}

// append writes a frame without payload.
func (c *Conn) append(channel uint16, p wire.Performative) {
	start := len(c.out)
	c.out, _ = wire.AppendFrame(c.out, wire.FrameAMQP, channel, p, nil, 0)
	if size := len(c.out) - start; size > int(c.maxFrame) && p != nil {
		c.shrink(start, channel, p)
	}
}

// shrink replaces a frame that is too large for the client by one without what
// may be left out.
func (c *Conn) shrink(start int, channel uint16, p wire.Performative) {
	c.out = c.out[:start]
	short := func(e *wire.Error) *wire.Error {
		if e == nil {
			return nil
		}
		return &wire.Error{Condition: e.Condition, Description: e.Description[:min(len(e.Description), 64)]}
	}
	switch p := p.(type) {
	case *wire.Attach:
		p.Properties, p.Source, p.Target = nil, nil, nil
	case *wire.Open:
		p.Properties = nil
	case *wire.Detach:
		p.Error = short(p.Error)
	case *wire.End:
		p.Error = short(p.Error)
	case *wire.Close:
		p.Error = short(p.Error)
	case *wire.Disposition:
		p.State.Error, p.State.Annotations = short(p.State.Error), nil
	}
	c.out, _ = wire.AppendFrame(c.out, wire.FrameAMQP, channel, p, nil, 0)
}

// fail ends the connection with an error of the client's.
func (c *Conn) fail(err *wire.Error) {
	switch c.phase {
	case phaseDone:
		return
	case phaseHeader, phaseSASL, phaseSASLDecision, phaseSecondHeader, phaseClosing:
		c.cause = err
		c.finish()
		return
	}
	c.Close(err)
}

// Close closes the connection, with an error or nil. Links are detached (as
// events) at once; the connection is Done when the client has answered or
// CloseTimeout is over. It also refuses an open.
func (c *Conn) Close(err *wire.Error) {
	switch c.phase {
	case phaseClosing, phaseDone:
		return
	case phaseHeader, phaseSASL, phaseSASLDecision, phaseSecondHeader:
		c.cause = err
		c.finish()
		return
	}
	waiting := c.phase == phaseOpenDecision
	c.cause = err
	c.sendOpen()
	// The standard ends sessions with their connection. The Node SDK waits for an
	// end of each all the same, and does not notice the close.
	for _, s := range c.channels {
		if s != nil && !s.ending {
			s.flushRun()
			c.append(s.local, &wire.End{Error: err})
		}
	}
	c.endAll(err)
	c.append(0, &wire.Close{Error: err})
	c.phase, c.closeSent = phaseClosing, c.now
	if waiting {
		c.resume()
	}
}

// Abort ends the connection without a word, because the transport is gone.
func (c *Conn) Abort(err *wire.Error) {
	if c.phase == phaseDone {
		return
	}
	if c.cause == nil {
		c.cause = err
	}
	c.endAll(err)
	c.finish()
}

func (c *Conn) finish() {
	c.phase = phaseDone
	c.emit(Event{Kind: EventClosed, Err: c.cause})
}

// Done tells whether the connection is over: write the rest of the output and
// close the transport.
func (c *Conn) Done() bool { return c.phase == phaseDone }

// Err returns why the connection ends; nil when it is not over or has ended in
// peace.
func (c *Conn) Err() *wire.Error { return c.cause }

// WantsInput tells whether the driver may read more from the client.
func (c *Conn) WantsInput() bool {
	switch c.phase {
	case phaseSASLDecision, phaseOpenDecision, phaseDone:
		return false
	}
	return len(c.out) <= c.o.MaxOutput && c.buffered <= c.limit.buffered
}

// Output returns what is to be written, valid until the next call of any
// method.
func (c *Conn) Output() []byte { return c.out }

// TakeOutput takes what is to be written and gives the Conn buf to reuse.
func (c *Conn) TakeOutput(now time.Time, buf []byte) []byte {
	out := c.out
	c.out = buf[:0]
	if len(out) > 0 {
		c.now, c.lastOut = now, now
	}
	return out
}

var errNotDecided = errors.New("amqp engine: nothing to decide")
