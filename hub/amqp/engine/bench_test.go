package engine_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// BenchmarkReceive measures the engine alone: messages of 256 bytes that come
// in batches of 100 and are accepted.
func BenchmarkReceive(b *testing.B) {
	p := open(b, engine.Options{})
	p.receiverLink(0, wire.Attach{}, 1000)
	payload := make([]byte, 256)
	id := uint32(0)
	var batch, out []byte
	b.SetBytes(256)
	b.ReportAllocs()
	for n := 0; n < b.N; {
		batch = batch[:0]
		for range 100 {
			batch, _ = wire.AppendFrame(batch, wire.FrameAMQP, 0, &wire.Transfer{DeliveryID: wire.Some(id), DeliveryTag: []byte("12345678")}, payload, 512)
			id++
			n++
		}
		p.c.Input(start, batch)
		for e, ok := p.c.Next(); ok; e, ok = p.c.Next() {
			e.Delivery.Settle(wire.Accepted())
		}
		p.c.Flush()
		out = p.c.TakeOutput(start, out)
	}
}

// BenchmarkSend measures the engine alone: messages of 256 bytes that leave in
// batches of 100 and are accepted by ranges.
func BenchmarkSend(b *testing.B) {
	p := open(b, engine.Options{})
	l := p.senderLink(0, wire.Attach{}, 1000)
	payload := make([]byte, 256)
	var out []byte
	sent := uint32(0)
	b.SetBytes(256)
	b.ReportAllocs()
	for n := 0; n < b.N; n += 100 {
		for range 100 {
			if err := l.Send(&engine.Outgoing{Payload: payload}); err != nil {
				b.Fatal(err)
			}
		}
		p.c.Flush()
		out = p.c.TakeOutput(start, out)
		p.send(0, &wire.Disposition{Role: wire.RoleReceiver, First: sent, Last: wire.Some(sent + 99), Settled: true, State: wire.Accepted()}, "")
		sent += 100
		p.send(0, &wire.Flow{NextIncomingID: wire.Some(sent), IncomingWindow: 10000, Handle: wire.Some(uint32(0)), DeliveryCount: wire.Some(sent), LinkCredit: wire.Some(uint32(1000))}, "")
		for _, ok := p.c.Next(); ok; _, ok = p.c.Next() {
		}
	}
}
