package wire_test

import (
	"bytes"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// What decodes must encode to something that decodes to the same again.
func FuzzValue(f *testing.F) {
	f.Add(wire.AppendValue(nil, wire.List(wire.Symbols("a", "b"), wire.Map{}.With("k", wire.Double(1)).Value(), wire.Described(wire.Symbol("d"), wire.UUID([16]byte{1})))))
	f.Add([]byte{0xe0, 4, 1, 0, 0xa3, 0, 0x40})
	f.Fuzz(func(t *testing.T, in []byte) {
		v, n, err := wire.DecodeValue(in)
		if err != nil {
			return
		}
		if n > len(in) {
			t.Fatalf("took %d of %d bytes", n, len(in))
		}
		b := wire.AppendValue(nil, v)
		again, _, err := wire.DecodeValue(b)
		if err != nil || !bytes.Equal(wire.AppendValue(nil, again), b) {
			t.Fatalf("%x: %v became %x: %v, %v", in, v, b, again, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, p := range []wire.Performative{
		&wire.Open{ContainerID: "c", Properties: wire.Map{}.WithSymbol("k", wire.Int(1))}, &wire.Begin{},
		&wire.Attach{Name: "n", Source: &wire.Source{Address: "a"}, Target: &wire.Target{}},
		&wire.Flow{Handle: wire.Some(uint32(1))}, &wire.Transfer{DeliveryTag: []byte("t")},
		&wire.Disposition{State: wire.Rejected(wire.Errorf("a", "b"))}, &wire.Detach{}, &wire.End{}, &wire.Close{},
	} {
		b, _ := wire.AppendFrame(nil, wire.FrameAMQP, 0, p, []byte("payload"), 1<<16)
		f.Add(b)
	}
	sasl, _ := wire.AppendFrame(nil, wire.FrameSASL, 0, &wire.SASLInit{Mechanism: "PLAIN", InitialResponse: []byte("x")}, nil, 512)
	f.Add(sasl)
	f.Fuzz(func(t *testing.T, in []byte) {
		frame, n, err := wire.SplitFrame(in, 1<<16)
		if err != nil || n == 0 {
			return
		}
		var d wire.Decoder
		p, payload, err := d.Decode(frame.Type, frame.Body)
		if err != nil {
			return
		}
		b, took := wire.AppendFrame(nil, frame.Type, frame.Channel, p, payload, 1<<20)
		again, _, err := wire.SplitFrame(b, 1<<20)
		if err != nil || took != len(payload) {
			t.Fatal(took, err)
		}
		var d2 wire.Decoder
		q, _, err := d2.Decode(again.Type, again.Body)
		if err != nil {
			t.Fatalf("%x became %x: %+v, %v", in, b, p, err)
		}
		if c, _ := wire.AppendFrame(nil, frame.Type, frame.Channel, q, payload, 1<<20); !bytes.Equal(b, c) {
			t.Fatalf("%x then %x", b, c)
		}
	})
}

func FuzzMessage(f *testing.F) {
	b, _ := foreignMessage().MarshalBinary()
	f.Add(b)
	f.Add(wire.AppendMessage(nil, &wire.Message{Value: wire.Some(wire.String("x")), Footer: wire.Map{}.WithSymbol("a", wire.Value{})}))
	f.Fuzz(func(t *testing.T, in []byte) {
		var m, again wire.Message
		if wire.DecodeMessage(in, &m) != nil {
			return
		}
		b := wire.AppendMessage(nil, &m)
		if err := wire.DecodeMessage(b, &again); err != nil {
			t.Fatalf("%x became %x: %v", in, b, err)
		}
		if c := wire.AppendMessage(nil, &again); !bytes.Equal(b, c) {
			t.Fatalf("%x then %x", b, c)
		}
	})
}
