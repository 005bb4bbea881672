package amqp_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func feature(t *testing.T, s *session, want string) {
	t.Helper()
	if got := headtest.Receive(t, want, s.Features); got != want {
		t.Fatalf("feature %s, want %s", got, want)
	}
}

func deliver(s *session, input string, m *iothub.Message) chan head.Outcome {
	c := make(chan head.Outcome, 2)
	s.Client.Deliver(input, m, func(o head.Outcome) bool {
		c <- o
		return true
	})
	return c
}

func TestCloudToDevice(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	r := p.receiver("/devices/d1/messages/deviceBound", &goamqp.ReceiverOptions{Credit: 10})
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+c2d")
	m := &iothub.Message{Body: []byte("hello")}
	m.System.Set(iothub.LockToken, lock)
	m.System.Set(iothub.DeliveryCount, "2")
	m.Properties.Set("k", "v")
	outcome := deliver(s, "", m)
	got := p.receive(r)
	if string(got.GetData()) != "hello" || got.ApplicationProperties["k"] != "v" ||
		*got.Properties.To != "/devices/d1/messages/devicebound" {
		t.Errorf("got %v", got)
	}
	if want, _ := amqp.LockTag(lock); !bytes.Equal(got.DeliveryTag, want) || got.Annotations["x-opt-lock-token"] != lock {
		t.Errorf("delivery tag % x", got.DeliveryTag)
	}
	if got.Annotations["iothub-deliverycount"] != uint8(2) {
		t.Errorf("delivery count %T", got.Annotations["iothub-deliverycount"])
	}
	headtest.Nothing(t, "outcome", outcome)
	if err := r.AcceptMessage(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if o := headtest.Receive(t, "outcome", outcome); o != head.Complete {
		t.Errorf("outcome %v", o)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	feature(t, s, "-c2d")
	if o := headtest.Receive(t, "outcome", deliver(s, "", m)); o != head.Lost {
		t.Errorf("without a link: %v", o)
	}
}

// Outcomes, both for clients that settle at once and for those that wait until it
// has been applied: these are answered accepted, whatever they said.
func TestOutcomes(t *testing.T) {
	outcomes := []struct {
		name   string
		settle func(context.Context, *goamqp.Receiver, *goamqp.Message) error
		want   head.Outcome
	}{
		{"accepted", func(ctx context.Context, r *goamqp.Receiver, m *goamqp.Message) error { return r.AcceptMessage(ctx, m) }, head.Complete},
		{"rejected", func(ctx context.Context, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.RejectMessage(ctx, m, nil)
		}, head.Reject},
		{"released", func(ctx context.Context, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.ReleaseMessage(ctx, m)
		}, head.Abandon},
		{"modified", func(ctx context.Context, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.ModifyMessage(ctx, m, &goamqp.ModifyMessageOptions{DeliveryFailed: true})
		}, head.Abandon},
		{"modified, undeliverable here", func(ctx context.Context, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.ModifyMessage(ctx, m, &goamqp.ModifyMessageOptions{UndeliverableHere: true})
		}, head.Reject},
	}
	for _, mode := range []goamqp.ReceiverSettleMode{goamqp.ReceiverSettleModeFirst, goamqp.ReceiverSettleModeSecond} {
		b := newBackend()
		h := start(t, b, cloud)
		p := h.login(dev)
		r := p.receiver("/devices/d1/messages/devicebound", &goamqp.ReceiverOptions{SettlementMode: mode.Ptr()})
		s := headtest.Receive(t, "session", b.Sessions)
		feature(t, s, "+c2d")
		for _, tt := range outcomes {
			outcome := deliver(s, "", &iothub.Message{Body: []byte(tt.name)})
			ctx, cancel := context.WithTimeout(t.Context(), headtest.Patience)
			if err := tt.settle(ctx, r, p.receive(r)); err != nil {
				t.Errorf("%s, mode %v: %v", tt.name, mode, err)
			}
			cancel()
			if o := headtest.Receive(t, "outcome", outcome); o != tt.want {
				t.Errorf("%s, mode %v: outcome %v", tt.name, mode, o)
			}
		}
		h.stop()
	}
}

// A client that waits for the answer to its outcome hears that it came too late, in a
// word that the .NET SDK takes for a lost lock.
func TestAnOutcomeThatComesTooLateIsRefused(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(mod)
	second := &goamqp.ReceiverOptions{SettlementMode: goamqp.ReceiverSettleModeSecond.Ptr()}
	bound := p.receiver("/devices/d1/modules/m1/messages/devicebound", second)
	inputs := p.receiver("/devices/d1/modules/m1/messages/events", second)
	s := headtest.Receive(t, "session", b.Sessions)
	for _, tt := range []struct {
		input string
		r     *goamqp.Receiver
		late  bool
	}{{"", bound, false}, {"", bound, true}, {"in", inputs, false}, {"in", inputs, true}} {
		outcome := make(chan head.Outcome, 1)
		s.Client.Deliver(tt.input, &iothub.Message{}, func(o head.Outcome) bool {
			outcome <- o
			return !tt.late
		})
		err := tt.r.AcceptMessage(t.Context(), p.receive(tt.r))
		if o := headtest.Receive(t, "outcome", outcome); o != head.Complete {
			t.Errorf("outcome %v", o)
		}
		if want := map[bool]string{true: "amqp:not-found"}[tt.late]; condition(err) != want || tt.late != (err != nil) {
			t.Errorf("input %q, late %v: %v", tt.input, tt.late, err)
		}
	}
}

func TestWhatIsNotSettledIsLostWithTheLink(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	r := p.receiver("/devices/d1/messages/devicebound", &goamqp.ReceiverOptions{Credit: 2})
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+c2d")
	var outcomes []chan head.Outcome
	for range 4 { // two on their way, two that wait for credit
		outcomes = append(outcomes, deliver(s, "", &iothub.Message{}))
	}
	p.receive(r)
	p.Close()
	for _, c := range outcomes {
		if o := headtest.Receive(t, "outcome", c); o != head.Lost {
			t.Errorf("outcome %v", o)
		}
	}
	headtest.Receive(t, "close", s.Closed)
	if o := headtest.Receive(t, "outcome", deliver(s, "", &iothub.Message{})); o != head.Lost {
		t.Errorf("after the end: %v", o)
	}
}

func TestInputs(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(mod)
	r := p.receiver("/devices/d1/modules/m1/messages/events", &goamqp.ReceiverOptions{Credit: 5})
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+inputs")
	m := &iothub.Message{Body: []byte("x")}
	m.System.Set(iothub.ConnectionDeviceID, "edge1")
	m.System.Set(iothub.ConnectionModuleID, "sender")
	outcome := deliver(s, "in1", m)
	got := p.receive(r)
	if got.Annotations["x-opt-input-name"] != "in1" || got.Annotations["iothub-connection-device-id"] != "edge1" ||
		got.Annotations["iothub-connection-module-id"] != "sender" || len(got.DeliveryTag) != 16 {
		t.Errorf("annotations %v, tag of %d bytes", got.Annotations, len(got.DeliveryTag))
	}
	if err := r.AcceptMessage(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if o := headtest.Receive(t, "outcome", outcome); o != head.Complete {
		t.Errorf("outcome %v", o)
	}
	if o := headtest.Receive(t, "outcome", deliver(s, "", m)); o != head.Lost {
		t.Errorf("cloud-to-device without its link: %v", o)
	}
}

// The Backend hears of the window: of its growth when there was no credit, by
// another Subscribe.
func TestWindowFollowsCredit(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(mod)
	r := p.receiver("/devices/d1/modules/m1/messages/events", &goamqp.ReceiverOptions{Credit: -1})
	s := headtest.Receive(t, "session", b.Sessions)
	headtest.Nothing(t, "feature", s.Features)
	window := func() int { return s.Client.(head.Windowed).Window(head.Inputs) }
	if n := window(); n != 0 {
		t.Errorf("window %d without credit", n)
	}
	if err := r.IssueCredit(2); err != nil {
		t.Fatal(err)
	}
	feature(t, s, "+inputs")
	if n := window(); n != 2 {
		t.Errorf("window %d", n)
	}
	one := deliver(s, "in", &iothub.Message{})
	deliver(s, "in", &iothub.Message{})
	if n := window(); n != 2 {
		t.Errorf("window %d with two unsettled", n)
	}
	m := p.receive(r)
	p.receive(r)
	if err := r.AcceptMessage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	headtest.Receive(t, "outcome", one)
	if n := window(); n != 1 {
		t.Errorf("window %d with one unsettled", n)
	}
	headtest.Nothing(t, "feature", s.Features)
	if err := r.IssueCredit(1); err != nil {
		t.Fatal(err)
	}
	feature(t, s, "+inputs")
}

func TestASlowReaderHoldsUpNobody(t *testing.T) {
	b := newBackend()
	h := start(t, b, func(o *amqp.Options) { o.MaxQueued = 50 })
	p := h.login(mod)
	p.putToken(token(dev, never), "2")
	p.receiver("/devices/d1/modules/m1/messages/events", &goamqp.ReceiverOptions{Credit: 1}) // never reads
	slow := headtest.Receive(t, "session", b.Sessions)
	feature(t, slow, "+inputs")
	quick := p.receiver("/devices/d1/messages/devicebound", &goamqp.ReceiverOptions{Credit: 10})
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+c2d")
	lost := 0
	for range 200 { // no more than MaxQueued wait
		select {
		case o := <-deliver(slow, "in", &iothub.Message{Body: make([]byte, 1000)}):
			if o != head.Lost {
				t.Fatalf("outcome %v", o)
			}
			lost++
		default:
		}
	}
	if lost != 150 {
		t.Errorf("%d are lost", lost)
	}
	for i := range 100 {
		outcome := deliver(s, "", &iothub.Message{Body: fmt.Append(nil, i)})
		m := p.receive(quick)
		if err := quick.AcceptMessage(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		headtest.Receive(t, "outcome", outcome)
	}
}

func TestALinkOfTheSameKindReplacesTheOlder(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	old := p.receiver("/devices/d1/messages/devicebound", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+c2d")
	fresh := p.receiver("/devices/d1/messages/devicebound", nil)
	ctx, cancel := context.WithTimeout(t.Context(), headtest.Patience)
	defer cancel()
	if _, err := old.Receive(ctx, nil); condition(err) != "amqp:link:stolen" {
		t.Errorf("old: %v", err)
	}
	feature(t, s, "+c2d")
	deliver(s, "", &iothub.Message{Body: []byte("x")})
	p.receive(fresh)
	headtest.Nothing(t, "feature", s.Features)
	headtest.Nothing(t, "close", s.Closed)
}

func TestMessagesTooLargeForTheClientAreRejected(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	p.receiver("/devices/d1/messages/devicebound", &goamqp.ReceiverOptions{MaxMessageSize: 1000})
	s := headtest.Receive(t, "session", b.Sessions)
	feature(t, s, "+c2d")
	if o := headtest.Receive(t, "outcome", deliver(s, "", &iothub.Message{Body: make([]byte, 2000)})); o != head.Reject {
		t.Errorf("outcome %v", o)
	}
}

var never = time.Now().Add(24 * time.Hour)
