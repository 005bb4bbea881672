package engine_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// script draws frames that are valid one by one, in any order, and answers of
// an application in any order.
type script struct {
	t    *rapid.T
	p    *peer
	outs []*engine.Outgoing
	ins  []*engine.Delivery
	live []*engine.Link
	id   uint32                    // next delivery id
	owed map[*engine.Outgoing]bool // neither settled nor lost yet
}

func (s *script) u(n string, max uint32) uint32 { return rapid.Uint32Range(0, max).Draw(s.t, n) }
func (s *script) yes(n string) bool             { return rapid.Bool().Draw(s.t, n) }

func (s *script) state() wire.State {
	return rapid.SampledFrom([]wire.State{{}, wire.Accepted(), wire.Rejected(nil), wire.Released(), wire.Modified(true, true), {Code: wire.StateReceived}}).Draw(s.t, "state")
}

func (s *script) frame() {
	ch := uint16(rapid.SampledFrom([]uint32{0, 0, 0, 0, 1}).Draw(s.t, "channel"))
	var f wire.Performative
	payload := ""
	switch s.u("frame", 40) {
	case 0:
		f = &wire.Begin{NextOutgoingID: s.u("id", 5), IncomingWindow: s.u("window", 20), HandleMax: 3}
	case 1:
		f = &wire.End{}
	case 2, 3, 4, 5, 6, 7, 8, 9:
		f = &wire.Attach{Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(s.t, "name"), Handle: s.handle(false, 0), Role: wire.Role(s.yes("receiver")),
			SenderMode: uint8(s.u("sm", 2)), ReceiverMode: uint8(s.u("rm", 1)), InitialDeliveryCount: wire.Some(s.u("count", 3)), MaxMessageSize: uint64(s.u("mms", 1)) * 600}
	case 10:
		f = &wire.Detach{Handle: s.handle(true, s.u("any", 1)), Closed: s.yes("closed")}
	case 11, 12, 13, 14, 15, 16, 17, 18:
		fl := &wire.Flow{NextIncomingID: wire.Some(s.u("next", 20)), IncomingWindow: s.u("window", 30), Drain: s.yes("drain"), Echo: s.yes("echo")}
		if s.u("link", 4) > 0 {
			fl.Handle, fl.LinkCredit, fl.DeliveryCount = wire.Some(s.handle(true, 1)), wire.Some(s.u("credit", 9)), wire.Some(s.u("count", 9))
		}
		f = fl
	case 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30:
		t := &wire.Transfer{Handle: s.handle(true, 0), More: s.yes("more"), Aborted: s.u("aborted", 9) == 0, Settled: wire.Some(s.yes("settled"))}
		if s.u("first", 3) > 0 {
			t.DeliveryID = wire.Some(s.id)
		}
		f, payload = t, strings.Repeat("p", int(s.u("size", 400)))
		if !t.More {
			s.id++
		}
	default:
		f = &wire.Disposition{Role: wire.Role(s.yes("receiver")), First: s.u("first", 20), Last: wire.Some(s.u("last", 40)), Settled: s.yes("settled"), State: s.state()}
	}
	s.p.send(ch, f, payload)
}

// handle draws a handle, mostly of a link that is there or, for a new one, is
// not: with our role as sender (1) or receiver (0).
func (s *script) handle(there bool, sender uint32) uint32 {
	if s.u("odd", 20) == 0 {
		return s.u("handle", 3)
	}
	used := make(map[uint32]bool)
	for _, l := range s.live {
		if there && l.Role() == wire.Role(sender == 0) {
			return l.Attach().Handle
		}
		used[l.Attach().Handle] = true
	}
	for h := range uint32(4) {
		if !used[h] {
			return h
		}
	}
	return 0
}

// events keeps the books on what the engine promises.
func (s *script) events() {
	for {
		e, ok := s.p.c.Next()
		if !ok {
			return
		}
		switch e.Kind {
		case engine.EventAttach:
			if s.u("refuse", 5) == 0 {
				_ = e.Link.RefuseAttach(wire.Errorf("a:b", "no"))
				continue
			}
			s.live = append(s.live, e.Link)
			_ = e.Link.AcceptAttach(engine.AttachReply{Window: s.u("window", 6), MaxMessageSize: 1000, TwoStep: s.yes("two steps")})
		case engine.EventDetach:
			i := slices.Index(s.live, e.Link)
			if i < 0 {
				s.t.Fatal("detached a link that is not there")
			}
			s.live = slices.Delete(s.live, i, i+1)
		case engine.EventDelivery:
			if !slices.Contains(s.live, e.Link) || len(e.Delivery.Payload) > 1000 {
				s.t.Fatal("bad delivery", len(e.Delivery.Payload))
			}
			s.ins = append(s.ins, e.Delivery)
		case engine.EventSettled, engine.EventLost:
			if !s.owed[e.Outgoing] {
				s.t.Fatal("the fate of a message was told twice")
			}
			delete(s.owed, e.Outgoing)
			s.outs = append(s.outs, e.Outgoing)
		}
	}
}

func (s *script) act() {
	if len(s.live) > 0 {
		l := rapid.SampledFrom(s.live).Draw(s.t, "link")
		if l.Role() == wire.RoleSender && s.yes("send") {
			o := &engine.Outgoing{Payload: make([]byte, s.u("size", 900)), Settled: s.yes("settled")}
			if l.Send(o) == nil {
				s.owed[o] = true
			}
		}
		if s.u("drained", 3) == 0 {
			l.Drained()
		}
		if s.u("detach", 15) == 0 {
			l.Detach(nil)
		}
	}
	if len(s.ins) > 0 && s.yes("settle") {
		s.ins[0].Settle(s.state())
		s.ins = s.ins[1:]
	}
	if len(s.outs) > 0 && s.yes("confirm") {
		s.outs[0].Confirm(wire.Accepted())
		s.outs = s.outs[1:]
	}
}

func TestNoOrderOfFramesBreaksTheEngine(t *testing.T) { rapid.Check(t, anyOrder) }

// FuzzOrder is the same, guided by coverage.
func FuzzOrder(f *testing.F) { f.Fuzz(rapid.MakeFuzz(anyOrder)) }

func anyOrder(t *rapid.T) {
	p := open(t, engine.Options{MaxMessageSize: 1000, MaxPartial: 1500, MaxLinks: 6, IncomingWindow: 30, MaxUnsettled: 5, MaxQueue: 5})
	s := &script{t: t, p: p, owed: make(map[*engine.Outgoing]bool)}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		if p.c.Done() {
			break
		}
		s.frame()
		s.events()
		s.act()
		p.collect() // also flushes
		s.events()
		if partial, _, links, sessions := p.c.Held(); partial < 0 || partial > 2500 || links < 0 || links > 7 || sessions > 10 {
			t.Fatal(p.c.Held())
		}
	}
	p.c.Abort(nil)
	s.events()
	for _, d := range s.ins {
		d.Settle(wire.Accepted())
	}
	if partial, buffered, links, sessions := p.c.Held(); partial != 0 || buffered != 0 || links != 0 || sessions != 0 {
		t.Fatal(p.c.Held())
	}
	if len(s.live) != 0 || len(s.owed) != 0 {
		t.Fatalf("%d links and %d messages without an end", len(s.live), len(s.owed))
	}
	for {
		if _, ok := p.maybe(); !ok {
			break
		}
	}
}
