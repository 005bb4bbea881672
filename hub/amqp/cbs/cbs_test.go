package cbs_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	goamqp "github.com/Azure/go-amqp"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type handler struct{ node *cbs.Node }

func (h *handler) OnSASL(s *amqp.SASL) { s.Accept() }
func (h *handler) OnOpen(o *amqp.Open) { o.Accept() }
func (h *handler) OnClose(error)       {}
func (h *handler) OnAttach(a *amqp.Attach) {
	if cbs.Is(a.Address()) {
		h.node.Attach(a)
	}
}

func dial(t *testing.T, verify func(*cbs.Request)) *goamqp.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	s := amqp.Server{NewConn: func(*amqp.Conn) amqp.ConnHandler { return &handler{cbs.New(verify)} }}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(context.Background(), ours) })
	c, err := goamqp.NewConn(t.Context(), theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
	return c
}

func verify(r *cbs.Request) {
	if r.Type != "servicebus.windows.net:sastoken" {
		r.Respond(cbs.BadRequest, "unknown type")
		return
	}
	go func() {
		if string(r.Token) == "good" {
			r.Respond(cbs.OK, "OK")
		}
		r.Respond(cbs.Unauthorized, fmt.Sprint("not ", r.Token, " for ", r.Name))
	}()
}

func request(id any, token, replyTo string) *goamqp.Message {
	return &goamqp.Message{
		Properties:            &goamqp.MessageProperties{MessageID: id, ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{"operation": "PUT-token", "type": "servicebus.windows.net:sastoken", "name": "host/devices/d"},
		Value:                 token,
	}
}

func pair(t *testing.T, c *goamqp.Conn, target string) (*goamqp.Session, *goamqp.Sender, *goamqp.Receiver) {
	t.Helper()
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := session.NewSender(t.Context(), "$cbs", nil)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := session.NewReceiver(t.Context(), "amqps://host:5671/$cbs", &goamqp.ReceiverOptions{TargetAddress: target})
	if err != nil {
		t.Fatal(err)
	}
	return session, sender, receiver
}

func exchange(t *testing.T, s *goamqp.Sender, r *goamqp.Receiver, m *goamqp.Message) *goamqp.Message {
	t.Helper()
	if err := s.Send(t.Context(), m, nil); err != nil {
		t.Fatal(err)
	}
	answer, err := r.Receive(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.AcceptMessage(t.Context(), answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestAnswersKeepTheTypeOfTheMessageID(t *testing.T) {
	_, sender, receiver := pair(t, dial(t, verify), "cbs")
	for _, id := range []any{"text", uint64(7), goamqp.UUID{1, 2}, nil} {
		a := exchange(t, sender, receiver, request(id, "good", "cbs"))
		if a.Properties.CorrelationID != id || a.ApplicationProperties["status-code"] != int32(200) || a.ApplicationProperties["status-description"] != "OK" {
			t.Errorf("%v: %v %v", id, a.Properties.CorrelationID, a.ApplicationProperties)
		}
	}
}

func TestRefusalsAreAnswers(t *testing.T) {
	_, sender, receiver := pair(t, dial(t, verify), "cbs")
	for name, c := range map[string]struct {
		change func(m *goamqp.Message)
		code   int32
		text   string
	}{
		"bad token":     {func(m *goamqp.Message) { m.Value = "bad" }, 401, "not *** for host/devices/d"},
		"unknown type":  {func(m *goamqp.Message) { m.ApplicationProperties["type"] = "jwt" }, 400, "unknown type"},
		"no operation":  {func(m *goamqp.Message) { delete(m.ApplicationProperties, "operation") }, 400, "the operation must be put-token"},
		"no name":       {func(m *goamqp.Message) { m.ApplicationProperties["name"] = "" }, 400, "the name is missing"},
		"no token":      {func(m *goamqp.Message) { m.Value = int32(1) }, 400, "the token is missing"},
		"token as data": {func(m *goamqp.Message) { m.Value, m.Data = nil, [][]byte{[]byte("good")} }, 200, "OK"},
	} {
		m := request("1", "good", "cbs")
		c.change(m)
		a := exchange(t, sender, receiver, m)
		if a.ApplicationProperties["status-code"] != c.code || a.ApplicationProperties["status-description"] != c.text {
			t.Errorf("%s: %v", name, a.ApplicationProperties)
		}
	}
}

func TestAnswersFindTheLinkOfTheirSession(t *testing.T) {
	c := dial(t, verify)
	_, s1, r1 := pair(t, c, "guid-1")
	session2, s2, _ := pair(t, c, "guid-2")
	r3, err := session2.NewReceiver(t.Context(), "$cbs", &goamqp.ReceiverOptions{TargetAddress: "guid-3"})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, s1, r1, request("1", "good", "unknown"))
	exchange(t, s2, r3, request("2", "good", "guid-3"))
	if err := r3.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := session2.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	exchange(t, s1, r1, request("3", "good", ""))
}

func TestAnswersWaitForALink(t *testing.T) {
	c := dial(t, func(r *cbs.Request) { r.Respond(cbs.OK, "") })
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := session.NewSender(t.Context(), "/$cbs", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := sender.Send(t.Context(), request(uint64(i), "good", "cbs"), nil); err != nil {
			t.Fatal(err)
		}
	}
	receiver, err := session.NewReceiver(t.Context(), "$cbs", &goamqp.ReceiverOptions{Credit: 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		m, err := receiver.Receive(t.Context(), nil)
		if err != nil || m.Properties.CorrelationID != uint64(i+4) {
			t.Fatal(i, m, err)
		}
	}
}

func TestIs(t *testing.T) {
	for address, want := range map[string]bool{
		"$cbs": true, "/$cbs": true, "amqps://h:5671/$cbs": true, "$CBS": true, "$cbs/": true,
		"": false, "cbs": false, "amqps://$cbs": false, "/devices/$cbs": false,
	} {
		if cbs.Is(address) != want {
			t.Error(address)
		}
	}
}
