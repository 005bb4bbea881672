package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func TestViolationsEndTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *peer)
		want string
	}{
		"flow without link":     {func(p *peer) { p.send(0, &wire.Flow{Handle: wire.Some(uint32(9))}, "") }, wire.CondUnattachedHandle},
		"transfer without link": {func(p *peer) { p.transfer(9, 0, "x") }, wire.CondUnattachedHandle},
		"detach without link":   {func(p *peer) { p.send(0, &wire.Detach{Handle: 9}, "") }, wire.CondUnattachedHandle},
		"handle in use": {func(p *peer) {
			p.senderLink(0, wire.Attach{}, 0)
			p.send(0, &wire.Attach{Name: "other"}, "")
		}, wire.CondHandleInUse},
		"transfer to a receiver": {func(p *peer) {
			p.senderLink(0, wire.Attach{}, 0)
			p.transfer(0, 0, "x")
		}, wire.CondNotAllowed},
		"window": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 100)
			for i := range uint32(21) {
				p.transfer(0, i, "x")
			}
		}, wire.CondWindowViolation},
		"no delivery-id": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 1)
			p.send(0, &wire.Transfer{}, "x")
		}, wire.CondInvalidField},
		"delivery-tag too long": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 1)
			p.send(0, &wire.Transfer{DeliveryID: wire.Some(uint32(1)), DeliveryTag: make([]byte, 33)}, "x")
		}, wire.CondInvalidField},
		"delivery-id twice": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 9)
			p.transfer(0, 5, "x")
			p.transfer(0, 5, "x")
		}, wire.CondInvalidField},
		"delivery within delivery": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 9)
			p.send(0, &wire.Transfer{DeliveryID: wire.Some(uint32(1)), More: true}, "x")
			p.transfer(0, 2, "x")
		}, wire.CondInvalidField},
		"disposition backwards": {func(p *peer) {
			p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: 5, Last: wire.Some(uint32(4))}, "")
		}, wire.CondInvalidField},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, engine.Options{IncomingWindow: 20})
			c.do(p)
			p.ended(c.want)
			p.send(0, &wire.Attach{Name: "ignored"}, "")
			p.send(0, &wire.End{}, "")
			p.quiet()
			p.send(0, &wire.Begin{}, "") // the channel is free again
			if f := p.next(); f.channel != 0 {
				t.Fatal(f)
			}
		})
	}
}

func TestViolationsDetachTheLink(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *peer)
		want string
	}{
		"no credit": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 1)
			p.transfer(0, 0, "x")
			p.transfer(0, 1, "x")
		}, wire.CondTransferLimitExceeded},
		"message too large": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 1)
			p.transfer(0, 0, strings.Repeat("x", 2000))
		}, wire.CondMessageSizeExceeded},
		"message too large in parts": {func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 1)
			for range 3 {
				p.send(0, &wire.Transfer{DeliveryID: wire.Some(uint32(0)), More: true}, strings.Repeat("x", 400))
			}
		}, wire.CondMessageSizeExceeded},
		"transactions": {func(p *peer) {
			p.send(0, &wire.Attach{Name: "tx", Target: &wire.Target{Coordinator: true}}, "")
		}, wire.CondNotImplemented},
		"too many links": {func(p *peer) {
			for i := range uint32(6) {
				p.send(0, &wire.Attach{Name: strings.Repeat("x", int(i)), Handle: i}, "")
			}
		}, wire.CondResourceLimitExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, engine.Options{MaxMessageSize: 1000, MaxLinks: 5})
			c.do(p)
			p.detached(c.want)
			p.quiet()
		})
	}
}

func TestWhatIsKeptOfLinksIsBounded(t *testing.T) {
	p := open(t, engine.Options{MaxLinks: 5, MaxLinkBytes: 2000})
	attach := func(handle uint32, size int) {
		p.send(0, &wire.Attach{Name: fmt.Sprint(handle), Handle: handle, Role: wire.RoleReceiver, Properties: wire.Map{}.WithSymbol("k", wire.String(strings.Repeat("x", size)))}, "")
	}
	for i := range uint32(2) {
		attach(i, 600)
		p.check(p.event(engine.EventAttach).Link.AcceptAttach(engine.AttachReply{}))
		p.next()
	}
	attach(2, 1000)
	p.detached(wire.CondResourceLimitExceeded)
	p.send(0, &wire.Detach{Handle: 0, Closed: true}, "")
	p.next()
	attach(3, 600) // the bytes are there again
	p.event(engine.EventDetach)
	p.event(engine.EventAttach)
	for i := range uint32(100) { // refused, and never detached by the client
		if p.c.Err() == nil {
			attach(10+i, 1900)
		}
	}
	p.closed(wire.CondResourceLimitExceeded)
	if p.c.LinkCost() != 0 {
		t.Fatal(p.c.LinkCost())
	}
}

// A gateway holds a session for each of its devices, and names their links
// alike.
func TestManySessionsOnOneConnection(t *testing.T) {
	p := newPeer(t, engine.Options{})
	p.raw(header)
	p.send(0, &wire.Open{ContainerID: "gateway", MaxFrameSize: 512, ChannelMax: 8191}, "")
	p.event(engine.EventOpen)
	p.check(p.c.AcceptOpen())
	p.take(8)
	p.next()
	const sessions = 2000
	links := make([]*engine.Link, sessions)
	for i := range uint16(sessions) {
		p.send(i, &wire.Begin{IncomingWindow: 10, HandleMax: 10}, "")
		p.event(engine.EventBegin)
		p.send(i, &wire.Attach{Name: "TwinReceiverLink", Role: wire.RoleReceiver}, "")
		p.send(i, &wire.Flow{IncomingWindow: 10, Handle: wire.Some(uint32(0)), LinkCredit: wire.Some(uint32(1))}, "")
		links[i] = p.event(engine.EventAttach).Link
		p.check(links[i].AcceptAttach(engine.AttachReply{}))
		p.event(engine.EventCredit)
		p.next()
		p.next()
	}
	links[7].Session().End(wire.Errorf(wire.CondDetachForced, "one of them"))
	p.next()
	for i, l := range links {
		if err := l.Send(&engine.Outgoing{Payload: []byte("x")}); (err == nil) != (i != 7) {
			t.Fatal(i, err)
		}
	}
	for i := range sessions {
		if i == 7 {
			continue
		}
		if f := p.next(); f.channel != uint16(i) {
			t.Fatalf("%d: %d %+v", i, f.channel, f.p)
		}
	}
	p.quiet()
}

func TestARefusedLinkIsAttachedWithoutItsTerminus(t *testing.T) {
	p := open(t, engine.Options{})
	for _, role := range []wire.Role{wire.RoleSender, wire.RoleReceiver} {
		p.send(0, &wire.Attach{Name: "n", Role: role, Source: &wire.Source{Address: "s"}, Target: &wire.Target{Address: "t"}}, "")
		l := p.event(engine.EventAttach).Link
		p.check(l.RefuseAttach(wire.Errorf(wire.CondNotFound, "no")))
		a := p.next().p.(*wire.Attach)
		if a.Role == role || role == wire.RoleSender && (a.Target != nil || a.Source == nil) || role == wire.RoleReceiver && (a.Source != nil || a.Target == nil) {
			t.Errorf("%v: %+v", role, a)
		}
		p.detached(wire.CondNotFound)
		if l.RefuseAttach(nil) == nil || l.AcceptAttach(engine.AttachReply{}) == nil {
			t.Error("answered twice")
		}
		p.send(0, &wire.Detach{Closed: true}, "")
		p.noEvent()
		p.quiet()
	}
}

func TestAcceptedLinksEchoWhatTheClientAskedFor(t *testing.T) {
	p := open(t, engine.Options{})
	filter := wire.Map{}.WithSymbol("apache.org:selector-filter:string", wire.Described(wire.Symbol("apache.org:selector-filter:string"), wire.String("x > 1")))
	p.send(0, &wire.Attach{Name: "n", Role: wire.RoleReceiver, SenderMode: wire.SenderSettled, ReceiverMode: wire.ReceiverSecond, MaxMessageSize: 500,
		Source: &wire.Source{Address: "s", Filter: filter}, Target: &wire.Target{Address: "t"}}, "")
	p.check(p.event(engine.EventAttach).Link.AcceptAttach(engine.AttachReply{}))
	a := p.next().p.(*wire.Attach)
	if a.SenderMode != wire.SenderSettled || a.ReceiverMode != wire.ReceiverSecond || !a.Source.Filter.Equal(filter) || a.Target.Address != "t" ||
		a.MaxMessageSize != 500 || a.InitialDeliveryCount != wire.Some(uint32(0)) {
		t.Fatalf("%+v", a)
	}
}

func TestDynamicNodesNeedAnAddress(t *testing.T) {
	p := open(t, engine.Options{})
	ask := func() *engine.Link {
		p.send(0, &wire.Attach{Name: "n", Role: wire.RoleReceiver, Source: &wire.Source{Dynamic: true}}, "")
		return p.event(engine.EventAttach).Link
	}
	if err := ask().AcceptAttach(engine.AttachReply{}); err != engine.ErrDynamic {
		t.Fatal(err)
	}
	p.detached(wire.CondNotImplemented)
	p.send(0, &wire.Detach{Closed: true}, "")
	p.noEvent()
	p.check(ask().AcceptAttach(engine.AttachReply{Source: &wire.Source{Dynamic: true, Address: "made"}}))
	if a := p.next().p.(*wire.Attach); a.Source.Address != "made" {
		t.Fatalf("%+v", a.Source)
	}
}

func TestALinkThatLeavesBeforeItIsAccepted(t *testing.T) {
	p := open(t, engine.Options{})
	p.send(0, &wire.Attach{Name: "n"}, "")
	p.send(0, &wire.Detach{Closed: true}, "")
	l := p.event(engine.EventAttach).Link
	p.event(engine.EventDetach)
	if err := l.AcceptAttach(engine.AttachReply{}); err != engine.ErrLinkGone {
		t.Fatal(err)
	}
	if a := p.next().p.(*wire.Attach); a.Target != nil {
		t.Fatalf("%+v", a)
	}
	if d := p.next().p.(*wire.Detach); !d.Closed || d.Error != nil {
		t.Fatalf("%+v", d)
	}
}

func TestLinkStealing(t *testing.T) {
	p := open(t, engine.Options{})
	old := p.senderLink(0, wire.Attach{Name: "same"}, 0)
	p.send(0, &wire.Attach{Name: "same", Handle: 1, Role: wire.RoleReceiver}, "")
	if e := p.event(engine.EventDetach); e.Link != old || e.Err.Condition != wire.CondStolen {
		t.Fatalf("%+v", e)
	}
	p.check(p.event(engine.EventAttach).Link.AcceptAttach(engine.AttachReply{}))
	p.detached(wire.CondStolen)
	if a, ok := p.next().p.(*wire.Attach); !ok || a.Handle != 1 {
		t.Fatalf("%+v", a)
	}
	p.send(0, &wire.Detach{Handle: 0, Closed: true}, "")
	p.senderLink(0, wire.Attach{Name: "third"}, 0)
	// The same name in the other direction is another link.
	p.receiverLink(2, wire.Attach{Name: "same"}, 1)

	refusing := open(t, engine.Options{Steal: func(*engine.Link) bool { return false }})
	refusing.senderLink(0, wire.Attach{Name: "same"}, 0)
	refusing.send(0, &wire.Attach{Name: "same", Handle: 1, Role: wire.RoleReceiver}, "")
	refusing.noEvent()
	refusing.detached(wire.CondResourceLocked)
}

func TestDetachIsAnswered(t *testing.T) {
	p := open(t, engine.Options{})
	for _, closed := range []bool{true, false} {
		l := p.receiverLink(0, wire.Attach{}, 5)
		p.transfer(0, 0, "x")
		d := p.event(engine.EventDelivery).Delivery
		p.send(0, &wire.Detach{Closed: closed, Error: wire.Errorf("a:b", "")}, "")
		if e := p.event(engine.EventDetach); e.Link != l || e.Err.Condition != "a:b" {
			t.Fatal(e)
		}
		if a := p.next().p.(*wire.Detach); a.Closed != closed {
			t.Fatal(a)
		}
		d.Settle(wire.Accepted()) // too late; must not write anything
		p.quiet()
	}
}

func TestFramesOnALinkThatIsBeingDetachedAreIgnored(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.receiverLink(0, wire.Attach{}, 5)
	l.Detach(nil)
	p.event(engine.EventDetach)
	p.next()
	p.transfer(0, 0, "x")
	p.send(0, &wire.Flow{Handle: wire.Some(uint32(0)), Echo: true}, "")
	p.noEvent()
	p.quiet()
	p.send(0, &wire.Detach{Closed: true}, "")
	p.quiet()
	p.transfer(0, 1, "x")
	p.ended(wire.CondUnattachedHandle)
}

func TestSessionEndDetachesItsLinks(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{}, 5)
	if links := l.Session().Links(); len(links) != 1 || links[0] != l {
		t.Fatal(links)
	}
	p.check(l.Send(&engine.Outgoing{Payload: []byte("x")}))
	p.next()
	p.send(0, &wire.End{Error: wire.Errorf("a:b", "")}, "")
	p.event(engine.EventLost)
	p.event(engine.EventDetach)
	if e := p.event(engine.EventEnd); e.Err.Condition != "a:b" {
		t.Fatal(e.Err)
	}
	if _, ok := p.next().p.(*wire.End); !ok {
		t.Fatal("no end")
	}
}

func TestFlowIsEchoed(t *testing.T) {
	p := open(t, engine.Options{})
	p.senderLink(0, wire.Attach{}, 5)
	p.send(0, &wire.Flow{Echo: true}, "")
	if f := p.next().p.(*wire.Flow); f.Handle.Set || f.IncomingWindow != 5000 {
		t.Fatalf("%+v", f)
	}
	p.send(0, &wire.Flow{Echo: true, Handle: wire.Some(uint32(0)), LinkCredit: wire.Some(uint32(7))}, "")
	if f := p.next().p.(*wire.Flow); f.LinkCredit.V != 7 || !f.Available.Set {
		t.Fatalf("%+v", f)
	}
}

func TestCreditForALinkThatHasJustGoneIsIgnored(t *testing.T) {
	p := open(t, engine.Options{})
	p.senderLink(0, wire.Attach{}, 5)
	p.send(0, &wire.Detach{Closed: true}, "")
	p.event(engine.EventDetach)
	p.next()
	p.credit(0, 0, 10)
	p.noEvent()
	p.quiet()
	p.credit(1, 0, 10) // never was one
	p.ended(wire.CondUnattachedHandle)
}

// go-amqp attaches anew before it answers the detach of the link before.
func TestAHandleIsFreeOnceItsLinkIsDetached(t *testing.T) {
	p := open(t, engine.Options{})
	for round := range 3 {
		l := p.receiverLink(0, wire.Attach{}, 5)
		l.Detach(nil)
		p.event(engine.EventDetach)
		p.next()
		fresh := p.receiverLink(0, wire.Attach{Name: fmt.Sprint("fresh", round)}, 5)
		p.send(0, &wire.Detach{Closed: true}, "") // of the old one
		p.quiet()
		p.transfer(0, uint32(round), "x")
		if d := p.event(engine.EventDelivery).Delivery; d.Link() != fresh {
			t.Fatal("delivery on another link")
		}
		p.send(0, &wire.Detach{Closed: true}, "")
		p.event(engine.EventDetach)
		if f, ok := p.next().p.(*wire.Detach); !ok || f.Error != nil {
			t.Fatalf("%+v", f)
		}
	}
	// Only one answer may be owed.
	p.receiverLink(0, wire.Attach{}, 5).Detach(nil)
	p.event(engine.EventDetach)
	p.next()
	p.receiverLink(0, wire.Attach{Name: "a"}, 5).Detach(nil)
	p.event(engine.EventDetach)
	p.next()
	p.send(0, &wire.Attach{Name: "b"}, "")
	p.ended(wire.CondHandleInUse)
}
