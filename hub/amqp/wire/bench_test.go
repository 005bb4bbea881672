package wire_test

import (
	"testing"

	amqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func BenchmarkEncodeMessage(b *testing.B) {
	src, _ := foreignMessage().MarshalBinary()
	b.Run("wire", func(b *testing.B) {
		var m wire.Message
		if err := wire.DecodeMessage(src, &m); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = wire.AppendMessage(buf[:0], &m)
		}
	})
	b.Run("go-amqp", func(b *testing.B) {
		m := foreignMessage()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.MarshalBinary(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecodeMessage(b *testing.B) {
	src, _ := foreignMessage().MarshalBinary()
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m wire.Message
			if err := wire.DecodeMessage(src, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-amqp", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m amqp.Message
			if err := m.UnmarshalBinary(src); err != nil {
				b.Fatal(err)
			}
		}
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
