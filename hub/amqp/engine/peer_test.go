package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// failer is *testing.T or *rapid.T.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

var start = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	header     = "AMQP\x00\x01\x00\x00"
	saslHeader = "AMQP\x03\x01\x00\x00"
)

// peer is a scripted client of an engine.
type peer struct {
	t   failer
	c   *engine.Conn
	now time.Time
	in  []byte // the engine's output, not yet read
}

type frame struct {
	channel uint16
	p       wire.Performative
	payload []byte
}

func newPeer(t failer, o engine.Options) *peer {
	return &peer{t: t, c: engine.New(o, start), now: start}
}

// open brings the connection to where channel 0 has a session.
func open(t failer, o engine.Options) *peer {
	t.Helper()
	p := newPeer(t, o)
	p.raw(header)
	p.send(0, &wire.Open{ContainerID: "client", MaxFrameSize: 512, ChannelMax: 10}, "")
	p.event(engine.EventOpen)
	p.check(p.c.AcceptOpen())
	p.send(0, &wire.Begin{IncomingWindow: 100, OutgoingWindow: 100, HandleMax: 1000}, "")
	p.event(engine.EventBegin)
	if string(p.take(8)) != header {
		t.Fatal("no header")
	}
	if o := p.next().p.(*wire.Open); o.ContainerID == "" {
		t.Fatal("no container id")
	}
	if b := p.next().p.(*wire.Begin); b.RemoteChannel != wire.Some(uint16(0)) {
		t.Fatalf("%+v", b)
	}
	return p
}

func (p *peer) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) raw(s string) { p.c.Input(p.now, []byte(s)) }

func (p *peer) send(channel uint16, f wire.Performative, payload string) {
	b, n := wire.AppendFrame(nil, wire.FrameAMQP, channel, f, []byte(payload), 1<<20)
	if n != len(payload) {
		p.t.Fatal("payload cut")
	}
	p.c.Input(p.now, b)
}

func (p *peer) sendSASL(f wire.Performative) {
	b, _ := wire.AppendFrame(nil, wire.FrameSASL, 0, f, nil, 1<<20)
	p.c.Input(p.now, b)
}

// event takes the next event, which must be of kind k.
func (p *peer) event(k engine.EventKind) engine.Event {
	p.t.Helper()
	e, ok := p.c.Next()
	if !ok || e.Kind != k {
		p.t.Fatalf("event %d (%v), want %d", e.Kind, e.Err, k)
	}
	return e
}

func (p *peer) noEvent() {
	p.t.Helper()
	if e, ok := p.c.Next(); ok {
		p.t.Fatalf("event %d: %+v", e.Kind, e)
	}
}

func (p *peer) collect() {
	p.c.Flush()
	p.in = append(p.in, p.c.TakeOutput(p.now, nil)...)
}

func (p *peer) take(n int) []byte {
	p.t.Helper()
	p.collect()
	if len(p.in) < n {
		p.t.Fatalf("output %x", p.in)
	}
	b := p.in[:n]
	p.in = p.in[n:]
	return b
}

// next takes the next frame that the engine has written.
func (p *peer) next() frame {
	p.t.Helper()
	f, ok := p.maybe()
	if !ok {
		p.t.Fatal("no frame")
	}
	return f
}

func (p *peer) maybe() (frame, bool) {
	p.t.Helper()
	p.collect()
	f, n, err := wire.SplitFrame(p.in, 512)
	if err != nil {
		p.t.Fatal(err)
	}
	if n == 0 {
		return frame{}, false
	}
	p.in = p.in[n:]
	if len(f.Body) == 0 {
		return frame{channel: f.Channel}, true
	}
	var d wire.Decoder
	perf, payload, err := d.Decode(f.Type, f.Body)
	if err != nil {
		p.t.Fatalf("%x: %v", f.Body, err)
	}
	return frame{f.Channel, perf, payload}, true
}

func (p *peer) quiet() {
	p.t.Helper()
	if f, ok := p.maybe(); ok {
		p.t.Fatalf("unexpected %T %+v", f.p, f.p)
	}
}

// receiverLink attaches a link on which the peer sends.
func (p *peer) receiverLink(handle uint32, a wire.Attach, window uint32) *engine.Link {
	p.t.Helper()
	a.Handle, a.Role, a.InitialDeliveryCount = handle, wire.RoleSender, wire.Some(uint32(0))
	if a.Name == "" {
		a.Name = fmt.Sprint("s", handle)
	}
	p.send(0, &a, "")
	l := p.event(engine.EventAttach).Link
	p.check(l.AcceptAttach(engine.AttachReply{Window: window, TwoStep: a.SenderMode != wire.SenderMixed}))
	reply := p.next().p.(*wire.Attach)
	if reply.Role != wire.RoleReceiver || reply.Name != a.Name {
		p.t.Fatalf("%+v", reply)
	}
	if window > 0 {
		if f := p.next().p.(*wire.Flow); f.LinkCredit.V != window {
			p.t.Fatalf("%+v", f)
		}
	}
	return l
}

// senderLink attaches a link on which the peer receives.
func (p *peer) senderLink(handle uint32, a wire.Attach, credit uint32) *engine.Link {
	p.t.Helper()
	a.Handle, a.Role = handle, wire.RoleReceiver
	if a.Name == "" {
		a.Name = fmt.Sprint("r", handle)
	}
	p.send(0, &a, "")
	l := p.event(engine.EventAttach).Link
	p.check(l.AcceptAttach(engine.AttachReply{}))
	if reply := p.next().p.(*wire.Attach); !reply.InitialDeliveryCount.Set {
		p.t.Fatalf("%+v", reply)
	}
	if credit > 0 {
		p.credit(handle, 0, credit)
		p.event(engine.EventCredit)
	}
	return l
}

func (p *peer) credit(handle, count, credit uint32) {
	p.send(0, &wire.Flow{NextIncomingID: wire.Some(uint32(0)), IncomingWindow: 1 << 20, Handle: wire.Some(handle), DeliveryCount: wire.Some(count), LinkCredit: wire.Some(credit)}, "")
}

func (p *peer) transfer(handle, id uint32, payload string) {
	p.send(0, &wire.Transfer{Handle: handle, DeliveryID: wire.Some(id), DeliveryTag: []byte(fmt.Sprint(id))}, payload)
}

// ended expects that the engine has ended the session with a condition.
func (p *peer) ended(condition string) {
	p.t.Helper()
	for {
		switch f := p.next().p.(type) {
		case *wire.End:
			if f.Error == nil || f.Error.Condition != condition {
				p.t.Fatalf("ended with %v, want %s", f.Error, condition)
			}
			return
		case *wire.Close:
			p.t.Fatalf("closed with %v", f.Error)
		}
	}
}

func (p *peer) detached(condition string) {
	p.t.Helper()
	for {
		switch f := p.next().p.(type) {
		case *wire.Detach:
			if f.Error == nil || f.Error.Condition != condition || !f.Closed {
				p.t.Fatalf("detached with %v, want %s", f.Error, condition)
			}
			return
		case *wire.Close, *wire.End:
			p.t.Fatalf("%T %+v", f, f)
		}
	}
}

// closed expects that the engine has closed the connection with a condition.
func (p *peer) closed(condition string) {
	p.t.Helper()
	for {
		if f, ok := p.next().p.(*wire.Close); ok {
			if f.Error == nil || f.Error.Condition != condition {
				p.t.Fatalf("closed with %v, want %s", f.Error, condition)
			}
			return
		}
	}
}

func TestThePeerItself(t *testing.T) {
	p := open(t, engine.Options{})
	p.quiet()
	if s := fmt.Sprint(p.c.ClientOpen().ContainerID); !strings.HasPrefix(s, "client") {
		t.Fatal(s)
	}
}
