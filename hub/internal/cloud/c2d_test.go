package cloud_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// taker is a fake that takes messages.
type taker struct {
	*fake
	got chan taken
}

type taken struct {
	m       *iothub.Message
	settled func(head.Outcome) bool
}

func newTaker() *taker { return &taker{newFake(), make(chan taken, 100)} }

func (f *taker) Deliver(_ string, m *iothub.Message, settled func(head.Outcome) bool) {
	f.got <- taken{m, settled}
}

// open connects a taker.
func (b *bench) take(f *taker, protocol string, clean bool) head.Session {
	b.t.Helper()
	s, err := b.Connect(b.t.Context(), head.Login{Identity: dev, Protocol: protocol, CleanSession: clean, Token: b.token(dev, time.Hour)}, f)
	if err != nil {
		b.t.Fatal(err)
	}
	f.mu.Lock()
	f.session = s
	f.mu.Unlock()
	return s
}

func (b *bench) send(body, ack string) {
	b.t.Helper()
	m := &iothub.Message{Body: []byte(body)}
	m.System.Set(iothub.MessageID, body)
	m.System.Set(iothub.Ack, ack)
	if err := b.SendToDevice(b.t.Context(), dev, m); err != nil {
		b.t.Fatal(err)
	}
}

// next takes a message, which must be this one.
func (f *taker) next(t *testing.T, body, count string) taken {
	t.Helper()
	got := receive(t, f.got, "message "+body)
	if string(got.m.Body) != body || got.m.System.Get(iothub.DeliveryCount) != count {
		t.Fatalf("got %s %v, want %s with count %s", got.m.Body, got.m.System, body, count)
	}
	return got
}

func (f *taker) none(t *testing.T) {
	t.Helper()
	select {
	case got := <-f.got:
		t.Errorf("got %s", got.m.Body)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestMessagesWaitForTheDeviceAndComeBackWhenItIsGone(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	b.send("1", "")
	b.send("2", "")
	if d, _ := b.Registry().Device("dev"); true {
		if b.FillDevice(&d); d.CloudToDeviceMessageCount != 2 {
			t.Errorf("count %d", d.CloudToDeviceMessageCount)
		}
	}
	first := newTaker()
	s := b.take(first, "mqtt", false)
	first.none(t)
	s.Subscribe(head.C2D)
	first.next(t, "1", "0").settled(head.Complete)
	lost := first.next(t, "2", "0")
	b.send("3", "")
	late := first.next(t, "3", "0")
	lost.settled(head.Lost)
	late.settled(head.Lost)
	first.none(t) // nothing to a connection that is ending
	s.Close(nil)
	second := newTaker()
	s = b.take(second, "amqp", false)
	s.Subscribe(head.C2D)
	two, three := second.next(t, "2", "1"), second.next(t, "3", "1")
	two.settled(head.Abandon)
	three.settled(head.Complete)
	second.next(t, "2", "2").settled(head.Complete)
	s.Unsubscribe(head.C2D)
	b.send("4", "")
	second.none(t)
	s.Subscribe(head.C2D)
	second.next(t, "4", "0").settled(head.Complete)
	if n := b.Messages().Depth(dev); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestCleanSessionOfMQTTGetsWhatIsSentAfterItsSubscription(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	b.send("old", "")
	f := newTaker()
	s := b.take(f, "mqtt", true)
	s.Subscribe(head.C2D)
	f.none(t)
	b.send("new", "")
	f.next(t, "new", "0").settled(head.Complete)
	f = newTaker()
	s = b.take(f, "mqtt", false)
	s.Subscribe(head.C2D)
	f.next(t, "old", "0").settled(head.Complete)
}

func TestDeletedDeviceLosesItsMessages(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	b.send("1", "negative")
	if err := b.Registry().DeleteDevice(t.Context(), "dev", registry.Any); err != nil {
		t.Fatal(err)
	}
	var refusal *registry.Error
	if err := b.SendToDevice(t.Context(), dev, &iothub.Message{}); !errors.As(err, &refusal) || refusal.Code != registry.DeviceNotFound {
		t.Errorf("sent to nobody: %v", err)
	}
	b.device(registry.DeviceChange{DeviceID: "dev"})
	if n := b.Messages().Depth(dev); n != 0 {
		t.Errorf("the new one has %d", n)
	}
	if batch, err := b.Messages().Feedback(t.Context()); err != nil || !strings.Contains(string(batch.Body), `"statusCode":"Purged"`) {
		t.Errorf("feedback %v, %v", batch, err)
	}
}

// service logs a policy in.
func (b *bench) service(policy string, life time.Duration) (head.ServiceSession, error) {
	b.t.Helper()
	key := b.policies[policy].Primary
	token, err := sas.New(sas.HubResource(host), time.Now().Add(life), policy, key.Sign)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.ConnectService(b.t.Context(), head.ServiceLogin{Protocol: "amqp", Token: token})
}

func TestServiceSession(t *testing.T) {
	b := newBench(t, nil)
	d := b.device(registry.DeviceChange{DeviceID: "dev"})
	b.edge("edge")
	for policy, want := range map[string]error{access.Owner: nil, "service": nil, "device": head.ErrUnauthorized, "registryReadWrite": head.ErrUnauthorized} {
		if _, err := b.service(policy, time.Hour); !errors.Is(err, want) {
			t.Errorf("policy %s: %v", policy, err)
		}
	}
	if _, err := b.service("service", -time.Hour); !errors.Is(err, head.ErrUnauthorized) {
		t.Errorf("expired token: %v", err)
	}
	s, err := b.service("service", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(s.Expires()); left < 59*time.Minute || left > 70*time.Minute {
		t.Errorf("expires in %v", left)
	}
	for _, tt := range []struct {
		to   iothub.Identity
		m    *iothub.Message
		want error
	}{
		{dev, &iothub.Message{System: iothub.Properties{{Name: iothub.Ack, Value: "full"}, {Name: iothub.MessageID, Value: "m1"}}}, nil},
		{iothub.DeviceIdentity("none"), &iothub.Message{}, head.ErrNotFound},
		{iothub.ModuleIdentity("dev", "none"), &iothub.Message{}, head.ErrNotFound},
		{iothub.ModuleIdentity("edge", iothub.HubModule), &iothub.Message{}, head.ErrInvalid},
		{dev, &iothub.Message{Body: make([]byte, c2d.MaxSize+1)}, head.ErrTooLarge},
		{dev, &iothub.Message{System: iothub.Properties{{Name: iothub.Ack, Value: "x"}}}, head.ErrInvalid},
	} {
		if err := s.SendToDevice(t.Context(), tt.to, tt.m); !errors.Is(err, tt.want) {
			t.Errorf("to %s: %v, want %v", tt.to, err, tt.want)
		}
	}
	for range c2d.MaxPending - 1 {
		b.send("x", "")
	}
	if err := s.SendToDevice(t.Context(), dev, &iothub.Message{}); !errors.Is(err, head.ErrThrottled) {
		t.Errorf("one too many: %v", err)
	}
	f := newTaker()
	b.take(f, "mqtt", false).Subscribe(head.C2D)
	f.next(t, "", "0").settled(head.Complete)
	b.checkFeedback(s, d)
}

// checkFeedback reads the feedback of one message twice, the second time for good.
func (b *bench) checkFeedback(s head.ServiceSession, d rest.Device) {
	b.t.Helper()
	for _, o := range []head.Outcome{head.Lost, head.Complete} {
		batch, err := s.Feedback(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		var records []rest.FeedbackRecord
		if err := json.Unmarshal(batch.Body, &records); err != nil || len(records) != 1 {
			b.t.Fatalf("%s: %v", batch.Body, err)
		}
		at := records[0].EnqueuedTimeUTC.Time
		records[0].EnqueuedTimeUTC = rest.Time{}
		want := rest.FeedbackRecord{OriginalMessageID: "m1", Description: "Success", DeviceID: "dev", DeviceGenerationID: d.GenerationID, StatusCode: "Success"}
		if records[0] != want || time.Since(at) > time.Minute || batch.Hub != host || len(batch.LockToken) != 36 || time.Since(batch.Enqueued) > time.Minute {
			b.t.Errorf("got %+v in %+v", records[0], batch)
		}
		batch.Settle(o)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Millisecond)
	defer cancel()
	if batch, err := s.Feedback(ctx); !errors.Is(err, context.DeadlineExceeded) {
		b.t.Errorf("more feedback: %s, %v", batch.Body, err)
	}
}

func TestDevicesComeAndGoWhileMessagesAreSent(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	const n = 200
	sent := make(chan error, 1)
	go func() {
		for i := 0; i < n; {
			m := &iothub.Message{Body: fmt.Append(nil, i)}
			switch err := b.SendToDevice(t.Context(), dev, m); {
			case errors.Is(err, c2d.ErrFull):
			case err != nil:
				sent <- err
				return
			default:
				i++
			}
		}
		sent <- nil
	}()
	seen := map[string]bool{}
	for last := -1; len(seen) < n; {
		f := newTaker()
		s := b.take(f, "mqtt", false)
		s.Subscribe(head.C2D)
		for i := range 20 {
			if len(seen) == n {
				break
			}
			got := receive(t, f.got, "a message")
			if i%7 == 6 {
				got.settled(head.Lost)
				break
			}
			number := 0
			if _, err := fmt.Sscan(string(got.m.Body), &number); err != nil || number > last+20 {
				t.Fatalf("message %s after %d", got.m.Body, last)
			}
			last = max(last, number)
			seen[string(got.m.Body)] = true
			got.settled(head.Complete)
		}
		s.Close(nil)
		for len(f.got) > 0 {
			(<-f.got).settled(head.Lost)
		}
	}
	if err := receive(t, sent, "the sender"); err != nil {
		t.Error(err)
	}
}
