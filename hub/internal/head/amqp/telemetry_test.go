package amqp_test

import (
	"testing"

	goamqp "github.com/Azure/go-amqp"
)

func TestTelemetryAfterAToken(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", nil)
	session := receive(t, "session", b.sessions)
	if session.login.Identity != dev || session.login.Token == "" || session.login.Protocol != "amqp" {
		t.Errorf("login %v", session.login.Identity)
	}
	p.mustSend(s, goamqp.NewMessage([]byte("hello")))
	if m := receive(t, "message", session.messages); string(m.Body) != "hello" {
		t.Errorf("body %q", m.Body)
	}
	p.Close()
	if err := receive(t, "close", session.closed); err != nil {
		t.Errorf("closed with %v", err)
	}
}
