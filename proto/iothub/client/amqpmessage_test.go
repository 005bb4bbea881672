package client

import (
	"reflect"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestTelemetryOnTheWire(t *testing.T) {
	m := &iothub.Message{Body: []byte("body")}
	for _, p := range [][2]string{
		{iothub.MessageID, "m1"}, {iothub.CorrelationID, "c1"}, {iothub.UserID, "u1"}, {iothub.To, "t1"},
		{iothub.ContentType, "text/plain"}, {iothub.ContentEncoding, "utf-8"}, {iothub.AbsoluteExpiryTime, "2026-11-28T20:00:00.5Z"},
		{iothub.OutputName, "out"}, {iothub.MessageSchema, "s1"}, {iothub.CreationTime, "2026-11-28T19:00:00Z"},
		{iothub.InterfaceID, "urn:x"}, {iothub.ComponentName, "comp"}, {iothub.DiagnosticID, "d1"}, {iothub.CorrelationContext, "ctx"},
		// What only hubs say is not sent.
		{iothub.ConnectionDeviceID, "dev"}, {iothub.ConnectionModuleID, "mod"}, {iothub.InputName, "in"}, {iothub.Ack, "full"},
		{iothub.EnqueuedTime, "2026-11-28T19:00:00Z"}, {iothub.LockToken, "l"}, {iothub.EdgeMessageID, "e"},
	} {
		m.System.Set(p[0], p[1])
	}
	m.Properties.Set("p", "v")
	m.Properties.Set("empty", "")
	m.Properties.SetNull("null")
	m.Properties.Set("iothub-outputname", "forged")
	m.Properties.Set("iothub-ack", "kept: towards a hub it means nothing")

	raw, err := encodeTelemetry(m).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got amqp.Message
	if err := got.UnmarshalBinary(raw); err != nil {
		t.Fatal(err)
	}
	p := got.Properties
	if p.MessageID != "m1" || p.CorrelationID != "c1" || string(p.UserID) != "u1" || *p.To != "t1" || *p.ContentType != "text/plain" ||
		*p.ContentEncoding != "utf-8" || !p.AbsoluteExpiryTime.Equal(time.Date(2026, 11, 28, 20, 0, 0, 5e8, time.UTC)) || string(got.GetData()) != "body" {
		t.Errorf("properties %+v", p)
	}
	if want := map[string]any{
		"p": "v", "empty": "", "null": nil, "iothub-outputname": "out", "iothub-message-schema": "s1",
		"iothub-creation-time-utc": "2026-11-28T19:00:00Z", "iothub-ack": "kept: towards a hub it means nothing",
	}; !reflect.DeepEqual(got.ApplicationProperties, want) {
		t.Errorf("application properties %v", got.ApplicationProperties)
	}
	if want := (amqp.Annotations{
		"iothub-interface-id": "urn:x", "dt-subject": "comp", "Diagnostic-Id": "d1", "Correlation-Context": "ctx",
	}); !reflect.DeepEqual(got.Annotations, want) {
		t.Errorf("annotations %v", got.Annotations)
	}
}

func TestExpiryThatIsNoTimeIsNotSent(t *testing.T) {
	m := &iothub.Message{}
	m.System.Set(iothub.AbsoluteExpiryTime, "soon")
	if p := encodeTelemetry(m).Properties; p.AbsoluteExpiryTime != nil {
		t.Errorf("sent %v", p.AbsoluteExpiryTime)
	}
}

func TestMessagesFromTheWire(t *testing.T) {
	when := time.Date(2026, 11, 28, 20, 0, 0, 0, time.UTC)
	word, encoding := "application/json", "utf-8"
	uuid := amqp.UUID{1, 2, 3, 15: 4}
	in := &amqp.Message{
		Properties: &amqp.MessageProperties{
			MessageID: uuid, CorrelationID: uint64(7), UserID: []byte("u"), ContentType: &word, ContentEncoding: &encoding, AbsoluteExpiryTime: &when,
		},
		Annotations: amqp.Annotations{
			"x-opt-input-name": "in", "iothub-connection-device-id": "dev", "iothub-connection-module-id": "mod", "iothub-enqueuedtime": when,
			"iothub-deliverycount": uint8(3), "x-opt-sequence-number": uint64(9), "x-opt-lock-token": "lock", "unknown": "x",
		},
		ApplicationProperties: map[string]any{
			"text": "v", "null": nil, "number": int32(-5), "truth": true, "iothub-ack": "full", "iothub-message-schema": "s",
		},
		Data: [][]byte{[]byte("two "), []byte("parts")},
	}
	m, input := decodeMessage(in)
	if input != "in" || string(m.Body) != "two parts" {
		t.Errorf("input %q, body %q", input, m.Body)
	}
	for name, want := range map[string]string{
		iothub.MessageID: "01020300-0000-0000-0000-000000000004", iothub.CorrelationID: "7", iothub.UserID: "u",
		iothub.ContentType: word, iothub.ContentEncoding: encoding, iothub.AbsoluteExpiryTime: "2026-11-28T20:00:00Z",
		iothub.ConnectionDeviceID: "dev", iothub.ConnectionModuleID: "mod", iothub.EnqueuedTime: "2026-11-28T20:00:00Z",
		iothub.DeliveryCount: "3", iothub.SequenceNumber: "9", iothub.LockToken: "lock", iothub.Ack: "full", iothub.MessageSchema: "s",
	} {
		if got := m.System.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	null, ok := m.Properties.Lookup("null")
	if len(m.Properties) != 4 || m.Properties.Get("text") != "v" || m.Properties.Get("number") != "-5" || m.Properties.Get("truth") != "true" || !ok || !null.Null {
		t.Errorf("properties %v", m.Properties)
	}
}

func TestIDsInAddresses(t *testing.T) {
	l := &amqpLink{o: &Options{Identity: iothub.ModuleIdentity("d%1#?/", "$edgeHub")}}
	if got, want := l.address("/twin"), "/devices/d%251%23%3F%2F/modules/$edgeHub/twin"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestIDsOfMethodCallsKeepTheirType(t *testing.T) {
	for _, id := range []any{"a string", amqp.UUID{1, 2, 0, 4}, amqp.UUID{}} {
		if got := correlation(methodID(id)); got != id {
			t.Errorf("%v became %v", id, got)
		}
	}
	if methodID(nil) != "" || methodID(uint64(1)) != "" {
		t.Error("ids of other types")
	}
}

func TestVerdicts(t *testing.T) {
	if refused, again := verdict(&amqp.StateAccepted{}); refused != nil || again != nil {
		t.Error(refused, again)
	}
	for _, state := range []amqp.DeliveryState{
		&amqp.StateReleased{}, &amqp.StateModified{}, nil, &amqp.StateRejected{Error: &amqp.Error{Condition: "amqp:internal-error"}},
	} {
		if refused, again := verdict(state); refused != nil || again == nil {
			t.Errorf("%T: %v, %v", state, refused, again)
		}
	}
	if refused, again := verdict(&amqp.StateRejected{}); refused == nil || again != nil {
		t.Error("rejected without a reason", refused, again)
	}
}

func FuzzMessageFromTheWire(f *testing.F) {
	m := &iothub.Message{Body: []byte("x")}
	m.System.Set(iothub.MessageID, "1")
	m.Properties.Set("p", "v")
	raw, err := encodeTelemetry(m).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		var in amqp.Message
		if in.UnmarshalBinary(b) != nil {
			return
		}
		m, _ := decodeMessage(&in)
		again := encodeTelemetry(m)
		if _, err := again.MarshalBinary(); err != nil {
			t.Errorf("cannot be sent on: %v", err)
		}
	})
}
