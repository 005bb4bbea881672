package amqp_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	backend = headtest.Backend
	session = headtest.Session
)

var newBackend = headtest.NewBackend

// hub is a running head on a loopback port with a backend of the test.
type hub struct {
	t    testing.TB
	b    *backend
	addr string
	stop func() // ends Serve and waits; called at the end of the test anyway
}

func start(t testing.TB, b *backend, change func(*amqp.Options)) *hub {
	t.Helper()
	opts := amqp.Options{Backend: b, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&opts)
	}
	srv, err := amqp.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, b: b}
	h.addr, h.stop = headtest.Serve(t, srv.Serve)
	return h
}

var (
	dev = iothub.DeviceIdentity("d1")
	mod = iothub.ModuleIdentity("d1", "m1")
)

// token makes a token whose signature nobody checks.
func token(id iothub.Identity, expiry time.Time) string {
	resource, name := sas.DeviceResource("h.example", id), ""
	if id.IsZero() {
		resource, name = sas.HubResource("h.example"), "service"
	}
	s, err := sas.New(resource, expiry, name, func([]byte) ([]byte, error) { return []byte("signature"), nil })
	if err != nil {
		panic(err)
	}
	return s
}

// peer is a connection of go-amqp.
type peer struct {
	t testing.TB
	h *hub
	*goamqp.Conn
	s *goamqp.Session
}

func (h *hub) dial(sasl goamqp.SASLType) *peer {
	return h.dialWith(&goamqp.ConnOptions{SASLType: sasl})
}

func (h *hub) dialWith(o *goamqp.ConnOptions) *peer {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	c, err := goamqp.Dial(ctx, "amqp://"+h.addr, o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession(ctx, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return &peer{t: h.t, h: h, Conn: c, s: s}
}

// putToken puts a token by CBS and returns the status of the answer.
func (p *peer) putToken(text string, id any) (status int32, answer *goamqp.Message) {
	p.t.Helper()
	return p.putTokenWithin(text, id, headtest.Patience)
}

func (p *peer) putTokenWithin(text string, id any, limit time.Duration) (status int32, answer *goamqp.Message) {
	p.t.Helper()
	return p.putTokenAs("servicebus.windows.net:sastoken", text, id, limit)
}

func (p *peer) putTokenAs(kind, text string, id any, limit time.Duration) (status int32, answer *goamqp.Message) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	receiver, err := p.s.NewReceiver(ctx, "$cbs", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer receiver.Close(ctx)
	sender, err := p.s.NewSender(ctx, "$cbs", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer sender.Close(ctx)
	replyTo, to := "cbs", "$cbs"
	m := &goamqp.Message{
		Properties: &goamqp.MessageProperties{MessageID: id, To: &to, ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": kind, "name": "h.example/devices/whatever",
		},
		Value: text,
	}
	if err := sender.Send(ctx, m, nil); err != nil {
		p.t.Fatal(err)
	}
	answer, err = receiver.Receive(ctx, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := receiver.AcceptMessage(ctx, answer); err != nil {
		p.t.Fatal(err)
	}
	status, ok := answer.ApplicationProperties["status-code"].(int32)
	if !ok {
		p.t.Fatalf("status-code is %T", answer.ApplicationProperties["status-code"])
	}
	return status, answer
}

// login opens a connection and puts the token of an identity.
func (h *hub) login(id iothub.Identity) *peer {
	h.t.Helper()
	return h.dial(nil).login(id)
}

// dialFrames is login as dev with frames of a size.
func (h *hub) dialFrames(size uint32) *peer {
	h.t.Helper()
	return h.dialWith(&goamqp.ConnOptions{MaxFrameSize: size}).login(dev)
}

func (p *peer) login(id iothub.Identity) *peer {
	p.t.Helper()
	if status, _ := p.putToken(token(id, time.Now().Add(time.Hour)), "1"); status != 200 {
		p.t.Fatalf("put-token: %d", status)
	}
	return p
}

func (p *peer) sender(address string, o *goamqp.SenderOptions) *goamqp.Sender {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	s, err := p.s.NewSender(ctx, address, o)
	if err != nil {
		p.t.Fatalf("sender to %s: %v", address, err)
	}
	return s
}

func (p *peer) receiver(address string, o *goamqp.ReceiverOptions) *goamqp.Receiver {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	r, err := p.s.NewReceiver(ctx, address, o)
	if err != nil {
		p.t.Fatalf("receiver from %s: %v", address, err)
	}
	return r
}

func (p *peer) send(s *goamqp.Sender, m *goamqp.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	return s.Send(ctx, m, nil)
}

func (p *peer) mustSend(s *goamqp.Sender, m *goamqp.Message) {
	p.t.Helper()
	if err := p.send(s, m); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) receive(r *goamqp.Receiver) *goamqp.Message {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	m, err := r.Receive(ctx, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// condition returns the condition of an AMQP error within err, or "".
func condition(err error) string {
	var link *goamqp.LinkError
	if errors.As(err, &link) && link.RemoteErr != nil {
		return string(link.RemoteErr.Condition)
	}
	var conn *goamqp.ConnError
	if errors.As(err, &conn) && conn.RemoteErr != nil {
		return string(conn.RemoteErr.Condition)
	}
	var session *goamqp.SessionError
	if errors.As(err, &session) && session.RemoteErr != nil {
		return string(session.RemoteErr.Condition)
	}
	var plain *goamqp.Error
	if errors.As(err, &plain) {
		return string(plain.Condition)
	}
	return ""
}
