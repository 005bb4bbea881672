package mqtt_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
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

const bodySize = 256

// BenchmarkTelemetry publishes 256-byte messages with QoS 1 over TLS and waits for
// the PUBACK of each: to the head with a backend that settles at once, and to the
// bare MQTT server that it is built on, which has no subscriber. Clients are in the
// same process, so that allocations are those of both sides; they do as little as a
// client can.
func BenchmarkTelemetry(b *testing.B) {
	config := &tls.Config{Certificates: []tls.Certificate{headtest.Certificate(b, "hub")}}
	h := start(b, newBackend(), func(o *mqtt.Options) { o.Backend, o.TLS = &loadBackend{}, config })
	plain := startMochi(b, config)
	for _, shape := range []struct{ publishers, inFlight int }{{1, 1}, {1, 64}, {8, 64}} {
		for _, server := range []struct{ name, addr string }{{"head", h.addr}, {"mochi", plain}} {
			b.Run(fmt.Sprintf("%dx%d/by=%s", shape.publishers, shape.inFlight, server.name), func(b *testing.B) {
				b.ReportAllocs()
				drive(b, server.addr, shape.publishers, shape.inFlight)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

// drive sends b.N messages.
func drive(b *testing.B, addr string, publishers, inFlight int) {
	conns := make([]net.Conn, publishers)
	for i := range conns {
		nc, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test certificate
		if err != nil {
			b.Fatal(err)
		}
		defer nc.Close()
		p := &peer{b, nc}
		p.send(connectPacket(iothub.DeviceIdentity(fmt.Sprint("p", i))))
		if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 0 {
			b.Fatalf("connect: code %d", ack.ReturnCode)
		}
		if err := nc.SetDeadline(time.Time{}); err != nil {
			b.Fatal(err)
		}
		conns[i] = nc
	}
	errs := make(chan error, publishers)
	b.ResetTimer()
	for i, c := range conns {
		topic := fmt.Sprintf("devices/p%d/messages/events/%%24.mid=1&%%24.ct=application%%2Fjson&%%24.ce=utf-8&kind=telemetry", i)
		go func() { errs <- pour(c, topic, (b.N+i)/publishers, inFlight) }()
	}
	for range conns {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

// pour publishes n messages with at most inFlight of them not acknowledged. Those
// that may go go together.
func pour(c net.Conn, topic string, n, inFlight int) error {
	slots := make(chan struct{}, inFlight)
	failed := make(chan error, 1)
	var acks sync.WaitGroup
	acks.Go(func() {
		r := bufio.NewReader(c)
		var ack [4]byte
		for range n {
			if _, err := io.ReadFull(r, ack[:]); err != nil {
				failed <- err
				return
			}
			if ack[0] != 0x40 {
				failed <- fmt.Errorf("packet % x in place of a PUBACK", ack)
				return
			}
			<-slots
		}
	})
	defer acks.Wait()
	w := bufio.NewWriterSize(c, 64<<10)
	body := make([]byte, bodySize)
	var head []byte
	for i := range n {
		select {
		case slots <- struct{}{}:
		default:
			if err := w.Flush(); err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case err := <-failed:
				return err
			}
		}
		head = binary.AppendUvarint(append(head[:0], 0x32), uint64(2+len(topic)+2+bodySize))
		head = append(binary.BigEndian.AppendUint16(head, uint16(len(topic))), topic...)
		head = binary.BigEndian.AppendUint16(head, uint16(i%65535+1))
		w.Write(head) //nolint:errcheck // the next Write or Flush reports it
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	acks.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func startMochi(b *testing.B, config *tls.Config) string {
	b.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		b.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
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
