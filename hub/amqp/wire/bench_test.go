package wire_test

import (
	"testing"

	amqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// eachMessage runs a benchmark with messages of two sizes, bare and with what a
// device says of its telemetry. Both codecs get the same messages.
func eachMessage(b *testing.B, f func(b *testing.B, m *amqp.Message, encoded []byte)) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"256B", 256}, {"4KiB", 4096}} {
		for _, kind := range []string{"bare", "properties"} {
			m := amqp.NewMessage(make([]byte, size.bytes))
			if kind == "properties" {
				text := func(s string) *string { return &s }
				m.Annotations = amqp.Annotations{"iothub-interface-id": "urn:sensors:temperature:1"}
				m.Properties = &amqp.MessageProperties{MessageID: "0f8fad5b-d9cb-469f-a165-70867728950e", CorrelationID: "c-17",
					ContentType: text("application/json"), ContentEncoding: text("utf-8")}
				m.ApplicationProperties = map[string]any{"kind": "telemetry", "level": "high", "sequenceNumber": "17"}
			}
			encoded, err := m.MarshalBinary()
			if err != nil {
				b.Fatal(err)
			}
			b.Run(size.name+"/"+kind, func(b *testing.B) { f(b, m, encoded) })
		}
	}
}

// BenchmarkEncode encodes messages. go-amqp has no way to give it a buffer that it
// may use again; "hub, new buffer" allocates one each time as it does.
func BenchmarkEncode(b *testing.B) {
	eachMessage(b, func(b *testing.B, theirs *amqp.Message, encoded []byte) {
		var ours wire.Message
		if err := wire.DecodeMessage(encoded, &ours); err != nil {
			b.Fatal(err)
		}
		b.Run("by=hub", func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf = wire.AppendMessage(buf[:0], &ours)
			}
		})
		b.Run("by=hub, new buffer", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = wire.AppendMessage(nil, &ours)
			}
		})
		b.Run("by=go-amqp", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := theirs.MarshalBinary(); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkDecode decodes messages. Bodies of ours alias what was decoded.
func BenchmarkDecode(b *testing.B) {
	eachMessage(b, func(b *testing.B, _ *amqp.Message, encoded []byte) {
		b.Run("by=hub", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var m wire.Message
				if err := wire.DecodeMessage(encoded, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("by=go-amqp", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var m amqp.Message
				if err := m.UnmarshalBinary(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

func BenchmarkTransferFrame(b *testing.B) {
	payload := make([]byte, 256)
	frame, _ := wire.AppendFrame(nil, wire.FrameAMQP, 1, &wire.Transfer{Handle: 3, DeliveryID: wire.Some(uint32(99)), DeliveryTag: []byte("12345678")}, payload, 1<<16)
	var d wire.Decoder
	b.ReportAllocs()
	for b.Loop() {
		f, _, _ := wire.SplitFrame(frame, 1<<16)
		if _, _, err := d.Decode(f.Type, f.Body); err != nil {
			b.Fatal(err)
		}
	}
}
