package amqp_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp"
)

// BenchmarkReceive measures messages from a go-amqp client, which waits for
// the outcome of each: one at a time, 64 at a time, or settled.
func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct {
		name     string
		inFlight int
		mode     goamqp.SenderSettleMode
	}{{"serial", 1, goamqp.SenderSettleModeUnsettled}, {"inflight64", 64, goamqp.SenderSettleModeUnsettled}, {"settled", 1, goamqp.SenderSettleModeSettled}} {
		b.Run(c.name, func(b *testing.B) {
			_, session := dial(b, &node{window: 1000}, amqp.Options{}, nil)
			sender, err := session.NewSender(b.Context(), "a", &goamqp.SenderOptions{SettlementMode: c.mode.Ptr()})
			if err != nil {
				b.Fatal(err)
			}
			m := goamqp.NewMessage(make([]byte, 256))
			b.SetBytes(256)
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range c.inFlight {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := sender.Send(b.Context(), m, nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkSend measures messages to a go-amqp client that accepts each.
func BenchmarkSend(b *testing.B) {
	n := &node{sender: amqp.SenderOptions{MaxInFlight: 2000}}
	_, session := dial(b, n, amqp.Options{}, nil)
	receiver, err := session.NewReceiver(b.Context(), "a", &goamqp.ReceiverOptions{Credit: 1000})
	if err != nil {
		b.Fatal(err)
	}
	s := n.waitSender(b, 0)
	room := make(chan struct{}, 1000)
	payload, _ := goamqp.NewMessage(make([]byte, 256)).MarshalBinary()
	b.SetBytes(256)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			room <- struct{}{}
			if err := s.SendPayload(payload, amqp.SendOptions{}, func(amqp.Outcome) { <-room }); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for range b.N {
		m, err := receiver.Receive(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := receiver.AcceptMessage(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLarge measures messages of 256 KiB in frames of 4 and 64 KiB.
func BenchmarkLarge(b *testing.B) {
	for _, frame := range []uint32{4096, 65536} {
		b.Run(fmt.Sprint(frame), func(b *testing.B) {
			o := amqp.Options{}
			o.MaxFrameSize = frame
			_, session := dial(b, &node{}, o, nil)
			sender, err := session.NewSender(b.Context(), "a", nil)
			if err != nil {
				b.Fatal(err)
			}
			m := goamqp.NewMessage(make([]byte, 256<<10))
			b.SetBytes(256 << 10)
			b.ResetTimer()
			for range b.N {
				if err := sender.Send(b.Context(), m, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
