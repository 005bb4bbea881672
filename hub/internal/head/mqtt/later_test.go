package mqtt_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// storingBackend has sessions that store later. elsewhere: Store has another goroutine
// do it, as when there is traffic.
type storingBackend struct {
	*backend
	elsewhere bool
	wg        sync.WaitGroup

	mu     sync.Mutex
	left   []func(error) // guarded by mu
	calls  string        // guarded by mu: "l" for each TelemetryLater, "h" and "k" for Store here, and not
	stored int           // guarded by mu
}

type storingSession struct {
	*session
	b *storingBackend
}

func (b *storingBackend) Connect(ctx context.Context, l head.Login, c head.Client) (head.Session, error) {
	s, err := b.backend.Connect(ctx, l, c)
	if err != nil {
		return nil, err
	}
	return &storingSession{s.(*session), b}, nil
}

func (s *storingSession) TelemetryLater(_ context.Context, m *iothub.Message, done func(error)) {
	s.b.mu.Lock()
	s.b.calls += "l"
	s.b.left = append(s.b.left, done)
	s.b.mu.Unlock()
	s.Messages <- m
}

func (s *storingSession) Store(stored func()) {
	s.b.mu.Lock()
	list := s.b.left
	s.b.left = nil
	s.b.calls += map[bool]string{true: "h", false: "k"}[stored != nil]
	s.b.stored += len(list)
	s.b.mu.Unlock()
	finish := func() {
		for _, done := range list {
			done(nil)
		}
	}
	if stored == nil || s.b.elsewhere {
		s.b.wg.Go(finish)
		return
	}
	finish()
	stored()
}

func (b *storingBackend) seen() (calls string, stored int) {
	b.wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls, b.stored
}

// startStoring runs a head with such a backend, and connects.
func startStoring(t *testing.T, b *storingBackend) (*hub, *peer, *session) {
	t.Helper()
	b.backend = newBackend()
	h := start(t, b.backend, func(o *mqtt.Options) { o.Backend = b })
	p, s := h.connect(dev)
	return h, p, s
}

func expectAcks(p *peer, from, to uint16) {
	p.t.Helper()
	for id := from; id <= to; id++ {
		if ack := expect[*packets.PubackPacket](p); ack.MessageID != id {
			p.t.Fatalf("ack of %d, want %d", ack.MessageID, id)
		}
	}
}

func TestClientThatWaitsIsServedByItsReader(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		b := &storingBackend{elsewhere: elsewhere}
		_, p, _ := startStoring(t, b)
		for id := uint16(1); id <= 3; id++ {
			p.send(publish(events, "x", 1, id))
			expectAcks(p, id, id)
		}
		if calls, n := b.seen(); calls != "lhlhlh" || n != 3 {
			t.Errorf("elsewhere %v: calls %s, %d stored", elsewhere, calls, n)
		}
	}
}

func TestMessageIsNotLeftForLaterWhenMoreFollows(t *testing.T) {
	b := &storingBackend{}
	_, p, s := startStoring(t, b)
	p.send(publish(events, "1", 1, 1), publish(events, "2", 1, 2), publish(events, "3", 1, 3))
	expectAcks(p, 1, 3)
	for _, want := range []string{"1", "2", "3"} {
		if m := headtest.Receive(t, "message", s.Messages); string(m.Body) != want {
			t.Errorf("message %s, want %s", m.Body, want)
		}
	}
	if calls, n := b.seen(); calls[:2] != "lk" || n < 1 {
		t.Errorf("calls %s, %d stored", calls, n)
	}
	// One without an acknowledgement has nobody who waits.
	b = &storingBackend{}
	_, p, s = startStoring(t, b)
	p.send(publish(events, "x", 0, 0))
	headtest.Receive(t, "message", s.Messages)
	if calls, _ := b.seen(); calls != "" {
		t.Errorf("calls %s", calls)
	}
}

func TestMessageIsStoredBeforeTheRestOfTheNextHasCome(t *testing.T) {
	b := &storingBackend{}
	_, p, _ := startStoring(t, b)
	var raw bytes.Buffer
	for id := uint16(1); id <= 2; id++ {
		if err := publish(events, "0123456789", 1, id).Write(&raw); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Write(raw.Bytes()[:raw.Len()-5]); err != nil {
		t.Fatal(err)
	}
	expectAcks(p, 1, 1)
	if _, err := p.Write(raw.Bytes()[raw.Len()-5:]); err != nil {
		t.Fatal(err)
	}
	expectAcks(p, 2, 2)
}

func TestLastMessageOfAConnectionIsStored(t *testing.T) {
	b := &storingBackend{}
	h, p, s := startStoring(t, b)
	p.send(publish(events, "x", 1, 1), packets.NewControlPacket(packets.Disconnect))
	headtest.Receive(t, "end", s.Closed)
	if calls, n := b.seen(); n != 1 {
		t.Errorf("calls %s, %d stored", calls, n)
	}
	h.stop()
}

// Acknowledgements are written by the reader and the writer of a connection, and each
// packet in one piece.
func TestAcknowledgementsAndDeliveriesShareTheConnection(t *testing.T) {
	const n = 500
	b := &storingBackend{}
	_, p, s := startStoring(t, b)
	p.subscribe(1, "devices/d1/messages/devicebound/#")
	headtest.Receive(t, "feature", s.Features)
	var settled sync.WaitGroup
	settled.Add(n)
	settled.Go(func() {
		for i := range n {
			m := &iothub.Message{Body: bytes.Repeat([]byte{byte(i)}, i)}
			s.Client.Deliver("", m, func(head.Outcome) bool {
				settled.Done()
				return true
			})
			if i%50 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	acks, deliveries := uint16(0), 0
	p.send(publish(events, "x", 1, 1))
	for acks < n || deliveries < n {
		switch pk := expect[packets.ControlPacket](p).(type) {
		case *packets.PubackPacket:
			if acks++; pk.MessageID != acks {
				t.Fatalf("ack of %d, want %d", pk.MessageID, acks)
			}
			if acks < n {
				p.send(publish(events, fmt.Sprint(acks), 1, acks+1))
			}
		case *packets.PublishPacket:
			if !bytes.Equal(pk.Payload, bytes.Repeat([]byte{byte(deliveries)}, deliveries)) {
				t.Fatalf("delivery %d has %d bytes", deliveries, len(pk.Payload))
			}
			deliveries++
			p.send(puback(pk.MessageID))
		default:
			t.Fatalf("packet %v", pk)
		}
	}
	settled.Wait()
}
