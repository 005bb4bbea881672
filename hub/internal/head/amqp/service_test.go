package amqp_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// services is an in-memory head.ServiceBackend.
type services struct {
	expires  time.Time
	sent     chan *iothub.Message
	to       chan iothub.Identity
	feedback chan head.FeedbackBatch
	logins   chan head.ServiceLogin

	mu   sync.Mutex
	path func(head.ServiceLogin) string // of events; nil: the whole hub
	auth error                          // of ConnectService
	send error
}

func newServices() *services {
	return &services{
		sent: make(chan *iothub.Message, 100), to: make(chan iothub.Identity, 100),
		feedback: make(chan head.FeedbackBatch, 10), logins: make(chan head.ServiceLogin, 10),
	}
}

func (s *services) set(auth, send error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth, s.send = auth, send
}

func (s *services) expireIn(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expires = time.Now().Add(d)
}

func (s *services) ConnectService(_ context.Context, l head.ServiceLogin) (head.ServiceSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auth != nil {
		return nil, s.auth
	}
	s.logins <- l
	path := ""
	if s.path != nil {
		path = s.path(l)
	}
	return &serviceSession{s, s.expires, path}, nil
}

type serviceSession struct {
	s       *services
	expires time.Time
	path    string
}

func (s *serviceSession) EventPath() string { return s.path }

func (s *serviceSession) Expires() time.Time { return s.expires }

func (s *serviceSession) SendToDevice(_ context.Context, to iothub.Identity, m *iothub.Message) error {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	if s.s.send != nil {
		return s.s.send
	}
	s.s.sent <- m
	s.s.to <- to
	return nil
}

func (s *serviceSession) Feedback(ctx context.Context) (head.FeedbackBatch, error) {
	select {
	case b := <-s.s.feedback:
		return b, nil
	case <-ctx.Done():
		return head.FeedbackBatch{}, ctx.Err()
	}
}

func serving(s *services) func(*amqp.Options) {
	return func(o *amqp.Options) { o.Flavor, o.Services = amqp.Cloud, s }
}

var policy iothub.Identity // in place of an identity: the token of a policy

func toDevice(address, body string) *goamqp.Message {
	m := goamqp.NewMessage([]byte(body))
	m.Properties = &goamqp.MessageProperties{To: &address}
	return m
}

func TestMessagesToDevices(t *testing.T) {
	sv := newServices()
	h := start(t, newBackend(), serving(sv))
	p := h.login(policy)
	if l := headtest.Receive(t, "login", sv.logins); l.Token == "" || l.Protocol != "amqp" {
		t.Errorf("login by %s", l.Protocol)
	}
	s := p.sender("/messages/devicebound", nil)
	m := toDevice("/devices/d1/messages/devicebound", "hello")
	m.Properties.MessageID = "id1"
	m.ApplicationProperties = map[string]any{"iothub-ack": "full", "k": "v"}
	p.mustSend(s, m)
	got := headtest.Receive(t, "message", sv.sent)
	if id := headtest.Receive(t, "target", sv.to); id != dev || string(got.Body) != "hello" || got.System.Get(iothub.MessageID) != "id1" ||
		got.System.Get(iothub.Ack) != "full" || got.Properties.Get("k") != "v" {
		t.Errorf("to %v: %v", id, got)
	}
	p.mustSend(s, toDevice("/devices/d1/modules/m1/messages/deviceBound", ""))
	if id := headtest.Receive(t, "target", sv.to); id != mod {
		t.Errorf("to %v", id)
	}
	for _, to := range []string{"", "d1", "/devices/d1/twin", "/messages/devicebound"} {
		if err := p.send(s, toDevice(to, "x")); condition(err) != "com.microsoft:argument-error" {
			t.Errorf("to %q: %v", to, err)
		}
	}
	if err := p.send(s, goamqp.NewMessage([]byte("x"))); condition(err) != "com.microsoft:argument-error" {
		t.Errorf("to nobody: %v", err)
	}
	if err := p.send(s, toDevice("/devices/d1/messages/devicebound", string(make([]byte, 64<<10+1)))); condition(err) != "amqp:link:message-size-exceeded" {
		t.Errorf("too large: %v", err)
	}
	for err, want := range map[error]string{
		head.ErrNotFound: "amqp:not-found", head.ErrThrottled: "amqp:resource-limit-exceeded",
		head.ErrInvalid: "com.microsoft:argument-error", errors.New("disk"): "amqp:internal-error",
	} {
		sv.set(nil, err)
		if got := p.send(s, toDevice("/devices/d1/messages/devicebound", "x")); condition(got) != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestFeedback(t *testing.T) {
	sv := newServices()
	h := start(t, newBackend(), serving(sv))
	p := h.login(policy)
	r := p.receiver("/messages/serviceBound/feedback", &goamqp.ReceiverOptions{SettlementMode: goamqp.ReceiverSettleModeSecond.Ptr()})
	outcomes := make(chan head.Outcome, 10)
	at := time.UnixMilli(1798859045006).UTC()
	late := false
	give := func() {
		counts := !late
		sv.feedback <- head.FeedbackBatch{Body: []byte(`[{}]`), LockToken: lock, Hub: "h", Enqueued: at, Settle: func(o head.Outcome) bool { outcomes <- o; return counts }}
	}
	give()
	m := p.receive(r)
	tag, _ := amqp.LockTag(lock)
	if string(m.GetData()) != `[{}]` || string(m.DeliveryTag) != string(tag) || string(m.Properties.UserID) != "h" ||
		*m.Properties.ContentType != "application/vnd.microsoft.iothub.feedback.json" {
		t.Errorf("feedback %v, tag % x", m.Properties, m.DeliveryTag)
	}
	if got, ok := m.Annotations["iothub-enqueuedtime"].(time.Time); !ok || !got.Equal(at) {
		t.Errorf("enqueued at %v", m.Annotations["iothub-enqueuedtime"])
	}
	give() // there is no credit for it yet
	headtest.Nothing(t, "outcome", outcomes)
	if err := r.AcceptMessage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if o := headtest.Receive(t, "outcome", outcomes); o != head.Complete {
		t.Errorf("outcome %v", o)
	}
	if err := r.ReleaseMessage(t.Context(), p.receive(r)); err != nil {
		t.Fatal(err)
	}
	if o := headtest.Receive(t, "outcome", outcomes); o != head.Abandon {
		t.Errorf("outcome %v", o)
	}
	late = true
	give()
	if err := r.AcceptMessage(t.Context(), p.receive(r)); condition(err) != "amqp:not-found" {
		t.Errorf("settled too late: %v", err)
	}
	headtest.Receive(t, "outcome", outcomes)
	give()
	p.receive(r)
	p.Close()
	if o := headtest.Receive(t, "outcome", outcomes); o != head.Lost {
		t.Errorf("outcome %v", o)
	}
}

func TestFileNotificationsAreSilent(t *testing.T) {
	h := start(t, newBackend(), serving(newServices()))
	p := h.login(policy)
	r := p.receiver("/messages/serviceBound/filenotifications", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Receive(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestServicesNeedTheirRight(t *testing.T) {
	sv := newServices()
	b := newBackend()
	h := start(t, b, serving(sv))
	// A device's token opens nothing of the service side.
	p := h.login(dev)
	for _, address := range []string{"/messages/devicebound", "/messages/servicebound/feedback"} {
		if _, err := p.s.NewSender(t.Context(), address, nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("%s: %v", address, err)
		}
	}
	// The policy for devices neither, but the device side.
	sv.set(head.ErrUnauthorized, nil)
	p = h.login(policy)
	if _, err := p.s.NewSender(t.Context(), "/messages/devicebound", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("policy for devices: %v", err)
	}
	p.sender("/devices/d1/messages/events", nil)
	// Neither: refused.
	b.SetAuth(func(head.Login) error { return head.ErrUnauthorized })
	if status, _ := h.dial(nil).putToken(token(policy, never), "1"); status != 401 {
		t.Errorf("status %d", status)
	}
	sv.set(head.ErrUnavailable, nil)
	if status, _ := h.dial(nil).putToken(token(policy, never), "1"); status != 503 {
		t.Errorf("status %d", status)
	}
	// The service side does not let in devices on its own.
	sv.set(nil, nil)
	p = h.login(policy)
	if _, err := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("a service as a device: %v", err)
	}
	if _, err := p.s.NewReceiver(t.Context(), "/messages/devicebound", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("receive from devicebound: %v", err)
	}
}

func TestServiceByPlain(t *testing.T) {
	sv := newServices()
	h := start(t, newBackend(), serving(sv))
	p := h.dial(goamqp.SASLTypePlain("service@sas.root.h", "SharedAccessSignature y"))
	if l := headtest.Receive(t, "login", sv.logins); l.Token != "SharedAccessSignature y" {
		t.Error("another token")
	}
	p.mustSend(p.sender("/messages/devicebound", nil), toDevice("/devices/d1/messages/devicebound", "x"))
	sv.set(head.ErrUnauthorized, nil)
	b := newBackend()
	b.Auth = func(head.Login) error { return head.ErrUnauthorized }
	h = start(t, b, serving(sv))
	if _, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, &goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain("service@sas.root.h", "x")}); err == nil {
		t.Error("a policy without the right comes in")
	}
}
