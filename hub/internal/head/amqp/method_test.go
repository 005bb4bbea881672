package amqp_test

import (
	"encoding/json"
	"fmt"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
)

type methodAnswer struct {
	status  int
	payload string
}

func invoke(s *session, name, payload string) (chan methodAnswer, func()) {
	c := make(chan methodAnswer, 2)
	cancel := s.Client.InvokeMethod(name, json.RawMessage(payload), func(status int, p json.RawMessage) { c <- methodAnswer{status, string(p)} })
	return c, cancel
}

func TestMethods(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(mod)
	sender := p.sender("/devices/d1/modules/m1/methods/devicebound", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	receiver := p.receiver("/devices/d1/modules/m1/methods/devicebound", &goamqp.ReceiverOptions{Credit: 10})
	feature(t, s, "+methods")
	status := func(v any) map[string]any { return map[string]any{"IoThub-status": v} }
	tests := []struct {
		name    string
		payload string
		app     map[string]any
		body    []byte
		asUUID  bool
		want    methodAnswer
	}{
		{"uuid", `{"a":1}`, status(int32(207)), []byte(`{"b":2}`), true, methodAnswer{207, `{"b":2}`}},
		{"text", `null`, status(int64(200)), nil, false, methodAnswer{200, ""}},
		{"unsigned", ``, status(uint8(201)), []byte(`"x"`), false, methodAnswer{201, `"x"`}},
		{"no status", `1`, nil, []byte(`1`), true, methodAnswer{400000, `1`}},
		{"no JSON", `1`, status(int32(200)), []byte(`x y`), true, methodAnswer{200, `"x y"`}},
		{"too large", `1`, status(int32(200)), make([]byte, 128<<10+1), true, methodAnswer{413, ""}},
	}
	for _, tt := range tests {
		answer, _ := invoke(s, "do "+tt.name, tt.payload)
		m := p.receive(receiver)
		if m.ApplicationProperties["IoThub-methodname"] != "do "+tt.name {
			t.Errorf("%s: properties %v", tt.name, m.ApplicationProperties)
		}
		if got := string(m.GetData()); got != tt.payload && !(tt.payload == "" && got == "null") {
			t.Errorf("%s: payload %s", tt.name, got)
		}
		id, ok := m.Properties.CorrelationID.(string)
		tag, isGUID := amqp.LockTag(id)
		if !ok || !isGUID {
			t.Fatalf("%s: correlation id %T %v", tt.name, m.Properties.CorrelationID, m.Properties.CorrelationID)
		}
		reply := &goamqp.Message{Properties: &goamqp.MessageProperties{CorrelationID: id}, ApplicationProperties: tt.app}
		if tt.asUUID {
			// From the order of .NET back to that of the network.
			reply.Properties.CorrelationID = goamqp.UUID{tag[3], tag[2], tag[1], tag[0], tag[5], tag[4], tag[7], tag[6],
				tag[8], tag[9], tag[10], tag[11], tag[12], tag[13], tag[14], tag[15]}
		}
		if tt.body != nil {
			reply.Data = [][]byte{tt.body}
		}
		p.mustSend(sender, reply)
		if got := headtest.Receive(t, tt.name, answer); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		p.mustSend(sender, reply) // a second answer is nobody's
		headtest.Nothing(t, "second answer", answer)
	}
}

func TestMethodsThatNobodyAnswers(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	p := h.login(dev)
	sender := p.sender("/devices/d1/methods/devicebound", nil)
	s := headtest.Receive(t, "session", b.Sessions)
	answer, cancel := invoke(s, "x", "1") // no link to send it on
	cancel()
	receiver := p.receiver("/devices/d1/methods/devicebound", &goamqp.ReceiverOptions{Credit: 300})
	feature(t, s, "+methods")
	_, cancel = invoke(s, "y", "1")
	m := p.receive(receiver)
	cancel()
	p.mustSend(sender, &goamqp.Message{Properties: &goamqp.MessageProperties{CorrelationID: m.Properties.CorrelationID}})
	p.mustSend(sender, &goamqp.Message{Properties: &goamqp.MessageProperties{CorrelationID: "no guid"}})
	p.mustSend(sender, goamqp.NewMessage(nil))
	headtest.Nothing(t, "answer", answer)
	for i := range 300 { // no more than 256 are open
		invoke(s, fmt.Sprint(i), "1")
	}
	for i := range 256 {
		if m := p.receive(receiver); m.ApplicationProperties["IoThub-methodname"] != fmt.Sprint(i) {
			t.Fatalf("method %d is %v", i, m.ApplicationProperties)
		}
	}
	if m := receiver.Prefetched(); m != nil {
		t.Errorf("one more: %v", m.ApplicationProperties)
	}
}
