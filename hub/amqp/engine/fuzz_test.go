package engine_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// recording is the client's side of a connection that uses most of AMQP.
func recording() []byte {
	b := []byte(saslHeader)
	b, _ = wire.AppendFrame(b, wire.FrameSASL, 0, &wire.SASLInit{Mechanism: "PLAIN", InitialResponse: []byte("\x00u\x00p")}, nil, 512)
	b = append(b, header...)
	id := wire.Some(uint32(0))
	for _, f := range []struct {
		p       wire.Performative
		payload string
	}{
		{&wire.Open{ContainerID: "c", MaxFrameSize: 512, ChannelMax: 3, IdleTimeout: 1000}, ""},
		{&wire.Begin{IncomingWindow: 50, OutgoingWindow: 50, HandleMax: 5}, ""},
		{&wire.Attach{Name: "s", Handle: 0, SenderMode: wire.SenderMixed, ReceiverMode: wire.ReceiverSecond, Target: &wire.Target{Address: "a"}, InitialDeliveryCount: id}, ""},
		{&wire.Attach{Name: "r", Handle: 1, Role: wire.RoleReceiver, Source: &wire.Source{Address: "a"}}, ""},
		{&wire.Flow{NextIncomingID: id, IncomingWindow: 50, Handle: wire.Some(uint32(1)), DeliveryCount: id, LinkCredit: wire.Some(uint32(10))}, ""},
		{&wire.Transfer{DeliveryID: id, DeliveryTag: []byte("t"), More: true}, "hel"},
		{&wire.Transfer{}, "lo"},
		{&wire.Transfer{DeliveryID: wire.Some(uint32(1)), DeliveryTag: []byte("t"), Settled: wire.Some(true)}, "settled"},
		{&wire.Transfer{DeliveryID: wire.Some(uint32(2)), More: true}, "x"},
		{&wire.Transfer{Aborted: true}, ""},
		{&wire.Disposition{Role: wire.RoleReceiver, First: 0, Last: wire.Some(uint32(1)), State: wire.Accepted()}, ""},
		{&wire.Disposition{Role: wire.RoleReceiver, First: 1, Settled: true, State: wire.Rejected(nil)}, ""},
		{&wire.Disposition{Role: wire.RoleSender, First: 0, Settled: true, State: wire.Accepted()}, ""},
		{&wire.Flow{IncomingWindow: 50, Handle: wire.Some(uint32(1)), Drain: true, Echo: true}, ""},
		{&wire.Attach{Name: "r", Handle: 2, Role: wire.RoleReceiver}, ""},
		{&wire.Detach{Handle: 1, Closed: true}, ""},
		{&wire.Detach{Handle: 0, Error: wire.Errorf("a:b", "c")}, ""},
		{&wire.End{}, ""},
		{&wire.Begin{}, ""},
		{&wire.Close{}, ""},
	} {
		b, _ = wire.AppendFrame(b, wire.FrameAMQP, 0, f.p, []byte(f.payload), 512)
	}
	return b
}

// drive is an application that answers every event; what it answers depends on
// knob.
func drive(t *testing.T, c *engine.Conn, knob byte) (closed bool) {
	for {
		e, ok := c.Next()
		if !ok {
			return closed
		}
		if closed {
			t.Fatal("an event after the last one")
		}
		switch e.Kind {
		case engine.EventSASL, engine.EventSASLResponse:
			_ = c.SASLOutcome(wire.SASLOK)
		case engine.EventOpen:
			_ = c.AcceptOpen()
		case engine.EventAttach:
			if knob&1 != 0 && e.Link.Attach().Handle == 2 {
				_ = e.Link.RefuseAttach(wire.Errorf(wire.CondNotFound, "no"))
				continue
			}
			_ = e.Link.AcceptAttach(engine.AttachReply{Window: 10, TwoStep: knob&8 != 0})
			_ = e.Link.Send(&engine.Outgoing{Payload: make([]byte, 700)})
		case engine.EventCredit:
			_ = e.Link.Send(&engine.Outgoing{Payload: []byte("more"), Settled: knob&2 != 0})
			e.Link.Drained()
		case engine.EventDelivery:
			if knob&4 != 0 {
				e.Delivery.Settle(wire.Accepted())
			}
		case engine.EventSettled:
			e.Outgoing.Confirm(wire.Accepted())
		case engine.EventClosed:
			closed = true
		}
	}
}

// FuzzConn feeds mutated recordings in pieces. Nothing may crash, what is held
// must stay within bounds, and all output must be well-formed frames.
func FuzzConn(f *testing.F) {
	f.Add(recording(), uint16(7), byte(0xff))
	f.Add(recording(), uint16(65535), byte(0))
	f.Add(recording()[len(saslHeader):], uint16(64), byte(5))
	f.Add([]byte(header), uint16(1), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, piece uint16, knob byte) {
		o := engine.Options{Mechanisms: []string{"PLAIN"}, MaxFrameSize: 4096, MaxPartial: 8192, MaxLinks: 20, IncomingWindow: 40}
		c := engine.New(o, start)
		now := start
		var out []byte
		closed := false
		for len(in) > 0 && c.WantsInput() {
			n := min(len(in), int(piece)+1)
			now = now.Add(time.Millisecond)
			c.Input(now, in[:n])
			in = in[n:]
			closed = drive(t, c, knob) || closed
			c.Flush()
			closed = drive(t, c, knob) || closed
			out = append(out, c.TakeOutput(now, nil)...)
			c.Tick(now)
		}
		c.Abort(nil)
		if !drive(t, c, knob) && !closed {
			t.Fatal("no last event")
		}
		wellFormed(t, out)
	})
}

func wellFormed(t *testing.T, out []byte) {
	var d wire.Decoder
	for len(out) > 0 {
		if len(out) >= 8 && string(out[:4]) == "AMQP" {
			out = out[8:]
			continue
		}
		fr, n, err := wire.SplitFrame(out, 65536)
		if err != nil || n == 0 {
			t.Fatalf("output %x: %v", out, err)
		}
		if len(fr.Body) > 0 {
			if _, _, err := d.Decode(fr.Type, fr.Body); err != nil {
				t.Fatalf("output %x: %v", fr.Body, err)
			}
		}
		out = out[n:]
	}
}

// The recording itself must run to its end, in pieces of any size.
func TestTheRecordingRunsToItsEnd(t *testing.T) {
	for _, piece := range []int{1, 3, 100, 1 << 20} {
		c := engine.New(engine.Options{Mechanisms: []string{"PLAIN"}, IncomingWindow: 40}, start)
		var out []byte
		for in := recording(); len(in) > 0; {
			n := min(len(in), piece)
			c.Input(start, in[:n])
			in = in[n:]
			drive(t, c, 0xfe)
			c.Flush()
			drive(t, c, 0xfe)
			out = append(out, c.TakeOutput(start, nil)...)
		}
		if !c.Done() || c.Err() != nil {
			t.Fatal(piece, c.Err())
		}
		wellFormed(t, out)
		if size := binary.BigEndian.Uint32(out[8:]); size > 100 {
			t.Fatal(size)
		}
	}
}
