package amqp_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestTelemetryIsAcceptedWhenItIsSafe(t *testing.T) {
	b := newBackend()
	dones := make(chan func(error), 10)
	b.OnTelemetry = func(_ *iothub.Message, done func(error)) { dones <- done }
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", nil)
	session := headtest.Receive(t, "session", b.Sessions)
	if session.Login.Identity != dev || session.Login.Token == "" || session.Login.Protocol != "amqp" {
		t.Errorf("login %v", session.Login.Identity)
	}
	sent := make(chan error, 1)
	go func() { sent <- p.send(s, goamqp.NewMessage([]byte("hello"))) }()
	done := headtest.Receive(t, "message", dones)
	headtest.Nothing(t, "outcome", sent)
	done(nil)
	if err := headtest.Receive(t, "outcome", sent); err != nil {
		t.Error(err)
	}
	if m := headtest.Receive(t, "message", session.Messages); string(m.Body) != "hello" {
		t.Errorf("body %q", m.Body)
	}
	p.Close()
	if err := headtest.Receive(t, "close", session.Closed); err != nil {
		t.Errorf("closed with %v", err)
	}
}

func TestTelemetryThatIsNotAccepted(t *testing.T) {
	for err, want := range map[error]string{
		head.ErrUnavailable: "amqp:internal-error", head.ErrThrottled: "com.microsoft:device-container-throttled",
		head.ErrTooLarge: "amqp:link:message-size-exceeded", errors.New("disk"): "amqp:internal-error",
	} {
		b := newBackend()
		b.OnTelemetry = func(_ *iothub.Message, done func(error)) { done(err) }
		h := start(t, b, nil)
		p := h.login(dev)
		s := p.sender("/devices/d1/messages/events", nil)
		for range 2 { // the link stays
			if got := p.send(s, goamqp.NewMessage([]byte("x"))); condition(got) != want {
				t.Errorf("%v: %v", err, got)
			}
		}
		h.stop()
	}
}

func TestTelemetryOfAnySize(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.dialFrames(4096) // as the Java SDK
	s := p.sender("/devices/d1/messages/events", nil)
	session := headtest.Receive(t, "session", b.Sessions)
	body := bytes.Repeat([]byte("0123456789abcdef"), iothub.MaxMessageSize/16)
	p.mustSend(s, goamqp.NewMessage(body))
	if m := headtest.Receive(t, "message", session.Messages); !bytes.Equal(m.Body, body) {
		t.Error("another body arrived")
	}
	p.mustSend(s, &goamqp.Message{Properties: &goamqp.MessageProperties{}}) // no body at all
	if m := headtest.Receive(t, "message", session.Messages); len(m.Body) != 0 {
		t.Errorf("body %q", m.Body)
	}
	if err := p.send(s, goamqp.NewMessage(append(body, 'x'))); condition(err) != "amqp:link:message-size-exceeded" {
		t.Errorf("one byte more: %v", err)
	}
	p.mustSend(s, goamqp.NewMessage([]byte("still here")))
	if err := p.send(s, goamqp.NewMessage(make([]byte, 2<<20))); err == nil {
		t.Error("2 MiB are taken")
	}
}

func TestSettledTelemetry(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", &goamqp.SenderOptions{SettlementMode: goamqp.SenderSettleModeSettled.Ptr()})
	session := headtest.Receive(t, "session", b.Sessions)
	for i := range 1000 { // more than the window
		p.mustSend(s, goamqp.NewMessage(fmt.Append(nil, i)))
	}
	for i := range 1000 {
		if m := headtest.Receive(t, "message", session.Messages); string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Body)
		}
	}
}

// The client does not wait for what it has sent settled, and the hub must not drop it
// when the link goes in good order.
func TestSettledTelemetryBeforeTheGoodbye(t *testing.T) {
	b := newBackend()
	let := make(chan struct{})
	var once sync.Once
	b.OnTelemetry = func(_ *iothub.Message, done func(error)) {
		once.Do(func() { <-let }) // the rest waits behind the first
		done(nil)
	}
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", &goamqp.SenderOptions{SettlementMode: goamqp.SenderSettleModeSettled.Ptr()})
	session := headtest.Receive(t, "session", b.Sessions)
	for i := range 50 {
		p.mustSend(s, goamqp.NewMessage(fmt.Append(nil, i)))
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(let)
	for i := range 50 {
		if m := headtest.Receive(t, "message", session.Messages); string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Body)
		}
	}
}

// batch makes a message of the batch format: each data section is a message.
func batch(list ...*wire.Message) *goamqp.Message {
	m := &goamqp.Message{Format: 0x80013700, Properties: &goamqp.MessageProperties{}} // ignored
	for _, w := range list {
		m.Data = append(m.Data, wire.AppendMessage(nil, w))
	}
	return m
}

func TestBatches(t *testing.T) {
	b := newBackend()
	results := map[string]error{}
	b.OnTelemetry = func(m *iothub.Message, done func(error)) { done(results[string(m.Body)]) }
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", nil)
	session := headtest.Receive(t, "session", b.Sessions)
	first := wire.NewMessage([]byte("1"))
	first.Properties = &wire.Properties{MessageID: wire.String("id1")}
	first.ApplicationProperties = first.ApplicationProperties.With("k", wire.String("v"))
	p.mustSend(s, batch(first, wire.NewMessage([]byte("2")), &wire.Message{}))
	var bodies []string
	for i := range 3 {
		m := headtest.Receive(t, "message", session.Messages)
		if i == 0 && (m.System.Get(iothub.MessageID) != "id1" || m.Properties.Get("k") != "v") {
			t.Errorf("first: %v", m)
		}
		bodies = append(bodies, string(m.Body))
	}
	if !slices.Equal(bodies, []string{"1", "2", ""}) {
		t.Errorf("bodies %q", bodies)
	}
	p.mustSend(s, batch())
	// One disposition for all: nothing or everything.
	results["2"] = head.ErrThrottled
	if err := p.send(s, batch(first, wire.NewMessage([]byte("2")))); condition(err) != "com.microsoft:device-container-throttled" {
		t.Errorf("partly refused: %v", err)
	}
	malformed := batch(first)
	malformed.Data = append(malformed.Data, []byte("no message"))
	if err := p.send(s, malformed); condition(err) != "amqp:decode-error" {
		t.Errorf("malformed: %v", err)
	}
	if err := p.send(s, batch(first, wire.NewMessage(make([]byte, iothub.MaxMessageSize+1)))); condition(err) != "amqp:link:message-size-exceeded" {
		t.Errorf("one too large: %v", err)
	}
	quarter := wire.NewMessage(make([]byte, 200<<10))
	if err := p.send(s, batch(quarter, quarter, quarter, quarter)); condition(err) != "amqp:link:message-size-exceeded" {
		t.Errorf("too large together: %v", err)
	}
}

func TestWhatIsNotAMessage(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", nil)
	if err := p.send(s, &goamqp.Message{Value: map[string]any{"a": 1}}); condition(err) != "amqp:not-implemented" {
		t.Errorf("map: %v", err)
	}
	p.mustSend(s, &goamqp.Message{Value: "text"})
	if m := headtest.Receive(t, "message", headtest.Receive(t, "session", b.Sessions).Messages); string(m.Body) != "text" {
		t.Errorf("body %q", m.Body)
	}
}

// A Backend that does not take messages stops the client that sends them, and
// nobody else on the connection.
func TestABackendThatIsFullHoldsUpItsClientOnly(t *testing.T) {
	b := newBackend()
	h := start(t, b, func(o *amqp.Options) { o.Window = 10 })
	stuck := make(chan func(error), 100)
	b.OnTelemetry = func(m *iothub.Message, done func(error)) {
		if string(m.Body) == "stuck" {
			stuck <- done
			return
		}
		done(nil)
	}
	p := h.login(dev)
	p.putToken(token(iothub.DeviceIdentity("d2"), never), "2")
	one, two := p.sender("/devices/d1/messages/events", nil), p.sender("/devices/d2/messages/events", nil)
	errs := make(chan error, 20)
	for range 20 {
		go func() { errs <- p.send(one, goamqp.NewMessage([]byte("stuck"))) }()
	}
	dones := make([]func(error), 10)
	for i := range dones {
		dones[i] = headtest.Receive(t, "message", stuck)
	}
	headtest.Nothing(t, "message beyond the window", stuck)
	p.mustSend(two, goamqp.NewMessage([]byte("passes")))
	for _, done := range dones {
		done(nil)
	}
	for range 10 {
		headtest.Receive(t, "message", stuck)(nil)
	}
	for range 20 {
		if err := headtest.Receive(t, "outcome", errs); err != nil {
			t.Error(err)
		}
	}
}
