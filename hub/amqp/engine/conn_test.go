package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func TestHeaders(t *testing.T) {
	mechanisms := []string{"ANONYMOUS"}
	for name, c := range map[string]struct {
		o        engine.Options
		in, want string
		done     bool
	}{
		"AMQP":                        {engine.Options{}, header, header, false},
		"SASL":                        {engine.Options{Mechanisms: mechanisms}, saslHeader, saslHeader, false},
		"SASL where there is none":    {engine.Options{}, saslHeader, header, true},
		"AMQP where SASL is demanded": {engine.Options{Mechanisms: mechanisms, RequireSASL: true}, header, saslHeader, true},
		"TLS":                         {engine.Options{}, "AMQP\x02\x01\x00\x00", header, true},
		"AMQP 0.9":                    {engine.Options{}, "AMQP\x00\x00\x09\x01", header, true},
		"HTTP":                        {engine.Options{}, "GET / HTTP/1.1", header, true},
		"short garbage":               {engine.Options{}, "X", header, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, c.o)
			for _, b := range []byte(c.in) {
				p.raw(string(b))
			}
			if got := string(p.take(8)); got != c.want {
				t.Errorf("%q", got)
			}
			if p.c.Done() != c.done {
				t.Errorf("done: %v", p.c.Done())
			}
			if c.done {
				p.event(engine.EventClosed)
			}
			p.noEvent()
		})
	}
}

func TestSASLThenPipelinedOpenAndBegin(t *testing.T) {
	p := newPeer(t, engine.Options{Mechanisms: []string{"PLAIN"}})
	p.raw(saslHeader)
	p.sendSASL(&wire.SASLInit{Mechanism: "PLAIN", InitialResponse: []byte("\x00u\x00p")})
	p.raw(header)
	p.send(0, &wire.Open{ContainerID: "c", MaxFrameSize: 512, ChannelMax: 9}, "")
	p.send(3, &wire.Begin{IncomingWindow: 1, OutgoingWindow: 1}, "")
	if e := p.event(engine.EventSASL); string(e.SASL.InitialResponse) != "\x00u\x00p" {
		t.Fatalf("%+v", e.SASL)
	}
	p.noEvent()
	if p.c.WantsInput() {
		t.Fatal("input must wait for the decision")
	}
	p.check(p.c.SASLOutcome(wire.SASLOK))
	p.event(engine.EventOpen)
	p.noEvent()
	p.check(p.c.AcceptOpen())
	if e := p.event(engine.EventBegin); e.Session.Channel() != 3 {
		t.Fatal(e.Session.Channel())
	}
}

func TestSASLWithChallenge(t *testing.T) {
	p := newPeer(t, engine.Options{Mechanisms: []string{"X"}})
	p.raw(saslHeader)
	p.take(8)
	if m := p.next().p.(*wire.SASLMechanisms); len(m.Mechanisms) != 1 {
		t.Fatal(m)
	}
	p.sendSASL(&wire.SASLInit{Mechanism: "X"})
	p.event(engine.EventSASL)
	p.check(p.c.SASLChallenge([]byte("who?")))
	if ch := p.next().p.(*wire.SASLChallenge); string(ch.Challenge) != "who?" {
		t.Fatal(ch)
	}
	p.sendSASL(&wire.SASLResponse{Response: []byte("me")})
	if e := p.event(engine.EventSASLResponse); string(e.Response) != "me" {
		t.Fatal(e.Response)
	}
	p.check(p.c.SASLOutcome(wire.SASLOK))
	if o := p.next().p.(*wire.SASLOutcome); o.Code != wire.SASLOK {
		t.Fatal(o)
	}
	p.raw(header + "\x00\x00\x00\x08\x02\x00\x00\x00") // a heartbeat before open
	p.send(0, &wire.Open{ContainerID: "c"}, "")
	p.event(engine.EventOpen)
	if p.c.SASLOutcome(wire.SASLOK) == nil {
		t.Fatal("SASL is over")
	}
}

func TestSASLRefusals(t *testing.T) {
	p := newPeer(t, engine.Options{Mechanisms: []string{"PLAIN"}})
	p.raw(saslHeader)
	p.sendSASL(&wire.SASLInit{Mechanism: "OTHER"})
	p.take(8)
	p.next()
	if o := p.next().p.(*wire.SASLOutcome); o.Code != wire.SASLAuth || !p.c.Done() {
		t.Fatal(o)
	}
	p.event(engine.EventClosed)

	p = newPeer(t, engine.Options{Mechanisms: []string{"PLAIN"}})
	p.raw(saslHeader)
	p.sendSASL(&wire.SASLInit{Mechanism: "PLAIN"})
	p.event(engine.EventSASL)
	p.check(p.c.SASLOutcome(wire.SASLSysTemp))
	if p.event(engine.EventClosed).Err.Condition != wire.CondUnauthorizedAccess {
		t.Fatal(p.c.Err())
	}
}

func TestViolationsCloseTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *peer)
		want string
	}{
		"frame too large":         {func(p *peer) { p.raw("\x7f\x00\x00\x00") }, wire.CondFramingError},
		"frame too small":         {func(p *peer) { p.raw("\x00\x00\x00\x04\x02\x00\x00\x00") }, wire.CondFramingError},
		"SASL frame":              {func(p *peer) { p.sendSASL(&wire.SASLInit{}) }, wire.CondFramingError},
		"garbage":                 {func(p *peer) { p.raw("\x00\x00\x00\x0a\x02\x00\x00\x00\x00\x99") }, wire.CondDecodeError},
		"second open":             {func(p *peer) { p.send(0, &wire.Open{}, "") }, wire.CondNotAllowed},
		"channel in use":          {func(p *peer) { p.send(0, &wire.Begin{}, "") }, wire.CondNotAllowed},
		"channel too high":        {func(p *peer) { p.send(9000, &wire.Begin{}, "") }, wire.CondFramingError},
		"answer to no begin":      {func(p *peer) { p.send(1, &wire.Begin{RemoteChannel: wire.Some(uint16(7))}, "") }, wire.CondNotAllowed},
		"frame on no session":     {func(p *peer) { p.send(5, &wire.Flow{}, "") }, wire.CondNotAllowed},
		"handle too high":         {func(p *peer) { p.send(0, &wire.Attach{Name: "x", Handle: 5000}, "") }, wire.CondFramingError},
		"too much of no messages": {partials, wire.CondResourceLimitExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, engine.Options{MaxPartial: 1000})
			c.do(p)
			p.closed(c.want)
			if p.c.Done() {
				t.Fatal("the client's close is still to come")
			}
			p.send(0, &wire.Flow{}, "") // must be ignored
			p.send(0, &wire.Close{}, "")
			if !p.c.Done() || p.c.Err().Condition != c.want {
				t.Fatal(p.c.Err())
			}
		})
	}
}

// partials sends the beginnings of messages on many links.
func partials(p *peer) {
	for i := range uint32(11) {
		p.receiverLink(i, wire.Attach{}, 1)
		p.send(0, &wire.Transfer{Handle: i, DeliveryID: wire.Some(i), More: true}, strings.Repeat("x", 100))
	}
}

func TestOpenComesFirst(t *testing.T) {
	p := newPeer(t, engine.Options{})
	p.raw(header)
	p.send(0, &wire.Begin{}, "")
	p.take(8)
	if _, ok := p.next().p.(*wire.Open); !ok {
		t.Fatal("close must follow an open")
	}
	p.closed(wire.CondNotAllowed)
}

func TestOpenRefused(t *testing.T) {
	p := newPeer(t, engine.Options{})
	p.raw(header)
	p.send(0, &wire.Open{}, "")
	p.send(0, &wire.Begin{}, "")
	p.event(engine.EventOpen)
	p.c.Close(wire.Errorf(wire.CondNotAllowed, "no"))
	p.take(8)
	p.next()
	p.closed(wire.CondNotAllowed)
	p.noEvent()
	p.send(0, &wire.Close{}, "")
	p.event(engine.EventClosed)
}

func TestTheClientCloses(t *testing.T) {
	p := open(t, engine.Options{})
	p.senderLink(0, wire.Attach{}, 0)
	p.send(0, &wire.Close{Error: wire.Errorf("a:b", "c")}, "")
	if c := p.next().p.(*wire.Close); c.Error != nil || !p.c.Done() {
		t.Fatal(c)
	}
	p.event(engine.EventDetach)
	p.event(engine.EventEnd)
	if e := p.event(engine.EventClosed); e.Err.Condition != "a:b" {
		t.Fatal(e.Err)
	}
}

func TestSessionsEndBeforeTheirConnection(t *testing.T) {
	p := open(t, engine.Options{})
	p.senderLink(0, wire.Attach{}, 0)
	p.c.Close(wire.Errorf("a:b", "c"))
	if f, ok := p.next().p.(*wire.End); !ok || f.Error == nil || f.Error.Condition != "a:b" {
		t.Fatalf("%+v", f)
	}
	if f, ok := p.next().p.(*wire.Close); !ok || f.Error == nil || f.Error.Condition != "a:b" {
		t.Fatalf("%+v", f)
	}
	p.quiet()
}

func TestSessionsMayHaveAReasonOfTheirOwn(t *testing.T) {
	p := open(t, engine.Options{})
	p.c.EndSessions(wire.Errorf("a:session", ""))
	p.c.Close(wire.Errorf("a:connection", ""))
	if f, ok := p.next().p.(*wire.End); !ok || f.Error == nil || f.Error.Condition != "a:session" {
		t.Fatalf("%+v", f)
	}
	if f, ok := p.next().p.(*wire.Close); !ok || f.Error == nil || f.Error.Condition != "a:connection" {
		t.Fatalf("%+v", f)
	}
	p.quiet()
}

func TestBothClose(t *testing.T) {
	p := open(t, engine.Options{})
	p.c.Close(nil)
	p.send(0, &wire.Close{}, "")
	p.next() // end
	p.next() // close
	p.quiet()
	if !p.c.Done() || p.c.Err() != nil {
		t.Fatal(p.c.Err())
	}
}

func TestATransportThatGoes(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 5)
	l := p.senderLink(1, wire.Attach{}, 5)
	o := &engine.Outgoing{Payload: []byte("x")}
	p.check(l.Send(o))
	p.c.Flush()
	p.c.Abort(wire.Errorf(wire.CondConnectionForced, "gone"))
	p.event(engine.EventDetach)
	if p.event(engine.EventLost).Outgoing != o {
		t.Fatal("another message")
	}
	p.event(engine.EventDetach)
	p.event(engine.EventEnd)
	p.event(engine.EventClosed)
	p.noEvent()
	if l.Send(o) == nil {
		t.Fatal("the link has gone")
	}
}

func TestTimers(t *testing.T) {
	t.Run("handshake", func(t *testing.T) {
		p := newPeer(t, engine.Options{HandshakeTimeout: time.Minute})
		if d := p.c.Deadline(); d != start.Add(time.Minute) {
			t.Fatal(d)
		}
		p.c.Tick(start.Add(time.Minute))
		if !p.c.Done() {
			t.Fatal("not done")
		}
	})
	t.Run("silence", func(t *testing.T) {
		p := open(t, engine.Options{IdleTimeout: 100 * time.Second})
		p.c.Tick(start.Add(124 * time.Second))
		p.quiet()
		p.now = start.Add(124 * time.Second)
		p.raw("\x00\x00\x00\x08\x02\x00\x00\x00")
		p.c.Tick(start.Add(200 * time.Second))
		p.quiet()
		p.c.Tick(p.c.Deadline())
		p.closed(wire.CondResourceLimitExceeded)
		p.c.Tick(p.c.Deadline()) // no close from the client
		if !p.c.Done() {
			t.Fatal("not done")
		}
	})
	t.Run("heartbeats nobody has asked for", func(t *testing.T) {
		for every, want := range map[time.Duration]time.Time{0: {}, 7 * time.Second: start.Add(7 * time.Second)} {
			if p := open(t, engine.Options{IdleTimeout: -1, Heartbeat: every}); p.c.Deadline() != want {
				t.Errorf("%v: due at %v", every, p.c.Deadline())
			}
		}
	})
	t.Run("heartbeats", func(t *testing.T) {
		p := newPeer(t, engine.Options{IdleTimeout: -1})
		p.raw(header)
		p.send(0, &wire.Open{IdleTimeout: 9_000}, "")
		p.event(engine.EventOpen)
		p.check(p.c.AcceptOpen())
		p.take(8)
		p.next()
		for i := range 3 {
			p.now = p.c.Deadline()
			if want := start.Add(time.Duration(i+1) * 3 * time.Second); p.now != want {
				t.Fatal(p.now, want)
			}
			p.c.Tick(p.now)
			if f := p.next(); f.p != nil {
				t.Fatalf("%+v", f)
			}
		}
	})
}

func TestChannelsAreUsedAgain(t *testing.T) {
	p := open(t, engine.Options{})
	for i := range uint16(5) {
		p.send(i+1, &wire.Begin{HandleMax: 1}, "")
		if f := p.next(); f.channel != i+1 {
			t.Fatal(f)
		}
	}
	p.send(3, &wire.End{}, "")
	if f := p.next(); f.channel != 3 {
		t.Fatal(f)
	}
	p.send(77, &wire.Begin{}, "")
	if f := p.next(); f.channel != 3 || f.p.(*wire.Begin).RemoteChannel.V != 77 {
		t.Fatal(f)
	}
}

func TestOutputThatNobodyTakesStopsInput(t *testing.T) {
	p := open(t, engine.Options{MaxOutput: 2000})
	l := p.senderLink(0, wire.Attach{}, 1000)
	for range 100 {
		p.check(l.Send(&engine.Outgoing{Payload: make([]byte, 100)}))
	}
	p.c.Flush()
	if n := len(p.c.Output()); n > 1200 || n < 900 {
		t.Fatalf("%d bytes of transfers wait", n)
	}
	for p.c.WantsInput() {
		p.send(0, &wire.Flow{Echo: true}, "")
		if len(p.c.Output()) > 10_000 {
			t.Fatal("input must stop")
		}
	}
	p.collect()
	if !p.c.WantsInput() {
		t.Fatal("input must go on")
	}
}

func TestDeliveriesThatNobodySettlesStopInput(t *testing.T) {
	p := open(t, engine.Options{MaxBuffered: 1000})
	p.receiverLink(0, wire.Attach{}, 100)
	p.transfer(0, 0, strings.Repeat("x", 900))
	d := p.event(engine.EventDelivery).Delivery
	if !p.c.WantsInput() {
		t.Fatal("900 bytes are allowed")
	}
	p.transfer(0, 1, strings.Repeat("x", 200))
	if p.c.WantsInput() {
		t.Fatal("1100 bytes are not")
	}
	p.c.Tick(start.Add(time.Hour))
	if _, ok := p.maybe(); ok || p.c.Done() {
		t.Fatal("a client that may not send is not silent")
	}
	d.Settle(wire.Accepted())
	if !p.c.WantsInput() {
		t.Fatal("200 bytes are allowed")
	}
}
