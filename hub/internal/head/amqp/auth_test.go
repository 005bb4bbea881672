package amqp_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func cloud(o *amqp.Options) { o.Flavor = amqp.Cloud }

func TestPutTokenAnswersWithTheTypeOfTheMessageID(t *testing.T) {
	h := start(t, newBackend(), nil)
	p := h.dial(nil)
	for _, id := range []any{"text", uint64(7), goamqp.UUID{15: 1}, nil} {
		status, answer := p.putToken(token(dev, time.Now().Add(time.Hour)), id)
		if got := answer.Properties.CorrelationID; status != 200 || got != id {
			t.Errorf("message-id %T: status %d, correlation-id %T %v", id, status, got, got)
		}
		if s, ok := answer.ApplicationProperties["status-description"].(string); !ok || s == "" {
			t.Error("no status-description")
		}
	}
}

func TestTypesOfTokens(t *testing.T) {
	h := start(t, newBackend(), nil)
	p := h.dial(nil)
	for kind, want := range map[string]int32{
		"servicebus.windows.net:sastoken": 200, "azure-devices.net:sastoken": 200, "Azure-Devices.NET:SasToken": 200,
		"jwt": 400, "Bearer": 400, "": 400,
	} {
		if status, _ := p.putTokenAs(kind, token(dev, time.Now().Add(time.Hour)), "1", headtest.Patience); status != want {
			t.Errorf("type %q: status %d", kind, status)
		}
	}
}

func TestPutTokenStatus(t *testing.T) {
	good := token(dev, time.Now().Add(time.Hour))
	tests := []struct {
		name, token string
		err         error
		edge, cloud int32
	}{
		{"holds", good, nil, 200, 200},
		{"does not hold", good, fmt.Errorf("%w: signature", head.ErrUnauthorized), 401, 401},
		{"of nobody", good, head.ErrNotFound, 404, 404},
		{"cannot be decided", good, head.ErrUnavailable, 200, 503}, // an edge hub lets the first link decide
		{"backend fails", good, errors.New("disk"), 500, 500},
		{"malformed", "Bearer x", nil, 400, 400},
		{"no audience", "SharedAccessSignature sr=%2f&sig=AAAA&se=9999999999", nil, 400, 400},
	}
	for _, tt := range tests {
		for flavor, want := range map[amqp.Flavor]int32{amqp.Edge: tt.edge, amqp.Cloud: tt.cloud} {
			b := newBackend()
			b.Auth = func(head.Login) error { return tt.err }
			h := start(t, b, func(o *amqp.Options) { o.Flavor = flavor })
			if status, _ := h.dial(nil).putToken(tt.token, "1"); status != want {
				t.Errorf("%s, flavor %d: status %d, want %d", tt.name, flavor, status, want)
			}
			h.stop()
		}
	}
}

func TestAttachNeedsATokenOfTheIdentity(t *testing.T) {
	other := iothub.DeviceIdentity("d2")
	tests := []struct {
		name  string
		token iothub.Identity
		link  string
		ok    bool
	}{
		{"its own", dev, "/devices/d1/messages/events", true},
		{"its device's", dev, "/devices/d1/modules/m1/messages/events", true},
		{"a policy's", iothub.Identity{}, "/devices/d1/messages/events", true},
		{"another device's", other, "/devices/d1/messages/events", false},
		{"a module's, for its device", mod, "/devices/d1/messages/events", false},
		{"a module's, for another module", mod, "/devices/d1/modules/m2/messages/events", false},
	}
	for _, tt := range tests {
		b := newBackend()
		h := start(t, b, cloud)
		p := h.login(tt.token)
		_, err := p.s.NewSender(t.Context(), tt.link, nil)
		if !tt.ok {
			if condition(err) != "amqp:unauthorized-access" {
				t.Errorf("%s: %v", tt.name, err)
			}
			headtest.Nothing(t, tt.name, b.Sessions)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		s := headtest.Receive(t, "session", b.Sessions)
		if _, id := amqp.ParseAddress(tt.link); s.Login.Identity != id || s.Login.Token == "" {
			t.Errorf("%s: login %v", tt.name, s.Login.Identity)
		}
	}
}

func TestWithoutATokenNothingIsAttached(t *testing.T) {
	h := start(t, newBackend(), cloud)
	p := h.dial(goamqp.SASLTypeAnonymous())
	for address, want := range map[string]string{
		"/devices/d1/messages/events":        "amqp:unauthorized-access",
		"/messages/devicebound":              "amqp:not-found", // no service side here
		"/devices/d1/streams":                "amqp:not-found",
		"/devices/d1/messages/devicebound":   "amqp:not-allowed", // not for senders
		"/devices/d1/modules/m1/streams/new": "amqp:not-found",
	} {
		if _, err := p.s.NewSender(t.Context(), address, nil); condition(err) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := p.s.NewReceiver(t.Context(), "/devices/d1/messages/events", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("events of a device: %v", err)
	}
	edge := start(t, newBackend(), nil).dial(nil)
	if _, err := edge.s.NewSender(t.Context(), "/devices/d1/streams", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("edge: %v", err)
	}
}

func TestRefusedByTheBackend(t *testing.T) {
	for err, want := range map[error]string{
		head.ErrUnauthorized: "amqp:unauthorized-access", head.ErrNotFound: "amqp:not-found",
		head.ErrUnavailable: "amqp:link:detach-forced", errors.New("disk"): "amqp:internal-error",
	} {
		b := newBackend()
		h := start(t, b, nil)
		p := h.login(dev)
		b.SetAuth(func(head.Login) error { return err })
		if _, got := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); condition(got) != want {
			t.Errorf("%v: %v", err, got)
		}
		b.SetAuth(nil)
		p.sender("/devices/d1/messages/events", nil) // once refused is not for ever
	}
}

func TestPlainBindsTheConnection(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.dial(goamqp.SASLTypePlain("d1/modules/m1@sas.h", "SharedAccessSignature x"))
	p.sender("/devices/d1/modules/m1/messages/events", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	if s.Login.Identity != mod || s.Login.Token != "SharedAccessSignature x" {
		t.Errorf("login %v", s.Login.Identity)
	}
	for _, address := range []string{"/devices/d1/messages/events", "/devices/d1/modules/m2/messages/events", "/devices/d2/messages/events"} {
		if _, err := p.s.NewSender(t.Context(), address, nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := p.s.NewSender(t.Context(), "$cbs", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("$cbs: %v", err)
	}
}

func TestPlainIsRefused(t *testing.T) {
	b := newBackend()
	b.Auth = func(head.Login) error { return head.ErrUnauthorized }
	h := start(t, b, cloud)
	for _, user := range []string{"d1@sas.h", "nobody", "service@sas.root.h"} {
		if _, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, &goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain(user, "x")}); err == nil {
			t.Errorf("%s comes in", user)
		}
	}
}

func TestRenewalKeepsTheLinks(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	sender := p.sender("/devices/d1/messages/events", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	fresh := token(dev, time.Now().Add(2*time.Hour))
	if status, _ := p.putToken(fresh, "2"); status != 200 {
		t.Fatalf("status %d", status)
	}
	if l := headtest.Receive(t, "renewal", s.Renewed); l.Token != fresh || l.Identity != dev {
		t.Errorf("renewed with another login")
	}
	p.mustSend(sender, goamqp.NewMessage([]byte("x")))
	headtest.Receive(t, "message", s.Messages)

	// A token that does not hold disturbs nothing.
	b.SetAuth(func(head.Login) error { return head.ErrUnauthorized })
	if status, _ := p.putToken(token(dev, time.Now().Add(3*time.Hour)), "3"); status != 401 {
		t.Errorf("status %d", status)
	}
	b.SetAuth(nil)
	p.mustSend(sender, goamqp.NewMessage([]byte("y")))
	headtest.Receive(t, "message", s.Messages)
	headtest.Nothing(t, "renewal", s.Renewed)
	headtest.Nothing(t, "close", s.Closed)
	headtest.Nothing(t, "session", b.Sessions)
}

func TestExpiryEndsTheLinksOfOneIdentity(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	other := iothub.DeviceIdentity("d2")
	p.putToken(token(other, time.Now().Add(time.Hour)), "2")
	expired, alive := p.sender("/devices/d1/messages/events", nil), p.sender("/devices/d2/messages/events", nil)
	s1, s2 := headtest.Receive(t, "session", b.Sessions), headtest.Receive(t, "session", b.Sessions)
	s1.Client.Disconnect(fmt.Errorf("%w: at noon", head.ErrExpired))
	if err := headtest.Receive(t, "close", s1.Closed); !errors.Is(err, head.ErrExpired) {
		t.Errorf("closed with %v", err)
	}
	if err := p.send(expired, goamqp.NewMessage([]byte("x"))); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("expired: %v", err)
	}
	p.mustSend(alive, goamqp.NewMessage([]byte("x")))
	headtest.Receive(t, "message", s2.Messages)
	if _, err := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("without a new token: %v", err)
	}
	p.putToken(token(dev, time.Now().Add(2*time.Hour)), "3")
	p.sender("/devices/d1/messages/events", nil)
}

func TestTakeover(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	alone := h.login(dev)
	link := alone.sender("/devices/d1/messages/events", nil)
	first := headtest.Receive(t, "session", b.Sessions)

	// Whoever has nobody else on the connection loses the connection.
	shared := h.login(dev)
	shared.putToken(token(iothub.DeviceIdentity("d2"), time.Now().Add(time.Hour)), "2")
	taken, alive := shared.sender("/devices/d1/messages/events", nil), shared.sender("/devices/d2/messages/events", nil)
	if err := headtest.Receive(t, "close", first.Closed); !errors.Is(err, head.ErrReplaced) {
		t.Errorf("closed with %v", err)
	}
	if err := alone.send(link, goamqp.NewMessage(nil)); condition(err) != "amqp:connection:forced" {
		t.Errorf("first: %v", err)
	}
	select {
	case <-alone.Done():
	case <-time.After(headtest.Patience):
		t.Error("the first connection stays open")
	}

	// Others on the connection stay.
	second, third := headtest.Receive(t, "session", b.Sessions), headtest.Receive(t, "session", b.Sessions)
	h.login(dev).sender("/devices/d1/messages/events", nil)
	headtest.Receive(t, "session", b.Sessions)
	if err := headtest.Receive(t, "close", second.Closed); !errors.Is(err, head.ErrReplaced) {
		t.Errorf("closed with %v", err)
	}
	if err := shared.send(taken, goamqp.NewMessage(nil)); condition(err) != "amqp:link:stolen" {
		t.Errorf("second: %v", err)
	}
	shared.mustSend(alive, goamqp.NewMessage(nil))
	headtest.Nothing(t, "close", third.Closed)
}

func TestTakeoverLeavesThoseWhoHaveYetToAttach(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	p.putToken(token(iothub.DeviceIdentity("d2"), time.Now().Add(time.Hour)), "2")
	p.sender("/devices/d1/messages/events", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	h.login(dev).sender("/devices/d1/messages/events", nil)
	headtest.Receive(t, "close", s.Closed)
	p.sender("/devices/d2/messages/events", nil)
}

func TestOnBehalfOf(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	actor := iothub.ModuleIdentity("edge1", "$edgeHub")
	p := h.login(actor)
	chain := &goamqp.SenderOptions{Properties: map[string]any{"com.microsoft:auth-chain": "d1;edge1", "com.microsoft:client-version": "sdk/1"}}
	p.sender("/devices/d1/messages/events", chain)
	s := headtest.Receive(t, "session", b.Sessions)
	if s.Login.Identity != dev || s.Login.AuthChain != "d1;edge1" || s.Login.Product != "sdk/1" || s.Login.Token == "" {
		t.Errorf("login of %v with chain %q, product %q", s.Login.Identity, s.Login.AuthChain, s.Login.Product)
	}
	// The actor's new token is that of all for whom it speaks.
	fresh := token(actor, time.Now().Add(2*time.Hour))
	p.putToken(fresh, "2")
	if l := headtest.Receive(t, "renewal", s.Renewed); l.Token != fresh || l.AuthChain != "d1;edge1" {
		t.Error("renewed with another login")
	}
	// A chain that ends with somebody who has shown no token counts for nothing.
	chain.Properties["com.microsoft:auth-chain"] = "d2;edge2"
	if _, err := p.s.NewSender(t.Context(), "/devices/d2/messages/events", chain); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("foreign chain: %v", err)
	}
}

func TestTheModelMayComeWithALaterLink(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	p.receiver("/devices/d1/messages/devicebound", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	p.sender("/devices/d1/messages/events", &goamqp.SenderOptions{Properties: map[string]any{"com.microsoft:model-id": "dtmi:x;1"}})
	if l := headtest.Receive(t, "renewal", s.Renewed); l.ModelID != "dtmi:x;1" || l.Token != s.Login.Token {
		t.Errorf("model %q", l.ModelID)
	}
}

func TestHundredDevicesOnOneConnection(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.dial(nil)
	links := make([]*goamqp.Sender, 100)
	sessions := make(map[string]*session)
	for i := range links {
		id := iothub.DeviceIdentity(fmt.Sprintf("d%d", i))
		if status, _ := p.putToken(token(id, time.Now().Add(time.Hour)), "1"); status != 200 {
			t.Fatalf("status %d", status)
		}
		s, err := p.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		// The .NET SDK names its links the same for all devices.
		if links[i], err = s.NewSender(t.Context(), "/devices/"+id.Device+"/messages/events", &goamqp.SenderOptions{Name: "TelemetrySenderLink"}); err != nil {
			t.Fatal(err)
		}
		sessions[id.Device] = headtest.Receive(t, "session", b.Sessions)
	}
	sessions["d50"].Client.Disconnect(head.ErrExpired)
	for i, l := range links {
		err := p.send(l, goamqp.NewMessage([]byte("x")))
		if failed := err != nil; failed != (i == 50) {
			t.Errorf("device %d: %v", i, err)
		}
	}
	for name, s := range sessions {
		if name != "d50" {
			headtest.Receive(t, "message of "+name, s.Messages)
		}
	}
}

func TestAnIdentityLeavesWithItsLastLink(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	one, two := p.sender("/devices/d1/messages/events", nil), p.sender("/devices/d1/twin", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	if err := one.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	headtest.Nothing(t, "close", s.Closed)
	if err := two.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := headtest.Receive(t, "close", s.Closed); err != nil {
		t.Errorf("closed with %v", err)
	}
	p.sender("/devices/d1/messages/events", nil) // its token still counts
	headtest.Receive(t, "session", b.Sessions)
}
