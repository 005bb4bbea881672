package mqtt_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// loadBackend admits everyone and hands messages to a shuffler, or settles them at
// once without one.
type loadBackend struct{ sh *shuffler }

type loadSession struct {
	head.Session
	sh *shuffler
}

func (b *loadBackend) Connect(context.Context, head.Login, head.Client) (head.Session, error) {
	return &loadSession{sh: b.sh}, nil
}

func (s *loadSession) Telemetry(ctx context.Context, m *iothub.Message, done func(error)) {
	if s.sh == nil {
		done(nil)
		return
	}
	select {
	case s.sh.work <- settling{m, done}:
	case <-ctx.Done():
		done(ctx.Err())
	}
}

func (s *loadSession) Close(error) {}

func (*loadBackend) Check(context.Context, head.Login) error { return nil }

const (
	publishers = 8
	inFlight   = 64
	bodySize   = 256
)

// BenchmarkIngest publishes 256-byte messages with QoS 1 from 8 clients with 64 in
// flight each, to the head with a backend that settles at once and to plain mochi,
// in turns, and reports the ratio. It is TCP without TLS for both.
func BenchmarkIngest(b *testing.B) {
	h := start(b, newBackend(), func(o *mqtt.Options) { o.Backend = &loadBackend{} })
	plain := startMochi(b)
	n := max(b.N/publishers/2, 1)
	var ours, theirs time.Duration
	b.ResetTimer()
	for range 2 {
		ours += drive(b, func(i int) net.Conn { return h.dialAs(iothub.DeviceIdentity(fmt.Sprint("p", i))) }, n)
		theirs += drive(b, func(i int) net.Conn {
			return (&hub{t: b, addr: plain}).dialAs(iothub.DeviceIdentity(fmt.Sprint("p", i)))
		}, n)
	}
	total := float64(2 * n * publishers)
	b.ReportMetric(total/ours.Seconds(), "head-msg/s")
	b.ReportMetric(total/theirs.Seconds(), "mochi-msg/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
}

func drive(b *testing.B, dial func(i int) net.Conn, n int) time.Duration {
	conns := make([]net.Conn, publishers)
	for i := range conns {
		conns[i] = dial(i)
	}
	errs := make(chan error, publishers)
	begin := time.Now()
	for i, c := range conns {
		go func() {
			errs <- flood(c, fmt.Sprintf("devices/p%d/messages/events/%%24.mid=1&a=b", i), n, inFlight, bodySize)
		}()
	}
	for range conns {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	d := time.Since(begin)
	for _, c := range conns {
		(&peer{b, c}).send(packets.NewControlPacket(packets.Disconnect))
		c.Close()
	}
	return d
}

func startMochi(b *testing.B) string {
	b.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if err := s.AddListener(listeners.NewNet("bench", ln)); err != nil {
		b.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return ln.Addr().String()
}
