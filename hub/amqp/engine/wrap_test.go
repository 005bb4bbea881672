package engine_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Numbers of RFC 1982 begin again after 2^32-1: those of transfers, of deliveries and of
// a link, in both directions.
func TestNumbersOfAReceivingLinkWrap(t *testing.T) {
	p := open(t, engine.Options{IncomingWindow: 4})
	p.send(1, &wire.Begin{NextOutgoingID: 0xfffffffe, IncomingWindow: 100, OutgoingWindow: 100}, "")
	p.event(engine.EventBegin)
	p.next()
	p.send(1, &wire.Attach{Name: "a", Role: wire.RoleSender, InitialDeliveryCount: wire.Some(uint32(0xfffffffd))}, "")
	l := p.event(engine.EventAttach).Link
	p.check(l.AcceptAttach(engine.AttachReply{Window: 2}))
	p.next()
	if f := p.next().p.(*wire.Flow); f.DeliveryCount.V != 0xfffffffd || f.LinkCredit.V != 2 {
		t.Fatalf("%+v", f)
	}
	for i := range uint32(8) {
		id := 0xfffffffe + i
		p.send(1, &wire.Transfer{DeliveryID: wire.Some(id), DeliveryTag: []byte{byte(i)}}, "x")
		p.event(engine.EventDelivery).Delivery.Settle(wire.Accepted())
		settled, flows := false, 0
		for {
			f, ok := p.maybe()
			if !ok {
				break
			}
			switch f := f.p.(type) {
			case *wire.Disposition:
				settled = f.First == id && f.Settled
			case *wire.Flow:
				flows++
				if f.NextIncomingID.V != id+1 {
					t.Errorf("next id %x after %x", f.NextIncomingID.V, id)
				}
				if f.Handle.Set && f.DeliveryCount.V != 0xfffffffd+i+1 {
					t.Errorf("delivery-count %x after %d", f.DeliveryCount.V, i+1)
				}
			default:
				t.Fatalf("%T", f)
			}
		}
		if !settled || flows == 0 {
			t.Errorf("delivery %x: settled %v, %d flows", id, settled, flows)
		}
	}
	// A client that gives up the credit of one, 0xfffffffd + 9.
	p.send(1, &wire.Flow{NextIncomingID: wire.Some(uint32(0)), Handle: wire.Some(uint32(0)), DeliveryCount: wire.Some(uint32(6)), LinkCredit: wire.Some(uint32(0))}, "")
	if err := p.c.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestNumbersOfASendingLinkWrap(t *testing.T) {
	p := open(t, engine.Options{FirstID: 0xfffffffd})
	l := p.senderLink(0, wire.Attach{}, 0)
	flow := func(next, window, count, credit uint32) {
		p.send(0, &wire.Flow{NextIncomingID: wire.Some(next), IncomingWindow: window, Handle: wire.Some(uint32(0)),
			DeliveryCount: wire.Some(count), LinkCredit: wire.Some(credit)}, "")
		p.event(engine.EventCredit)
	}
	for range 8 {
		p.check(l.Send(&engine.Outgoing{Payload: []byte("x")}))
	}
	flow(0xfffffffd, 2, 0, 100)
	sent := uint32(0)
	expect := func(n uint32) {
		t.Helper()
		for range n {
			if f := p.next().p.(*wire.Transfer); f.DeliveryID.V != 0xfffffffd+sent {
				t.Fatalf("delivery %x after %d", f.DeliveryID.V, sent)
			}
			sent++
		}
		p.quiet()
	}
	expect(2)                   // the session's window, to the last number but one
	flow(0xffffffff, 2, 2, 100) // the client has had both
	expect(2)                   // across the end
	flow(0xffffffff, 3, 2, 100) // said before the client has had the last two: room for one more
	expect(1)
	flow(2, 0x80000001, 5, 1) // a window that is larger than half the numbers
	expect(1)                 // the link's credit
	flow(3, 100, 4, 4)        // said two messages ago
	expect(2)
}
