package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestConnackCodes(t *testing.T) {
	tests := []struct {
		name        string
		change      func(*packets.ConnectPacket)
		auth        error
		edge, cloud byte
	}{
		{name: "accepted"},
		{name: "MQTT 3.1", change: func(p *packets.ConnectPacket) { p.ProtocolVersion = 3 }, edge: 1, cloud: 1},
		{name: "level 6", change: func(p *packets.ConnectPacket) { p.ProtocolVersion = 6 }, edge: 1, cloud: 1},
		{name: "bridge bit", change: func(p *packets.ConnectPacket) { p.ProtocolVersion = 0x84 }, edge: 1, cloud: 1},
		{name: "no client id", change: func(p *packets.ConnectPacket) { p.ClientIdentifier = "" }, edge: 3, cloud: 2},
		{name: "no user name", change: func(p *packets.ConnectPacket) { p.UsernameFlag, p.PasswordFlag = false, false }, edge: 3, cloud: 5},
		{name: "bad user name", change: func(p *packets.ConnectPacket) { p.Username = "x" }, edge: 3, cloud: 5},
		{name: "no api-version", change: func(p *packets.ConnectPacket) { p.Username = "h/d1" }, edge: 3, cloud: 0},
		{name: "client id of another", change: func(p *packets.ConnectPacket) { p.ClientIdentifier = "d2" }, edge: 5, cloud: 5},
		{name: "client id in other case", change: func(p *packets.ConnectPacket) { p.ClientIdentifier = "D1" }, edge: 5, cloud: 5},
		{name: "empty password", change: func(p *packets.ConnectPacket) { p.Password = nil }},
		{name: "will to own telemetry", change: will("devices/d1/messages/events/", "x", 1)},
		{name: "will without payload", change: will("devices/d1/messages/events/", "", 1)},
		{name: "will to another", change: will("devices/d2/messages/events/", "x", 1), edge: 5, cloud: 5},
		{name: "will to anywhere", change: will("a/b", "x", 1), edge: 5, cloud: 5},
		{name: "will with QoS 2", change: will("devices/d1/messages/events/", "x", 2), edge: 5, cloud: 5},
		{name: "unauthorized", auth: fmt.Errorf("x: %w", head.ErrUnauthorized), edge: 5, cloud: 5},
		{name: "unavailable", auth: fmt.Errorf("x: %w", head.ErrUnavailable), edge: 3, cloud: 3},
		{name: "internal error", auth: errors.New("x"), edge: 3, cloud: 3},
	}
	for _, tt := range tests {
		for _, flavor := range []mqtt.Flavor{mqtt.Edge, mqtt.Cloud} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, flavor), func(t *testing.T) {
				b := newBackend()
				b.Auth = func(head.Login) error { return tt.auth }
				failed := make(chan string, 1)
				h := start(t, b, func(o *mqtt.Options) {
					o.Flavor = flavor
					o.Events.ConnectFailed = func(_ iothub.Identity, reason string) { failed <- reason }
				})
				p, cp := h.dial(), connectPacket(dev)
				if tt.change != nil {
					tt.change(cp)
				}
				p.send(cp)
				want := tt.edge
				if flavor == mqtt.Cloud {
					want = tt.cloud
				}
				ack := expect[*packets.ConnackPacket](p)
				if ack.ReturnCode != want || ack.SessionPresent {
					t.Fatalf("code %d, session present %v; want %d", ack.ReturnCode, ack.SessionPresent, want)
				}
				if want != 0 {
					p.closed()
					headtest.Receive(t, "event", failed)
					headtest.Nothing(t, "session", b.Sessions)
				}
			})
		}
	}
}

func will(topic, body string, qos byte) func(*packets.ConnectPacket) {
	return func(p *packets.ConnectPacket) {
		p.WillFlag, p.WillTopic, p.WillMessage, p.WillQos = true, topic, []byte(body), qos
	}
}

func TestMQTT5IsRefusedWithCode1(t *testing.T) {
	p := start(t, newBackend(), nil).dial()
	p.raw([]byte{0x10, 15, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0 /* no properties */, 0, 2, 'd', '1'})
	if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 1 {
		t.Errorf("code %d", ack.ReturnCode)
	}
	p.closed()
}

// A CONNECT that breaks the protocol is not answered (MQTT 3.1.1, 3.1.2.2 and 3.1.2.3).
func TestMalformedConnectIsClosedWithoutConnack(t *testing.T) {
	const name, flags = 4, 9 // where they are in the packet, whose length takes one byte
	tests := map[string]func(b []byte){
		"reserved flag":           func(b []byte) { b[flags] |= 1 },
		"another protocol":        func(b []byte) { b[name] = 'X' },
		"will retain and no will": func(b []byte) { b[flags] |= 0x20 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			h := start(t, b, nil)
			p, cp := h.dial(), connectPacket(dev)
			var packet bytes.Buffer
			if err := cp.Write(&packet); err != nil {
				t.Fatal(err)
			}
			change(packet.Bytes())
			p.raw(packet.Bytes())
			p.closed()
			headtest.Nothing(t, "session", b.Sessions)
		})
	}
}

func TestLoginCarriesWhatTheClientSaid(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p, cp := h.dial(), connectPacket(mod)
	cp.Username = "hub.example/d1/m1/?api-version=2021-04-12&DeviceClientType=p%2F1&model-id=dtmi%3Ax%3B1&auth-chain=d1%2Fm1%3Be2"
	p.send(cp)
	expect[*packets.ConnackPacket](p)
	got := headtest.Receive(t, "session", b.Sessions).Login
	if got.Remote == nil || got.Remote.String() != p.LocalAddr().String() {
		t.Errorf("remote %v", got.Remote)
	}
	got.Remote = nil
	want := head.Login{Identity: mod, Protocol: "mqtt", Token: "SharedAccessSignature x", HubName: "hub.example",
		Product: "p/1", ModelID: "dtmi:x;1", AuthChain: "d1/m1;e2"}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("login %+v, want %+v", got, want)
	}
}

func TestAChainOfOneIsNoChain(t *testing.T) {
	for chain, want := range map[string]string{
		"": "", "d1%2Fm1": "", "d1%2Fm1%3B": "", "%3B": "", "d1%2Fm1%3Be2": "d1/m1;e2", "%3Bd1%2Fm1%3B%3Be2%3B": "d1/m1;e2",
	} {
		b := newBackend()
		p, cp := start(t, b, nil).dial(), connectPacket(mod)
		cp.Username += "&auth-chain=" + chain
		p.send(cp)
		expect[*packets.ConnackPacket](p)
		if got := headtest.Receive(t, "session", b.Sessions).Login.AuthChain; got != want {
			t.Errorf("%s: %q, want %q", chain, got, want)
		}
	}
}

func TestClientCertificateReachesTheBackendUnlessThereIsAPassword(t *testing.T) {
	b := newBackend()
	server, own := headtest.Certificate(t, "hub"), headtest.Certificate(t, "d1")
	h := start(t, b, func(o *mqtt.Options) { o.TLS = &tls.Config{Certificates: []tls.Certificate{server}} })
	leaf, err := x509.ParseCertificate(server.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for _, tt := range []struct {
		name     string
		certs    []tls.Certificate
		password string
		peers    int
		max      uint16
	}{
		{"certificate", []tls.Certificate{own}, "", 1, tls.VersionTLS13},
		{"certificate over TLS 1.2", []tls.Certificate{own}, "", 1, tls.VersionTLS12},
		{"both", []tls.Certificate{own}, "SharedAccessSignature x", 0, tls.VersionTLS13},
		{"password", nil, "SharedAccessSignature x", 0, tls.VersionTLS13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tls.Dial("tcp", h.addr, &tls.Config{RootCAs: roots, ServerName: "hub", Certificates: tt.certs, MaxVersion: tt.max})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			p, cp := &peer{t, c}, connectPacket(dev)
			cp.Password = []byte(tt.password)
			p.send(cp)
			expect[*packets.ConnackPacket](p)
			login := headtest.Receive(t, "session", b.Sessions).Login
			if len(login.Peer) != tt.peers || login.Token != tt.password {
				t.Errorf("%d certificates, token %q", len(login.Peer), login.Token)
			}
			if tt.peers > 0 && login.Peer[0].Subject.CommonName != "d1" {
				t.Errorf("leaf %v", login.Peer[0].Subject)
			}
		})
	}
}

func TestMoreClientsThanAllowedAreRefused(t *testing.T) {
	b := newBackend()
	h := start(t, b, func(o *mqtt.Options) { o.MaxClients = 2 })
	h.connect(dev)
	first, _ := h.connect(mod)
	p := h.dial()
	p.send(connectPacket(iothub.DeviceIdentity("d3")))
	if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 3 {
		t.Errorf("third client: code %d", ack.ReturnCode)
	}
	headtest.Receive(t, "refused session", b.Sessions)
	h.connect(mod) // the same identity again is none more
	first.closed()
}

func TestMoreSocketsThanAllowedAreClosed(t *testing.T) {
	h := start(t, newBackend(), func(o *mqtt.Options) { o.MaxConnections = 1 })
	h.connect(dev)
	h.dial().closed()
}

func TestConnectMustArriveInTime(t *testing.T) {
	h := start(t, newBackend(), func(o *mqtt.Options) { o.ConnectTimeout = 50 * time.Millisecond })
	h.dial().closed()
}

func TestNewerConnectionOfAnIdentityDisplacesTheOlder(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p1, s1 := h.connect(dev)
	p1.subscribe(1, "devices/d1/messages/devicebound/#")
	p2, s2 := h.connect(dev)
	p1.closed() // and no DISCONNECT packet, which 3.1.1 does not know
	if err := headtest.Receive(t, "close", s1.Closed); !errors.Is(err, head.ErrReplaced) {
		t.Errorf("first session closed with %v", err)
	}
	p3, s3 := h.connect(dev)
	p2.closed()
	headtest.Receive(t, "close", s2.Closed)
	p3.quiet()
	headtest.Nothing(t, "close", s3.Closed)
	if m, _ := h.connect(mod); m != nil { // a module of the device is someone else
		m.quiet()
		p3.quiet()
	}
}

// What the older connection has sent is acknowledged to nobody when it is stored after
// its end, and not to the newer one.
func TestPublishInFlightIsNotAcknowledgedToTheNewerConnection(t *testing.T) {
	b := newBackend()
	dones := make(chan func(error), 4)
	b.OnTelemetry = func(_ *iothub.Message, done func(error)) { dones <- done }
	h := start(t, b, nil)
	p1, s1 := h.connect(dev)
	p1.send(publish(events, "older", 1, 7))
	older := headtest.Receive(t, "message", dones)
	p2, _ := h.connect(dev)
	p1.closed()
	headtest.Receive(t, "close", s1.Closed)
	p2.send(publish(events, "newer", 1, 7)) // the same packet id
	newer := headtest.Receive(t, "message", dones)
	older(nil)
	p2.quiet()
	newer(nil)
	if ack := expect[*packets.PubackPacket](p2); ack.MessageID != 7 {
		t.Errorf("ack of %d", ack.MessageID)
	}
	p2.quiet() // once
}

func TestOnlyTheBackendDisplacesConnections(t *testing.T) {
	h := start(t, newBackend(), func(o *mqtt.Options) { o.Backend = &loadBackend{} }) // never does
	p1, p2 := &peer{t, h.dialAs(dev)}, &peer{t, h.dialAs(dev)}
	p1.quiet()
	p2.quiet()
}

func TestSubscriptionsOutliveTheConnectionWithoutCleanSession(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	connect := func(clean bool, present bool) (*peer, *session) {
		t.Helper()
		p, cp := h.dial(), connectPacket(dev)
		cp.CleanSession = clean
		p.send(cp)
		if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 0 || ack.SessionPresent != present {
			t.Fatalf("code %d, session present %v", ack.ReturnCode, ack.SessionPresent)
		}
		return p, headtest.Receive(t, "session", b.Sessions)
	}
	p, s := connect(false, false)
	p.subscribe(1, "devices/d1/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#")
	for _, want := range []string{"+c2d", "+methods", "+twinResponses"} {
		if got := headtest.Receive(t, "feature", s.Features); got != want {
			t.Errorf("feature %q, want %q", got, want)
		}
	}
	p.unsubscribe("$iothub/methods/POST/#")
	if got := headtest.Receive(t, "feature", s.Features); got != "-methods" {
		t.Errorf("feature %q", got)
	}
	p.Close()
	headtest.Receive(t, "close", s.Closed)

	p, s = connect(false, true)
	for _, want := range []string{"+c2d", "+twinResponses"} {
		if got := headtest.Receive(t, "stored feature", s.Features); got != want {
			t.Errorf("stored feature %q, want %q", got, want)
		}
	}
	outs, settled := outcomes()
	s.Client.Deliver("", &iothub.Message{Body: []byte("x")}, settled)
	got := expect[*packets.PublishPacket](p)
	if got.Qos != 1 || got.TopicName != "devices/d1/messages/devicebound/" {
		t.Errorf("got %v", got)
	}
	p.Close()
	if o := headtest.Receive(t, "outcome", outs); o != head.Lost {
		t.Errorf("outcome %v", o)
	}

	p, s = connect(true, false) // forgets
	p.subscribe(1, "devices/d1/messages/devicebound/#")
	headtest.Receive(t, "feature", s.Features)
	p.Close()
	headtest.Receive(t, "close", s.Closed)
	_, s = connect(false, false)
	headtest.Nothing(t, "feature", s.Features)
}

func TestWill(t *testing.T) {
	tests := []struct {
		name   string
		end    func(*hub, *peer, *session)
		wanted bool
	}{
		{"lost connection", func(_ *hub, p *peer, _ *session) { p.Close() }, true},
		{"goodbye", func(_ *hub, p *peer, _ *session) { p.send(packets.NewControlPacket(packets.Disconnect)) }, false},
		{"protocol error", func(_ *hub, p *peer, _ *session) { p.raw([]byte{0xf0, 0}) }, true},
		{"expired credentials", func(_ *hub, _ *peer, s *session) { s.Client.Disconnect(head.ErrExpired) }, true},
		{"displaced", func(h *hub, _ *peer, _ *session) { h.connect(dev) }, true},
		{"shutdown", func(h *hub, _ *peer, _ *session) { h.stop() }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend()
			h := start(t, b, nil)
			p, cp := h.dial(), connectPacket(dev)
			will("devices/d1/messages/events/a=b&$.cdid=forged", "gone", 1)(cp)
			cp.WillRetain = true
			p.send(cp)
			expect[*packets.ConnackPacket](p)
			s := headtest.Receive(t, "session", b.Sessions)
			tt.end(h, p, s)
			headtest.Receive(t, "close", s.Closed)
			if !tt.wanted {
				headtest.Nothing(t, "will", s.Messages)
				return
			}
			m := headtest.Receive(t, "will", s.Messages)
			if string(m.Body) != "gone" || fmt.Sprint(m.Properties) != "[{a b false} {iothub-MessageType Will false} {mqtt-retain true false}]" || len(m.System) != 0 {
				t.Errorf("will %q %v %v", m.Body, m.Properties, m.System)
			}
		})
	}
}

func TestBackendMayCallTheClientBeforeTheConnack(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	p, s := h.connect(dev)
	p.subscribe(1, "$iothub/twin/PATCH/properties/desired/#")
	p.Close()
	headtest.Receive(t, "close", s.Closed)
	early := make(chan head.Outcome, 1)
	b.Auth = func(head.Login) error { return nil }
	eb := &eager{b, early}
	h2 := start(t, newBackend(), func(o *mqtt.Options) { o.Backend = eb })
	p = h2.dial()
	p.send(connectPacket(dev))
	expect[*packets.ConnackPacket](p)
	if o := headtest.Receive(t, "outcome", early); o != head.Abandon {
		t.Errorf("outcome %v", o)
	}
}

// eager delivers from within Connect.
type eager struct {
	*backend
	early chan head.Outcome
}

func (e *eager) Connect(ctx context.Context, login head.Login, c head.Client) (head.Session, error) {
	c.Deliver("", &iothub.Message{}, func(o head.Outcome) bool {
		e.early <- o
		return true
	})
	c.DesiredChanged([]byte(`{"$version":1}`), 1)
	return e.backend.Connect(ctx, login, c)
}
