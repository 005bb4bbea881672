package amqp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// twinPeer is a client with both links of its twin.
type twinPeer struct {
	*peer
	s *session
	*goamqp.Sender
	*goamqp.Receiver
}

func (h *hub) twin(id iothub.Identity) *twinPeer {
	h.t.Helper()
	p := h.login(id)
	name := map[string]any{"com.microsoft:channel-correlation-id": "twin:1"}
	tp := &twinPeer{peer: p}
	tp.Sender = p.sender(amqp.Path(id)+"/twin", &goamqp.SenderOptions{Properties: name})
	tp.Receiver = p.receiver(amqp.Path(id)+"/twin", &goamqp.ReceiverOptions{Properties: name, Credit: 10})
	tp.s = headtest.Receive(h.t.(*testing.T), "session", h.b.Sessions)
	feature(h.t.(*testing.T), tp.s, "+twinResponses")
	return tp
}

func (p *twinPeer) ask(correlation any, operation, resource, body string) {
	p.t.Helper()
	m := &goamqp.Message{Properties: &goamqp.MessageProperties{CorrelationID: correlation}, Annotations: goamqp.Annotations{}}
	if operation != "" {
		m.Annotations["operation"] = operation
	}
	if resource != "" {
		m.Annotations["resource"] = resource
	}
	if body != "" {
		m.Data = [][]byte{[]byte(body)}
	}
	p.mustSend(p.Sender, m)
}

func (p *twinPeer) answer() (correlation any, status any, m *goamqp.Message) {
	p.t.Helper()
	m = p.receive(p.Receiver)
	if err := p.AcceptMessage(p.t.Context(), m); err != nil {
		p.t.Fatal(err)
	}
	return m.Properties.CorrelationID, m.Annotations["status"], m
}

func TestTwinRequests(t *testing.T) {
	const reported, notify = "/properties/reported", "/notifications/twin/properties/desired"
	tests := []struct {
		name, operation, resource, body string
		status                          int32
	}{
		{"get", "GET", "", " ", 200},
		{"get without body", "get", "", "", 200},
		{"patch", "PATCH", reported, `{"a":1}`, 204},
		{"patch that is no object", "PATCH", reported, `[]`, 400},
		{"patch of something else", "PATCH", "/properties/desired", `{}`, 400},
		{"subscribe", "PUT", notify, " ", 200},
		{"unsubscribe", "DELETE", notify, "", 200},
		{"unknown operation", "POST", "", "", 400},
		{"no operation", "", "", "", 400},
	}
	h := start(t, newBackend(), cloud)
	p := h.twin(dev)
	for i, tt := range tests {
		// As the SDKs write them: .NET's is no GUID.
		for _, id := range []any{fmt.Sprintf("Get%d", i), goamqp.UUID{1, byte(i)}, uint64(i)} {
			p.ask(id, tt.operation, tt.resource, tt.body)
			got, status, m := p.answer()
			if got != id || status != tt.status {
				t.Errorf("%s: correlation %T %v for %v, status %T %v", tt.name, got, got, id, status, status)
			}
			if body := m.GetData(); tt.status >= 400 && !json.Valid(body) {
				t.Errorf("%s: body %s", tt.name, body)
			}
			if version, ok := m.Annotations["version"]; (tt.status == 204) != ok || ok && version != int64(4) {
				t.Errorf("%s: version %T %v", tt.name, version, version)
			}
		}
	}
	p.ask("1", "GET", "", "")
	if _, _, m := p.answer(); string(m.GetData()) != `{"desired":{"k":1,"$version":12},"reported":{"$version":3}}` {
		t.Errorf("twin %s", m.GetData())
	}
}

func TestTwinErrors(t *testing.T) {
	tests := []struct {
		err         error
		cloud, edge int32
	}{
		{head.ErrInvalid, 400, 400}, {head.ErrTooLarge, 413, 400}, {head.ErrPrecondition, 412, 400}, {head.ErrNotFound, 404, 500},
		{head.ErrThrottled, 429, 429}, {head.ErrUnavailable, 503, 500}, {errors.New("disk"), 500, 500},
	}
	for flavor := range 2 {
		b := newBackend()
		var result error
		b.OnPatch = func(json.RawMessage, int64) (int64, error) { return 0, result }
		h := start(t, b, func(o *amqp.Options) { o.Flavor = amqp.Flavor(flavor) })
		p := h.twin(dev)
		for _, tt := range tests {
			result = tt.err
			p.ask("1", "PATCH", "/properties/reported", `{}`)
			want := tt.edge
			if flavor == int(amqp.Cloud) {
				want = tt.cloud
			}
			if _, status, _ := p.answer(); status != want {
				t.Errorf("%v, flavor %d: status %v, want %d", tt.err, flavor, status, want)
			}
		}
		h.stop()
	}
}

func TestDesiredChanges(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.twin(dev)
	headtest.Nothing(t, "feature", p.s.Features)
	p.ask("1", "PUT", "/notifications/twin/properties/desired", "")
	p.answer()
	feature(t, p.s, "+desiredChanges")
	p.s.Client.DesiredChanged([]byte(`{"k":2,"$version":13}`), 13)
	m := p.receive(p.Receiver)
	if m.Properties != nil && m.Properties.CorrelationID != nil || string(m.GetData()) != `{"k":2,"$version":13}` ||
		m.Annotations["resource"] != "/properties/desired" {
		t.Errorf("change %v %s", m.Properties, m.GetData())
	}
	p.ask("2", "DELETE", "/notifications/twin/properties/desired", "")
	feature(t, p.s, "-desiredChanges")
	if err := p.Receiver.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	feature(t, p.s, "-twinResponses")
	feature(t, p.s, "-desiredChanges")

	// An edge hub does not wait to be asked.
	edge := start(t, newBackend(), nil).twin(mod)
	feature(t, edge.s, "+desiredChanges")
}

func TestANewPartnerClosesTheOldPair(t *testing.T) {
	h := start(t, newBackend(), cloud)
	p := h.twin(dev)
	p.sender("/devices/d1/twin", &goamqp.SenderOptions{Properties: map[string]any{"com.microsoft:channel-correlation-id": "twin:2"}})
	if err := p.send(p.Sender, goamqp.NewMessage(nil)); condition(err) != "amqp:link:stolen" {
		t.Errorf("sender: %v", err)
	}
	if _, err := p.Receive(t.Context(), nil); condition(err) != "amqp:link:stolen" {
		t.Errorf("receiver: %v", err)
	}
}

func TestTwinRequestsAreBounded(t *testing.T) {
	b := newBackend()
	gate := make(chan struct{})
	b.OnTwin = func() (iothub.TwinProperties, error) {
		<-gate
		return iothub.TwinProperties{}, nil
	}
	h := start(t, b, cloud)
	p := h.twin(dev)
	const n = 40
	for i := range n {
		p.ask(fmt.Sprint(i), "GET", "", "")
	}
	refused := 0
	for range n - 18 { // at most one is done and 16 wait, and maybe another 16
		_, status, _ := p.answer()
		if status == int32(429) {
			refused++
		}
		if refused == 1 {
			close(gate)
		}
	}
	if refused == 0 {
		t.Error("none is refused")
	}
}
