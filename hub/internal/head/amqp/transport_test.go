package amqp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"github.com/coder/websocket"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
)

func (h *hub) dialTLS(sasl goamqp.SASLType, certificates ...tls.Certificate) (*peer, error) {
	c, err := goamqp.Dial(h.t.Context(), "amqps://"+h.addr, &goamqp.ConnOptions{SASLType: sasl,
		TLSConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates}}) //nolint:gosec // a test certificate
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession(h.t.Context(), nil)
	return &peer{t: h.t, h: h, Conn: c, s: s}, err
}

func TestCertificates(t *testing.T) {
	b := newBackend()
	h := start(t, b, func(o *amqp.Options) {
		o.TLS = &tls.Config{Certificates: []tls.Certificate{headtest.Certificate(t, "hub")}}
	})
	device := headtest.Certificate(t, "d1")
	for name, sasl := range map[string]goamqp.SASLType{
		"no SASL": nil, "EXTERNAL": goamqp.SASLTypeExternal(""), "ANONYMOUS": goamqp.SASLTypeAnonymous(),
	} {
		p, err := h.dialTLS(sasl, device)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p.sender("/devices/d1/messages/events", nil)
		s := headtest.Receive(t, "session", b.Sessions)
		if s.Login.Token != "" || len(s.Login.Peer) != 1 || s.Login.Peer[0].Subject.CommonName != "d1" {
			t.Errorf("%s: login with %d certificates", name, len(s.Login.Peer))
		}
		// A token goes before the certificate.
		p.login(dev)
		if err := p.s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		headtest.Receive(t, "close", s.Closed)
		if p.s, err = p.NewSession(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		p.sender("/devices/d1/messages/events", nil)
		if s = headtest.Receive(t, "session", b.Sessions); s.Login.Token == "" || len(s.Login.Peer) != 0 {
			t.Errorf("%s: login without the token", name)
		}
	}
	if _, err := h.dialTLS(goamqp.SASLTypeExternal("")); err == nil {
		t.Error("EXTERNAL without a certificate")
	}
	p, err := h.dialTLS(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("neither token nor certificate: %v", err)
	}
}

func TestWebSocket(t *testing.T) {
	b := newBackend()
	srv, err := amqp.New(amqp.Options{Backend: b, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sockets := ws.New(ctx, map[string]ws.Serve{"AMQPWSB10": srv.ServeWebSocket})
	web := httptest.NewServer(sockets)
	defer web.Close()
	defer sockets.Wait()
	defer cancel()
	for _, protocol := range []string{"AMQPWSB10", "amqpwsb10"} {
		c, resp, err := websocket.Dial(t.Context(), strings.Replace(web.URL, "http", "ws", 1)+"/$iothub/websocket", &websocket.DialOptions{Subprotocols: []string{protocol}})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != protocol {
			t.Errorf("sub-protocol %q", got)
		}
		conn, err := goamqp.NewConn(t.Context(), websocket.NetConn(context.Background(), c, websocket.MessageBinary), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := conn.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := (&peer{t: t, Conn: conn, s: s}).login(dev)
		p.mustSend(p.sender("/devices/d1/messages/events", nil), goamqp.NewMessage(make([]byte, 200_000)))
		session := headtest.Receive(t, "session", b.Sessions)
		if session.Login.Protocol != "amqp-ws" {
			t.Errorf("protocol %s", session.Login.Protocol)
		}
		_ = conn.Close() // which may complain that it has closed the WebSocket itself
		headtest.Receive(t, "close", session.Closed)
	}
}

func TestTooManyConnections(t *testing.T) {
	h := start(t, newBackend(), func(o *amqp.Options) { o.MaxConnections = 1 })
	p := h.dial(nil)
	if _, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, nil); err == nil {
		t.Error("one more comes in")
	}
	p.Close()
	for end := time.Now().Add(headtest.Patience); ; {
		c, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, nil)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("the place is not free again")
		}
	}
}

func TestOneConnectionHasABoundedNumberOfIdentities(t *testing.T) {
	h := start(t, newBackend(), func(o *amqp.Options) { o.MaxIdentities = 2 })
	p := h.dial(nil)
	for i, want := range []int32{200, 200, 403} {
		if status, _ := p.putToken(token(deviceN(i), never), "1"); status != want {
			t.Errorf("token %d: status %d", i, status)
		}
	}
	if status, _ := p.putToken(token(deviceN(0), never), "1"); status != 200 {
		t.Error("renewal is refused")
	}
}

func TestShutdown(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	s := p.sender("/devices/d1/messages/events", nil)
	session := headtest.Receive(t, "session", b.Sessions)
	h.stop()
	headtest.Receive(t, "close", session.Closed)
	gone := func(p *peer, s *goamqp.Sender) {
		t.Helper()
		// The session has a reason after which SDKs come again, the connection that of
		// the standard.
		err := p.send(s, goamqp.NewMessage(nil))
		if c := condition(err); c != "amqp:link:detach-forced" && c != "amqp:connection:forced" {
			t.Error(err)
		}
		<-p.Done()
		if condition(p.Err()) != "amqp:connection:forced" {
			t.Error(p.Err())
		}
	}
	gone(p, s)
	b = newBackend()
	h = start(t, b, nil)
	p = h.login(dev)
	s = p.sender("/devices/d1/messages/events", nil)
	session = headtest.Receive(t, "session", b.Sessions)
	session.Client.Disconnect(head.ErrShutdown)
	if err := headtest.Receive(t, "close", session.Closed); !errors.Is(err, head.ErrShutdown) {
		t.Errorf("closed with %v", err)
	}
	gone(p, s)
}

func TestAPanicOfTheBackendCostsOneConnection(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p := h.login(dev)
	b.SetAuth(func(head.Login) error { panic("oops") })
	if _, err := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); err == nil {
		t.Error("attached")
	}
	<-p.Done()
	b.SetAuth(nil)
	h.login(dev).sender("/devices/d1/messages/events", nil)
}
