package amqp_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	engine "github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// bare is the AMQP server with nothing behind it.
type bare struct{}

func (bare) OnSASL(s *engine.SASL) { s.Accept() }
func (bare) OnOpen(o *engine.Open) { o.Accept() }
func (bare) OnAttach(a *engine.Attach) {
	a.AcceptReceiver(bare{}, engine.ReceiverOptions{Window: 256})
}
func (bare) OnClose(error)                 {}
func (bare) OnDelivery(d *engine.Delivery) { d.Accept() }
func (bare) OnDetach(*wire.Error)          {}

// startBare serves it over TLS.
func startBare(b *testing.B, config *tls.Config) string {
	b.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		b.Fatal(err)
	}
	s := &engine.Server{NewConn: func(*engine.Conn) engine.ConnHandler { return bare{} }}
	s.Options.Mechanisms = []string{"PLAIN"}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = s.Serve(ctx, nc) })
		}
	})
	b.Cleanup(func() {
		cancel()
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

const benchBody = 256

// BenchmarkTelemetry sends 256-byte messages with properties over TLS and waits for
// the outcome of each: to the head with a backend in memory, and to the bare AMQP
// server. Clients are in the same process, so that allocations are those of both
// sides; "lean" does as little as a client can.
func BenchmarkTelemetry(b *testing.B) {
	config := &tls.Config{Certificates: []tls.Certificate{headtest.Certificate(b, "hub")}}
	h := start(b, newBackend(), func(o *amqp.Options) { o.TLS, o.Backend = config, loadBackend{} })
	plain := startBare(b, config)
	m := goamqp.NewMessage(make([]byte, benchBody))
	text := func(s string) *string { return &s }
	m.Properties = &goamqp.MessageProperties{MessageID: "1", ContentType: text("application/json"), ContentEncoding: text("utf-8")}
	m.ApplicationProperties = map[string]any{"kind": "telemetry"}
	payload, err := m.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	for _, shape := range []struct{ publishers, inFlight int }{{1, 1}, {1, 64}, {8, 64}} {
		for _, client := range []string{"lean", "go-amqp"} {
			for _, server := range []struct{ name, addr string }{{"head", h.addr}, {"server", plain}} {
				b.Run(fmt.Sprintf("%dx%d/client=%s/by=%s", shape.publishers, shape.inFlight, client, server.name), func(b *testing.B) {
					b.ReportAllocs()
					if client == "lean" {
						loadLean(b, server.addr, shape.publishers, shape.inFlight, payload)
					} else {
						loadGoAMQP(b, server.addr, shape.publishers, shape.inFlight, m)
					}
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
				})
			}
		}
	}
}

func loadLean(b *testing.B, addr string, publishers, inFlight int, payload []byte) {
	conns := make([]*lean, publishers)
	var readers sync.WaitGroup
	defer readers.Wait()
	for i := range conns {
		id := iothub.DeviceIdentity(fmt.Sprint("p", i))
		c, err := dialLean(addr, id, token(id, time.Now().Add(time.Hour)))
		if err != nil {
			b.Fatal(err)
		}
		defer c.conn.Close()
		readers.Go(c.read)
		if err := c.load(1, 1, payload); err != nil { // it is admitted
			b.Fatal(err)
		}
		conns[i] = c
	}
	b.ResetTimer()
	errs := make(chan error, publishers)
	for i, c := range conns {
		go func() { errs <- c.load(share(b.N, i, publishers), inFlight, payload) }()
	}
	for range conns {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

// share is how many of n messages the i-th publisher sends.
func share(n, i, publishers int) int { return (n + i) / publishers }

func loadGoAMQP(b *testing.B, addr string, publishers, inFlight int, m *goamqp.Message) {
	senders := make([]*goamqp.Sender, publishers)
	for i := range senders {
		id := iothub.DeviceIdentity(fmt.Sprint("p", i))
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test certificate
		conn, err := goamqp.NewConn(b.Context(), nc, &goamqp.ConnOptions{
			SASLType: goamqp.SASLTypePlain(id.Device+"@sas.h", token(id, time.Now().Add(time.Hour))),
		})
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		session, err := conn.NewSession(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if senders[i], err = session.NewSender(b.Context(), "/devices/"+id.Device+"/messages/events", nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, sender := range senders {
		var left atomic.Int64
		left.Store(int64(share(b.N, i, publishers)))
		for range inFlight {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := sender.Send(b.Context(), m, nil); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	b.StopTimer()
}
