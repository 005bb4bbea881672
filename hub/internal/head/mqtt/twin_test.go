package mqtt_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	twinRes  = "$iothub/twin/res/#"
	twinGet  = "$iothub/twin/GET/?$rid="
	reported = "$iothub/twin/PATCH/properties/reported/"
)

func TestTwinRequests(t *testing.T) {
	var gotPatch string
	var gotVersion int64
	result := func(version int64, err error) func(json.RawMessage, int64) (int64, error) {
		return func(p json.RawMessage, v int64) (int64, error) {
			gotPatch, gotVersion = string(p), v
			return version, err
		}
	}
	type want struct {
		topic string
		body  string // "error": a JSON error with an errorCode
	}
	tests := []struct {
		name        string
		topic, body string
		patch       func(json.RawMessage, int64) (int64, error)
		twinErr     error
		edge, cloud want
	}{
		{name: "get", topic: twinGet + "%41", body: " ",
			edge:  want{"200/?$rid=%41", `{"desired":{"k":1,"$version":12},"reported":{"$version":3}}`},
			cloud: want{"200/?$rid=%41", `{"desired":{"k":1,"$version":12},"reported":{"$version":3}}`}},
		{name: "get fails", topic: twinGet + "1", twinErr: head.ErrUnavailable, edge: want{"500/?$rid=1", "error"}, cloud: want{"503/?$rid=1", "error"}},
		{name: "gone", topic: twinGet + "1", twinErr: head.ErrNotFound, edge: want{"500/?$rid=1", "error"}, cloud: want{"404/?$rid=1", "error"}},
		{name: "patch", topic: reported + "?$rid=1", body: `{"a":null}`, patch: result(7, nil), edge: want{"204/?$rid=1&$version=7", ""}, cloud: want{"204/?$rid=1&$version=7", ""}},
		{name: "patch, version unknown yet", topic: reported + "?$rid=1&$version=6", body: `{"a":1}`, patch: result(0, nil), edge: want{"204/?$rid=1", ""}, cloud: want{"204/?$rid=1", ""}},
		{name: "no object", topic: reported + "?$rid=1", body: `[1]`, patch: result(1, nil), edge: want{"400/?$rid=1", "error"}, cloud: want{"400/?$rid=1", "error"}},
		{name: "null", topic: reported + "?$rid=1", body: `null`, patch: result(1, nil), edge: want{"400/?$rid=1", "error"}, cloud: want{"400/?$rid=1", "error"}},
		{name: "no JSON", topic: reported + "?$rid=1", body: `{`, patch: result(1, nil), edge: want{"400/?$rid=1", "error"}, cloud: want{"400/?$rid=1", "error"}},
		{name: "invalid", topic: reported + "?$rid=1", body: `{}`, patch: result(0, fmt.Errorf("depth: %w", head.ErrInvalid)), edge: want{"400/?$rid=1", "error"}, cloud: want{"400/?$rid=1", "error"}},
		{name: "too large", topic: reported + "?$rid=1", body: `{}`, patch: result(0, head.ErrTooLarge), edge: want{"400/?$rid=1", "error"}, cloud: want{"413/?$rid=1", "error"}},
		{name: "precondition", topic: reported + "?$rid=1", body: `{}`, patch: result(0, head.ErrPrecondition), edge: want{"400/?$rid=1", "error"}, cloud: want{"412/?$rid=1", "error"}},
		{name: "throttled", topic: reported + "?$rid=1", body: `{}`, patch: result(0, head.ErrThrottled), edge: want{"429/?$rid=1", "error"}, cloud: want{"429/?$rid=1", "error"}},
		{name: "internal", topic: reported + "?$rid=1", body: `{}`, patch: result(0, errors.New("secret text")), edge: want{"500/?$rid=1", "error"}, cloud: want{"500/?$rid=1", "error"}},
	}
	for _, tt := range tests {
		for _, flavor := range []mqtt.Flavor{mqtt.Edge, mqtt.Cloud} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, flavor), func(t *testing.T) {
				b := newBackend()
				b.OnPatch = tt.patch
				if tt.twinErr != nil {
					b.OnTwin = func() (iothub.TwinProperties, error) { return iothub.TwinProperties{}, tt.twinErr }
				}
				p, _ := start(t, b, func(o *mqtt.Options) { o.Flavor = flavor }).connect(dev)
				p.subscribe(0, twinRes)
				p.send(publish(tt.topic, tt.body, 1, 3))
				w := tt.edge
				if flavor == mqtt.Cloud {
					w = tt.cloud
				}
				var pk *packets.PublishPacket
				for range 2 { // PUBACK and answer come in any order
					switch v := expect[packets.ControlPacket](p).(type) {
					case *packets.PubackPacket:
					case *packets.PublishPacket:
						pk = v
					}
				}
				if pk == nil || pk.TopicName != "$iothub/twin/res/"+w.topic || pk.Qos != 0 {
					t.Fatalf("got %v, want %s", pk, w.topic)
				}
				if w.body != "error" {
					if string(pk.Payload) != w.body {
						t.Errorf("body %q, want %q", pk.Payload, w.body)
					}
					return
				}
				var e struct {
					ErrorCode                         int
					TrackingID, Message, TimestampUTC string
				}
				if err := json.Unmarshal(pk.Payload, &e); err != nil || e.ErrorCode == 0 || e.TrackingID == "" || e.Message == "" || e.TimestampUTC == "" {
					t.Errorf("body %q: %v", pk.Payload, err)
				}
				if strings.Contains(e.Message, "secret") {
					t.Error("internal error text reaches the client")
				}
			})
		}
	}
	if gotPatch != "{}" || gotVersion != 0 {
		t.Errorf("last patch %q if %d", gotPatch, gotVersion)
	}
}

func TestPatchVersionIsAPrecondition(t *testing.T) {
	b := newBackend()
	versions := make(chan int64, 1)
	b.OnPatch = func(_ json.RawMessage, v int64) (int64, error) { versions <- v; return 7, nil }
	p, _ := start(t, b, nil).connect(dev)
	p.send(publish(reported+"?$version=6&$rid=1", "{}", 0, 0))
	if v := headtest.Receive(t, "patch", versions); v != 6 {
		t.Errorf("version %d", v)
	}
	p.quiet() // not subscribed to answers: none
}

func TestPatchWithoutRequestIDIsAcknowledgedWhenDone(t *testing.T) {
	b := newBackend()
	begun, finish := make(chan string, 4), make(chan bool)
	b.OnPatch = func(p json.RawMessage, _ int64) (int64, error) { begun <- string(p); <-finish; return 1, nil }
	p, _ := start(t, b, nil).connect(dev)
	p.subscribe(1, twinRes)
	p.send(publish(reported, `{"a":1}`, 1, 1), publish(reported, `{"a":2}`, 1, 2))
	if got := headtest.Receive(t, "patch", begun); got != `{"a":1}` {
		t.Errorf("first patch %s", got)
	}
	headtest.Nothing(t, "second patch beside the first", begun)
	p.quiet()
	for id := uint16(1); id <= 2; id++ {
		finish <- true
		if ack := expect[*packets.PubackPacket](p); ack.MessageID != id {
			t.Errorf("ack of %d", ack.MessageID)
		}
	}
	p.quiet()
}

func TestTooManyTwinRequestsAreThrottled(t *testing.T) {
	b := newBackend()
	begun, finish := make(chan bool, 32), make(chan bool)
	b.OnTwin = func() (iothub.TwinProperties, error) { begun <- true; <-finish; return iothub.TwinProperties{}, nil }
	p, _ := start(t, b, nil).connect(dev)
	p.subscribe(0, twinRes)
	p.send(publish(twinGet+"0", "", 0, 0))
	headtest.Receive(t, "first request", begun)
	for i := 1; i < 18; i++ {
		p.send(publish(fmt.Sprint(twinGet, i), "", 0, 0))
	}
	pk := expect[*packets.PublishPacket](p)
	if pk.TopicName != "$iothub/twin/res/429/?$rid=17" {
		t.Errorf("got %s", pk.TopicName)
	}
	close(finish)
	for i := range 17 {
		if pk := expect[*packets.PublishPacket](p); pk.TopicName != fmt.Sprint("$iothub/twin/res/200/?$rid=", i) || string(pk.Payload) != `{"desired":{},"reported":{}}` {
			t.Errorf("got %s %s", pk.TopicName, pk.Payload)
		}
	}
}

func TestDesiredChangesGoOnlyToSubscribers(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(dev)
	s.Client.DesiredChanged([]byte(`{"a":1,"$version":2}`), 2)
	p.quiet()
	p.subscribe(0, "$iothub/twin/PATCH/properties/desired/#")
	s.Client.DesiredChanged([]byte(`{"a":null,"$version":3}`), 3)
	pk := expect[*packets.PublishPacket](p)
	if pk.TopicName != "$iothub/twin/PATCH/properties/desired/?$version=3" || string(pk.Payload) != `{"a":null,"$version":3}` || pk.Qos != 0 {
		t.Errorf("got %v %s", pk, pk.Payload)
	}
}

type answer struct {
	status  int
	payload string
}

func TestDirectMethods(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(dev)
	answers := make(chan answer, 16)
	record := func(status int, payload json.RawMessage) { answers <- answer{status, string(payload)} }
	s.Client.InvokeMethod("early", nil, record)
	p.quiet() // not subscribed
	p.subscribe(0, "$iothub/methods/POST/#")
	headtest.Receive(t, "feature", s.Features)

	invoke := func(payload string) (rid string, cancel func()) {
		t.Helper()
		cancel = s.Client.InvokeMethod("do.it", json.RawMessage(payload), record)
		pk := expect[*packets.PublishPacket](p)
		rid, ok := strings.CutPrefix(pk.TopicName, "$iothub/methods/POST/do.it/?$rid=")
		if payload == "" {
			payload = "null"
		}
		if !ok || rid == "" || string(pk.Payload) != payload || pk.Qos != 0 {
			t.Fatalf("got %v %s", pk, pk.Payload)
		}
		return rid, cancel
	}
	respond := func(status, rid, body string) {
		p.send(publish("$iothub/methods/res/"+status+"/?$rid="+rid, body, 0, 0))
	}
	tests := []struct {
		name, request, status, body string
		want                        answer
	}{
		{"with payload", `{"a":1}`, "200", `{"b":2}`, answer{200, `{"b":2}`}},
		{"without", "", "404", "", answer{404, ""}},
		{"unreadable status", "", "x", "", answer{400000, ""}},
		{"no JSON", "", "200", `a "b`, answer{200, `"a \"b"`}},
		{"too large", "", "200", `"` + strings.Repeat("x", 128<<10) + `"`, answer{413, ""}},
	}
	for _, tt := range tests {
		rid, _ := invoke(tt.request)
		respond(tt.status, rid, tt.body)
		if got := headtest.Receive(t, "answer", answers); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		respond(tt.status, rid, tt.body) // again: ignored
	}
	first, _ := invoke("1")
	second, cancel := invoke("2")
	cancel()
	respond("200", second, "2")
	respond("200", "nonsense", "3")
	respond("200", first, "1")
	if got := headtest.Receive(t, "answer", answers); got != (answer{200, "1"}) {
		t.Errorf("answer %v", got)
	}
	cancel()
	p.quiet()
	headtest.Nothing(t, "answer", answers)
}

func TestMethodAnswerOverQoS1IsAcknowledged(t *testing.T) {
	p, _ := start(t, newBackend(), nil).connect(dev)
	p.send(publish("$iothub/methods/res/200/?$rid=1", "{}", 1, 8))
	if ack := expect[*packets.PubackPacket](p); ack.MessageID != 8 {
		t.Errorf("ack of %d", ack.MessageID)
	}
}
