package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func TestFragmentsAreJoinedAndLinksMayInterleave(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 5)
	p.receiverLink(1, wire.Attach{}, 5)
	for i := range 3 {
		for h := range uint32(2) {
			f := &wire.Transfer{Handle: h, More: i < 2}
			if i == 0 {
				f.DeliveryID, f.DeliveryTag, f.MessageFormat = wire.Some(h), []byte{byte(h)}, wire.Some(uint32(7))
			}
			p.send(0, f, fmt.Sprint(h, i))
		}
	}
	for h := range 2 {
		d := p.event(engine.EventDelivery).Delivery
		if want := fmt.Sprint(h, 0) + fmt.Sprint(h, 1) + fmt.Sprint(h, 2); string(d.Payload) != want || d.Tag[0] != byte(h) || d.Format != 7 {
			t.Errorf("%q, want %q", d.Payload, want)
		}
	}
}

func TestAbortedMessagesLeaveNothing(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 1)
	p.send(0, &wire.Transfer{DeliveryID: wire.Some(uint32(0)), More: true}, "x")
	p.send(0, &wire.Transfer{Aborted: true}, "")
	p.noEvent()
	if f := p.next().p.(*wire.Flow); f.LinkCredit.V != 1 || f.DeliveryCount.V != 1 {
		t.Fatalf("%+v", f)
	}
	p.transfer(0, 1, "y")
	if d := p.event(engine.EventDelivery).Delivery; string(d.Payload) != "y" {
		t.Fatalf("%q", d.Payload)
	}
}

func TestCreditComesBackInHalves(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 10)
	var held []*engine.Delivery
	for i := range uint32(10) {
		p.send(0, &wire.Transfer{DeliveryID: wire.Some(i), Settled: wire.Some(i%2 == 0)}, "x")
		held = append(held, p.event(engine.EventDelivery).Delivery)
	}
	p.quiet()
	for _, d := range held[:4] {
		d.Settle(wire.Accepted())
	}
	for _, want := range []uint32{1, 3} { // 0 and 2 were settled by the sender
		if d := p.next().p.(*wire.Disposition); d.First != want || d.Last.Set || !d.Settled || d.Role != wire.RoleReceiver {
			t.Fatalf("%+v", d)
		}
	}
	p.quiet()
	held[4].Settle(wire.Accepted())
	if f := p.next().p.(*wire.Flow); f.LinkCredit.V != 5 || f.DeliveryCount.V != 10 {
		t.Fatalf("%+v", f)
	}
}

func TestDispositionsAreGatheredIntoRanges(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 100)
	var d []*engine.Delivery
	for i := range uint32(8) {
		p.transfer(0, i, "x")
		d = append(d, p.event(engine.EventDelivery).Delivery)
	}
	for _, i := range []int{0, 1, 2, 4, 3} {
		d[i].Settle(wire.Accepted())
	}
	d[5].Settle(wire.Rejected(wire.Errorf("a:b", "c")))
	d[6].Settle(wire.Released())
	d[7].Settle(wire.Released())
	d[7].Settle(wire.Accepted())
	for _, want := range []string{"0-2 accepted", "4-4 accepted", "3-3 accepted", "5-5 rejected", "6-7 released"} {
		f := p.next().p.(*wire.Disposition)
		if got := fmt.Sprintf("%d-%d %v", f.First, f.Last.Or(f.First), f.State.Code); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	p.quiet()
}

func TestReceivingSecondModeWaitsForTheSender(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{ReceiverMode: wire.ReceiverSecond}, 2)
	for i := range uint32(2) {
		p.transfer(0, i, "x")
		p.event(engine.EventDelivery).Delivery.Settle(wire.Accepted())
	}
	if d := p.next().p.(*wire.Disposition); d.Settled || d.Last.V != 1 || d.State.Code != wire.StateAccepted {
		t.Fatalf("%+v", d)
	}
	p.quiet()
	p.send(0, &wire.Disposition{Role: wire.RoleSender, First: 0, Last: wire.Some(uint32(1)), Settled: true, State: wire.Accepted()}, "")
	if f := p.next().p.(*wire.Flow); f.LinkCredit.V != 2 {
		t.Fatalf("%+v", f)
	}
}

func TestWithoutTwoStepsOutcomesAreSettledAtOnce(t *testing.T) {
	p := open(t, engine.Options{})
	p.receiverLink(0, wire.Attach{ReceiverMode: wire.ReceiverSecond, SenderMode: wire.SenderMixed}, 2)
	p.transfer(0, 0, "x")
	p.event(engine.EventDelivery).Delivery.Settle(wire.Accepted())
	if d := p.next().p.(*wire.Disposition); !d.Settled {
		t.Fatalf("%+v", d)
	}
}

func TestTheSessionWindowIsRefilled(t *testing.T) {
	p := open(t, engine.Options{IncomingWindow: 20})
	p.receiverLink(0, wire.Attach{}, 1000)
	for i := range uint32(200) {
		p.transfer(0, i, "x")
		p.event(engine.EventDelivery)
		if f, ok := p.maybe(); ok != (i%10 == 9) {
			t.Fatalf("%d: %+v", i, f.p)
		} else if ok && (f.p.(*wire.Flow).IncomingWindow != 20 || f.p.(*wire.Flow).NextIncomingID.V != i+1) {
			t.Fatalf("%d: %+v", i, f.p)
		}
	}
}

func TestSendingWaitsForCreditAndWindow(t *testing.T) {
	p := open(t, engine.Options{MaxQueue: 5})
	l := p.senderLink(0, wire.Attach{}, 0)
	for i := range 5 {
		p.check(l.Send(&engine.Outgoing{Payload: []byte{byte(i)}}))
	}
	if err := l.Send(&engine.Outgoing{}); !errors.Is(err, engine.ErrQueueFull) {
		t.Fatal(err)
	}
	p.quiet()
	flow := &wire.Flow{NextIncomingID: wire.Some(uint32(0)), IncomingWindow: 2, Handle: wire.Some(uint32(0)), LinkCredit: wire.Some(uint32(3))}
	p.send(0, flow, "")
	for i := range 2 {
		if f := p.next(); f.payload[0] != byte(i) || f.p.(*wire.Transfer).DeliveryID.V != uint32(i) {
			t.Fatalf("%+v", f)
		}
	}
	p.quiet() // the window is used up
	p.send(0, &wire.Flow{NextIncomingID: wire.Some(uint32(2)), IncomingWindow: 100}, "")
	p.next()
	p.quiet() // the credit is used up
	// Credit counts from the client's delivery-count, which is behind ours.
	p.credit(0, 1, 3)
	p.next()
	p.quiet()
	p.credit(0, 1, 0)
	p.quiet()
	if l.Queued() != 1 || l.Limit() != 4 || l.Credit() != 0 {
		t.Fatal(l.Queued(), l.Limit(), l.Credit())
	}
}

func TestSendingTakesTurns(t *testing.T) {
	p := open(t, engine.Options{})
	a, b := p.senderLink(0, wire.Attach{}, 100), p.senderLink(1, wire.Attach{}, 100)
	p.check(a.Send(&engine.Outgoing{Payload: []byte(strings.Repeat("a", 3000))}))
	p.check(b.Send(&engine.Outgoing{Payload: []byte("b")}))
	p.check(b.Send(&engine.Outgoing{Payload: []byte("c")}))
	var handles []uint32
	joined := 0
	for {
		f, ok := p.maybe()
		if !ok {
			break
		}
		tr := f.p.(*wire.Transfer)
		handles = append(handles, tr.Handle)
		if tr.Handle == 0 {
			joined += len(f.payload)
			if tr.More != (joined < 3000) || tr.DeliveryID.Set != (len(handles) == 1) {
				t.Fatalf("%+v", tr)
			}
		}
	}
	if fmt.Sprint(handles[:5]) != "[0 1 0 1 0]" || joined != 3000 {
		t.Fatal(handles, joined)
	}
}

func TestEveryPayloadSizeFits(t *testing.T) {
	p := open(t, engine.Options{MaxOutput: 1 << 30})
	l := p.senderLink(0, wire.Attach{SenderMode: wire.SenderMixed}, 3000)
	for n := range 1200 {
		p.check(l.Send(&engine.Outgoing{Payload: make([]byte, n), Settled: true, Tag: []byte("12345678901234567890123456789012")}))
		got := 0
		for {
			f := p.next() // refuses frames larger than 512
			got += len(f.payload)
			if !f.p.(*wire.Transfer).More {
				break
			}
		}
		if got != n {
			t.Fatal(got, n)
		}
		if e, ok := p.c.Next(); !ok || e.Kind != engine.EventSettled {
			t.Fatal("size", n, "ended early")
		}
	}
}

func TestModesRuleWhetherMessagesAreSettled(t *testing.T) {
	for _, c := range []struct {
		mode       uint8
		want, sent bool
	}{
		{wire.SenderSettled, true, false}, {wire.SenderUnsettled, false, true}, {wire.SenderMixed, true, true}, {wire.SenderMixed, false, false},
	} {
		p := open(t, engine.Options{})
		l := p.senderLink(0, wire.Attach{SenderMode: c.mode}, 1)
		p.check(l.Send(&engine.Outgoing{Payload: []byte("x"), Settled: c.sent}))
		if f := p.next().p.(*wire.Transfer); f.Settled.V != c.want {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}

func TestOutcomesComeInRangesAndOutOfOrder(t *testing.T) {
	p := open(t, engine.Options{FirstID: 0xfffffffe}) // ids wrap
	l := p.senderLink(0, wire.Attach{}, 0)
	p.send(0, &wire.Flow{IncomingWindow: 100, Handle: wire.Some(uint32(0)), LinkCredit: wire.Some(uint32(6))}, "")
	p.event(engine.EventCredit)
	out := make([]*engine.Outgoing, 6)
	for i := range out {
		out[i] = &engine.Outgoing{Payload: []byte("x")}
		p.check(l.Send(out[i]))
		if f := p.next().p.(*wire.Transfer); f.DeliveryID.V != 0xfffffffe+uint32(i) {
			t.Fatalf("%+v", f)
		}
	}
	settle := func(first, last uint32, s wire.State, want ...int) {
		t.Helper()
		p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: first, Last: wire.Some(last), Settled: true, State: s}, "")
		for _, i := range want {
			if e := p.event(engine.EventSettled); e.Outgoing != out[i] || e.State.Code != s.Code && s.Terminal() {
				t.Fatalf("%+v", e)
			}
		}
		p.noEvent()
	}
	settle(1, 1, wire.Rejected(nil), 3)
	settle(0xffffffff, 2, wire.Accepted(), 1, 2, 4)
	settle(0xffffffff, 2, wire.Accepted())
	settle(0x90000000, 100, wire.Modified(true, false), 0, 5)
	p.quiet()
}

func TestSettledWithoutOutcomeIsTheDefaultOutcome(t *testing.T) {
	p := open(t, engine.Options{})
	for h, want := range []wire.State{wire.Released(), wire.Accepted()} {
		l := p.senderLink(uint32(h), wire.Attach{Source: &wire.Source{DefaultOutcome: map[int]wire.State{1: wire.Accepted()}[h]}}, 1)
		p.check(l.Send(&engine.Outgoing{}))
		id := p.next().p.(*wire.Transfer).DeliveryID.V
		p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: id, Settled: true}, "")
		if e := p.event(engine.EventSettled); e.State.Code != want.Code {
			t.Fatal(e.State)
		}
	}
}

func TestTwoStepSettlement(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{ReceiverMode: wire.ReceiverSecond}, 3)
	out := []*engine.Outgoing{{}, {}, {}}
	for _, o := range out {
		p.check(l.Send(o))
		p.next()
	}
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, Last: wire.Some(uint32(2)), State: wire.State{Code: wire.StateReceived}}, "")
	p.noEvent()
	unsettled := &wire.Disposition{Role: wire.RoleReceiver, Last: wire.Some(uint32(2)), State: wire.Rejected(nil)}
	p.send(0, unsettled, "")
	p.send(0, unsettled, "")
	for _, o := range out {
		if e := p.event(engine.EventSettled); e.Outgoing != o || !o.Unconfirmed() || e.State.Code != wire.StateRejected {
			t.Fatalf("%+v", e)
		}
	}
	p.noEvent()
	p.quiet()
	out[0].Confirm(wire.Accepted())
	out[1].Confirm(wire.Rejected(wire.Errorf(wire.CondNotFound, "")))
	out[1].Confirm(wire.Accepted())
	for i, want := range []wire.StateCode{wire.StateAccepted, wire.StateRejected} {
		if d := p.next().p.(*wire.Disposition); !d.Settled || d.Role != wire.RoleSender || d.First != uint32(i) || d.State.Code != want {
			t.Fatalf("%+v", d)
		}
	}
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: 2, Settled: true, State: wire.Rejected(nil)}, "")
	p.noEvent()
	out[2].Confirm(wire.Accepted())
	p.quiet()
}

func TestDrain(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{}, 0)
	drain := func(count, credit uint32) {
		p.send(0, &wire.Flow{NextIncomingID: wire.Some(uint32(0)), IncomingWindow: 100, Handle: wire.Some(uint32(0)), DeliveryCount: wire.Some(count), LinkCredit: wire.Some(credit), Drain: true}, "")
		p.event(engine.EventCredit)
		if !l.Draining() {
			t.Fatal("not draining")
		}
	}
	drained := func(count uint32) {
		t.Helper()
		if f := p.next().p.(*wire.Flow); !f.Drain || f.LinkCredit.V != 0 || f.DeliveryCount.V != count || f.Handle.V != 0 {
			t.Fatalf("%+v", f)
		}
		p.quiet()
		p.event(engine.EventCredit)
	}
	drain(0, 10)
	p.quiet() // the application has not answered
	p.check(l.Send(&engine.Outgoing{Payload: []byte("x")}))
	l.Drained()
	if _, ok := p.next().p.(*wire.Transfer); !ok {
		t.Fatal("the message comes first")
	}
	drained(10)
	drain(10, 0)
	l.Drained()
	drained(10)
	for range 3 {
		p.check(l.Send(&engine.Outgoing{Payload: []byte("x")}))
	}
	drain(10, 2) // less than there is
	l.Drained()
	p.next()
	p.next()
	drained(12)
	p.credit(0, 12, 1)
	p.next()
	p.quiet()
}

func TestMessagesLargerThanTheClientTakesAreRefused(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{MaxMessageSize: 10}, 1)
	if err := l.Send(&engine.Outgoing{Payload: make([]byte, 11)}); !errors.Is(err, engine.ErrTooLarge) {
		t.Fatal(err)
	}
	p.check(l.Send(&engine.Outgoing{Payload: make([]byte, 10)}))
}

func TestUnsettledMessagesAreLimited(t *testing.T) {
	p := open(t, engine.Options{MaxUnsettled: 3})
	l := p.senderLink(0, wire.Attach{}, 100)
	for range 5 {
		p.check(l.Send(&engine.Outgoing{}))
	}
	for range 3 {
		p.next()
	}
	p.quiet()
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: 1, Settled: true, State: wire.Accepted()}, "")
	p.next()
	p.quiet()
}

func TestAReceiverThatWantsNoMoreOfAMessageGetsItAborted(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{}, 0)
	p.send(0, &wire.Flow{NextIncomingID: wire.Some(uint32(0)), IncomingWindow: 1, Handle: wire.Some(uint32(0)), LinkCredit: wire.Some(uint32(5))}, "")
	p.event(engine.EventCredit)
	p.check(l.Send(&engine.Outgoing{Payload: make([]byte, 5000)}))
	p.next()
	p.quiet()
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: 0, Settled: true, State: wire.Rejected(nil)}, "")
	if e := p.event(engine.EventSettled); e.State.Code != wire.StateRejected {
		t.Fatal(e.State)
	}
	if f := p.next().p.(*wire.Transfer); !f.Aborted {
		t.Fatalf("%+v", f)
	}
	p.send(0, &wire.Flow{NextIncomingID: wire.Some(uint32(2)), IncomingWindow: 10}, "")
	p.check(l.Send(&engine.Outgoing{Payload: []byte("next")}))
	if f := p.next(); string(f.payload) != "next" {
		t.Fatalf("%+v", f.p)
	}
}

func TestMessagesInPartAreLostWithTheirLink(t *testing.T) {
	p := open(t, engine.Options{MaxPartial: 500})
	for i := range uint32(10) {
		p.receiverLink(0, wire.Attach{}, 5)
		p.send(0, &wire.Transfer{DeliveryID: wire.Some(i), More: true}, strings.Repeat("x", 400))
		p.send(0, &wire.Detach{Closed: true}, "")
		p.event(engine.EventDetach)
		p.next()
		p.quiet()
	}
}
