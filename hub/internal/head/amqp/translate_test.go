package amqp_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// Places of a message where a system property may travel.
const (
	prop = "properties"             // section of the standard
	app  = "application-properties" // string keys
	ann  = "message-annotations"    // symbol keys
)

// mapping is where each system property of iothub.Message travels over MQTT (name
// in the property bag) and AMQP, which way, and with which AMQP type. This table is
// the documentation of the mapping; the tests below hold the code to it.
//
//	up: device or module to hub. down: hub to device or module.
var mapping = []struct {
	system     string // name in iothub.Message.System
	value      string
	mqtt       string // name in the property bag
	place, key string
	amqp       wire.Value // as written
	up, down   bool       // over AMQP
}{
	{iothub.MessageID, "id1", "$.mid", prop, "message-id", wire.String("id1"), true, true},
	{iothub.CorrelationID, "c1", "$.cid", prop, "correlation-id", wire.String("c1"), true, true},
	{iothub.UserID, "u1", "$.uid", prop, "user-id", wire.Binary([]byte("u1")), true, true},
	{iothub.ContentType, "application/json", "$.ct", prop, "content-type", wire.Symbol("application/json"), true, true},
	{iothub.ContentEncoding, "utf-8", "$.ce", prop, "content-encoding", wire.Symbol("utf-8"), true, true},
	{iothub.AbsoluteExpiryTime, "2027-01-02T03:04:05.006Z", "$.exp", prop, "absolute-expiry-time",
		wire.TimestampValue(1798859045006), true, true},
	// properties.to is always the address of the client; what a client writes there is dropped.

	{iothub.OutputName, "out1", "$.on", app, "iothub-outputname", wire.String("out1"), true, false},
	{iothub.MessageSchema, "s1", "$.schema", app, "iothub-message-schema", wire.String("s1"), true, true},
	{iothub.CreationTime, "2027-01-02T03:04:05Z", "$.ctime", app, "iothub-creation-time-utc",
		wire.String("2027-01-02T03:04:05Z"), true, true},
	{iothub.Operation, "op1", "iothub-operation", app, "iothub-operation", wire.String("op1"), true, true},
	{iothub.Ack, "full", "iothub-ack", app, "iothub-ack", wire.String("full"), true, true},

	{iothub.InterfaceID, "urn:x", "$.ifid", ann, "iothub-interface-id", wire.String("urn:x"), true, false},
	{iothub.ComponentName, "thermostat", "$.sub", ann, "dt-subject", wire.String("thermostat"), true, true},
	{iothub.DiagnosticID, "00-1", "$.diagid", ann, "Diagnostic-Id", wire.String("00-1"), true, true},
	{iothub.CorrelationContext, "a=b", "$.diagctx", ann, "Correlation-Context", wire.String("a=b"), true, true},

	// Of these a client is told, and has no say.
	{iothub.ConnectionDeviceID, "edge1", "$.cdid", ann, "iothub-connection-device-id", wire.String("edge1"), false, true},
	{iothub.ConnectionModuleID, "m1", "$.cmid", ann, "iothub-connection-module-id", wire.String("m1"), false, true},
	{iothub.EnqueuedTime, "2027-01-02T03:04:05.006Z", "", ann, "iothub-enqueuedtime", wire.TimestampValue(1798859045006), false, true},
	{iothub.DeliveryCount, "3", "", ann, "iothub-deliverycount", wire.Ubyte(3), false, true},
	{iothub.SequenceNumber, "70000", "", ann, "x-opt-sequence-number", wire.Ulong(70000), false, true},
	// The lock token is the delivery tag, and x-opt-lock-token; the input is x-opt-input-name.
}

const lock = "00112233-4455-6677-8899-aabbccddeeff"

func propertyOf(p *wire.Properties, key string) wire.Value {
	if p == nil {
		return wire.Value{}
	}
	switch key {
	case "message-id":
		return p.MessageID
	case "correlation-id":
		return p.CorrelationID
	case "user-id":
		return wire.Binary(p.UserID)
	case "content-type":
		return wire.Symbol(p.ContentType)
	case "content-encoding":
		return wire.Symbol(p.ContentEncoding)
	case "absolute-expiry-time":
		if p.AbsoluteExpiryTime.Set {
			return wire.TimestampValue(p.AbsoluteExpiryTime.V)
		}
	}
	return wire.Value{}
}

func setProperty(p *wire.Properties, key string, v wire.Value) {
	s, _ := v.Text()
	switch key {
	case "message-id":
		p.MessageID = v
	case "correlation-id":
		p.CorrelationID = v
	case "user-id":
		p.UserID, _ = v.Bytes()
	case "content-type":
		p.ContentType = s
	case "content-encoding":
		p.ContentEncoding = s
	case "absolute-expiry-time":
		t, _ := v.Timestamp()
		p.AbsoluteExpiryTime = wire.Some(t)
	}
}

func with(v wire.Value, place, key string) *wire.Message {
	w := wire.NewMessage([]byte("b"))
	switch place {
	case prop:
		w.Properties = new(wire.Properties)
		setProperty(w.Properties, key, v)
	case app:
		w.ApplicationProperties = w.ApplicationProperties.With(key, v)
	case ann:
		w.Annotations = w.Annotations.WithSymbol(key, v)
	}
	return w
}

func TestSystemPropertiesOverMQTTAndAMQP(t *testing.T) {
	for _, row := range mapping {
		t.Run(row.system, func(t *testing.T) {
			m := &iothub.Message{Body: []byte("b")}
			m.System.Set(row.system, row.value)

			// Down: the type of the key and of the value count.
			w := amqp.Encode(m, "/devices/d1", "", lock)
			var got wire.Value
			switch row.place {
			case prop:
				got = propertyOf(w.Properties, row.key)
			case app:
				got, _ = pick(w.ApplicationProperties, wire.String(row.key))
			case ann:
				got, _ = pick(w.Annotations, wire.Symbol(row.key))
			}
			if want := row.amqp; row.down && !got.Equal(want) {
				t.Errorf("down: %s %s, want %s %s", got.Kind(), got, want.Kind(), want)
			} else if !row.down && !got.IsNull() {
				t.Errorf("down: %s, want nothing", got)
			}

			// Up.
			d, refusal := amqp.DecodeTelemetry(with(row.amqp, row.place, row.key))
			if refusal != nil {
				t.Fatal(refusal)
			}
			if got := d.System.Get(row.system); row.up && got != row.value || !row.up && got != "" {
				t.Errorf("up: %q", got)
			}
			if len(d.Properties) != 0 {
				t.Errorf("up: application properties %v", d.Properties)
			}

			// MQTT means the same.
			if row.mqtt == "" || row.system == iothub.Ack { // towards the hub an application property there
				return
			}
			bag := &iothub.Message{}
			if err := topic.DecodeBag(row.mqtt+"="+strings.ReplaceAll(row.value, "=", "%3D"), bag, topic.ToHub); err != nil {
				t.Fatal(err)
			}
			if got := bag.System.Get(row.system); row.up && got != row.value || !row.up && got != "" {
				t.Errorf("over MQTT: %q", got)
			}
		})
	}
}

// pick finds a key of exactly this type.
func pick(m wire.Map, key wire.Value) (wire.Value, bool) {
	for _, p := range m {
		if p.Key.Equal(key) {
			return p.Value, true
		}
	}
	return wire.Value{}, false
}

func TestApplicationProperties(t *testing.T) {
	w := wire.NewMessage(nil)
	w.ApplicationProperties = wire.Map{}.
		With("text", wire.String("ä")).With("empty", wire.String("")).With("null", wire.Value{}).
		With("bool", wire.Bool(true)).With("int", wire.Int(-7)).With("ulong", wire.Ulong(1<<63)).
		With("double", wire.Double(1.5)).With("uuid", wire.UUID([16]byte{15: 1})).
		With("time", wire.TimestampValue(1000)).With("binary", wire.Binary([]byte("b"))).With("bytes", wire.Binary([]byte{0xff})).
		With("list", wire.List(wire.Int(1))).
		With("iothub-connection-device-id", wire.String("spoofed")).With("IoTHub-Connection-Module-Id", wire.String("spoofed")).
		With("iothub-enqueuedtime", wire.String("spoofed")).With("", wire.String("nameless")).
		WithSymbol("symbol", wire.Symbol("s"))
	w.Annotations = wire.Map{}.WithSymbol("iothub-connection-device-id", wire.String("spoofed"))
	m, refusal := amqp.DecodeTelemetry(w)
	if refusal != nil {
		t.Fatal(refusal)
	}
	want := iothub.Properties{
		{Name: "text", Value: "ä"}, {Name: "empty"}, {Name: "null", Null: true}, {Name: "bool", Value: "true"},
		{Name: "int", Value: "-7"}, {Name: "ulong", Value: "9223372036854775808"}, {Name: "double", Value: "1.5"},
		{Name: "uuid", Value: "00000000-0000-0000-0000-000000000001"}, {Name: "time", Value: "1970-01-01T00:00:01Z"},
		{Name: "binary", Value: "b"}, {Name: "bytes", Value: "/w=="}, {Name: "list", Null: true}, {Name: "symbol", Value: "s"},
	}
	if !slices.Equal(m.Properties, want) {
		t.Errorf("got %v", m.Properties)
	}
	if len(m.System) != 0 {
		t.Errorf("system properties %v", m.System)
	}
	back := amqp.Encode(&iothub.Message{Properties: append(want[:3:3], iothub.Property{Name: "iothub-ack", Value: "x"})}, "", "", lock)
	if len(back.ApplicationProperties) != 3 || back.ApplicationProperties.Text("text") != "ä" {
		t.Errorf("back: %v", back.ApplicationProperties)
	}
	if v, ok := back.ApplicationProperties.Get("null"); !ok || !v.IsNull() {
		t.Errorf("null came back as %v, %v", v, ok)
	}
}

func TestIDsOfAllTypes(t *testing.T) {
	for want, v := range map[string]wire.Value{
		"text":                                 wire.String("text"),
		"00000000-0000-0000-0000-000000000001": wire.UUID([16]byte{15: 1}),
		"18446744073709551615":                 wire.Ulong(1<<64 - 1),
		"bytes":                                wire.Binary([]byte("bytes")),
		"//8=":                                 wire.Binary([]byte{0xff, 0xff}),
		"":                                     {},
	} {
		m, refusal := amqp.DecodeTelemetry(with(v, prop, "message-id"))
		if refusal != nil || m.System.Get(iothub.MessageID) != want {
			t.Errorf("%s: %v, %v", want, m.System, refusal)
		}
	}
}

func TestBodies(t *testing.T) {
	null := wire.Some(wire.Value{})
	tests := []struct {
		name string
		m    wire.Message
		want string
		ok   bool
	}{
		{"none", wire.Message{}, "", true},
		{"null", wire.Message{Value: null}, "", true},
		{"one section", wire.Message{Data: [][]byte{[]byte("a")}}, "a", true},
		{"sections", wire.Message{Data: [][]byte{[]byte("a"), nil, []byte("b")}}, "ab", true},
		{"string", wire.Message{Value: wire.Some(wire.String("ä"))}, "ä", true},
		{"binary", wire.Message{Value: wire.Some(wire.Binary([]byte("x")))}, "x", true},
		{"number", wire.Message{Value: wire.Some(wire.Int(1))}, "", false},
		{"map", wire.Message{Value: wire.Some(wire.Map{}.Value())}, "", false},
		{"sequence", wire.Message{Sequences: [][]wire.Value{{wire.Int(1)}}}, "", false},
	}
	for _, tt := range tests {
		m, refusal := amqp.DecodeTelemetry(&tt.m)
		if ok := refusal == nil; ok != tt.ok || ok && string(m.Body) != tt.want {
			t.Errorf("%s: %v, %v", tt.name, m, refusal)
		}
		if refusal != nil && refusal.Condition != wire.CondNotImplemented {
			t.Errorf("%s: %v", tt.name, refusal)
		}
	}
}

func TestWhatServicesLeaveUnset(t *testing.T) {
	w := wire.NewMessage([]byte("b"))
	w.Properties = &wire.Properties{MessageID: wire.String(""), CorrelationID: wire.String(""), UserID: []byte{},
		AbsoluteExpiryTime: wire.Some(wire.Timestamp(-62135596800000))}
	w.ApplicationProperties = wire.Map{}.With("iothub-ack", wire.String("full")).With("iothub-outputname", wire.String("o"))
	m, refusal := amqp.DecodeFromService(w)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if len(m.System) != 1 || m.System.Get(iothub.Ack) != "full" || m.Properties.Get("iothub-outputname") != "o" {
		t.Errorf("%v, %v", m.System, m.Properties)
	}
}

func TestLockTokensAreGUIDsOfNet(t *testing.T) {
	tag, ok := amqp.LockTag(strings.ToUpper(lock))
	want := []byte{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	if !ok || !slices.Equal(tag, want) {
		t.Errorf("% x, %v", tag, ok)
	}
	for _, bad := range []string{"", lock[1:], strings.ReplaceAll(lock, "-", "0"), strings.Replace(lock, "f", "g", 1),
		"0011223--4455-6677-8899-aabbccddeeff"} {
		if _, ok := amqp.LockTag(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzTranslate checks that what a client sends arrives without a say about its
// sender, and that what was accepted can be sent to a client and comes back the
// same.
func FuzzTranslate(f *testing.F) {
	for _, row := range mapping {
		f.Add(wire.AppendMessage(nil, with(row.amqp, row.place, row.key)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var w wire.Message
		if wire.DecodeMessage(b, &w) != nil {
			return
		}
		m, refusal := amqp.DecodeTelemetry(&w)
		if refusal != nil {
			return
		}
		if !m.Sender().IsZero() || m.System.Get(iothub.EnqueuedTime) != "" {
			t.Fatalf("sender %v", m.System)
		}
		var back wire.Message
		if err := wire.DecodeMessage(wire.AppendMessage(nil, amqp.Encode(m, "/devices/d1", "in", lock)), &back); err != nil {
			t.Fatal(err)
		}
		again, refusal := amqp.DecodeTelemetry(&back)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if string(again.Body) != string(m.Body) || len(again.Properties) != len(m.Properties) {
			t.Fatalf("%v became %v", m, again)
		}
		for _, row := range mapping {
			if got, want := again.System.Get(row.system), m.System.Get(row.system); row.up && row.down && got != want &&
				row.system != iothub.AbsoluteExpiryTime {
				t.Fatalf("%s: %q became %q", row.system, want, got)
			}
		}
	})
}

// Clients cast without asking: what has another type is lost to them, or worse.
func TestTypesOfWhatIsDelivered(t *testing.T) {
	m := &iothub.Message{Body: []byte("x")}
	for name, value := range map[string]string{
		iothub.EnqueuedTime: "2026-11-28T12:00:00.5Z", iothub.DeliveryCount: "300", iothub.SequenceNumber: "7",
		iothub.ConnectionDeviceID: "d", iothub.ConnectionModuleID: "m", iothub.ComponentName: "c",
		iothub.MessageID: "00000000-0000-0000-0000-000000000001", iothub.CorrelationID: "7", iothub.UserID: "u",
		iothub.ContentType: "application/json", iothub.ContentEncoding: "utf-8",
	} {
		m.System.Set(name, value)
	}
	w := amqp.Encode(m, "/devices/d/messages/devicebound", "in", lock)
	want := map[string]wire.Value{
		"iothub-enqueuedtime":  wire.TimestampValue(wire.TimestampOf(time.Date(2026, 11, 28, 12, 0, 0, 5e8, time.UTC))),
		"iothub-deliverycount": wire.Ubyte(255), "x-opt-sequence-number": wire.Ulong(7), "x-opt-lock-token": wire.String(lock),
		"x-opt-input-name": wire.String("in"), "iothub-connection-device-id": wire.String("d"),
		"iothub-connection-module-id": wire.String("m"), "dt-subject": wire.String("c"),
	}
	for _, p := range w.Annotations {
		name, _ := p.Key.Text()
		if p.Key.Kind() != wire.KindSymbol || !p.Value.Equal(want[name]) {
			t.Errorf("%s %s: %s %s", p.Key.Kind(), name, p.Value.Kind(), p.Value)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	if p := w.Properties; p.MessageID.Kind() != wire.KindString || p.CorrelationID.Kind() != wire.KindString {
		t.Errorf("ids are %s and %s", p.MessageID.Kind(), p.CorrelationID.Kind())
	}
	// The properties section again, field by field: user-id binary, content type and
	// encoding symbols.
	raw := wire.AppendMessage(nil, &wire.Message{Properties: w.Properties})
	fields, _, err := wire.DecodeValue(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := fields.Described()
	kinds := map[int]wire.Kind{0: wire.KindString, 1: wire.KindBinary, 2: wire.KindString, 5: wire.KindString, 6: wire.KindSymbol, 7: wire.KindSymbol}
	for i, kind := range kinds {
		if got := list.Items()[i].Kind(); got != kind {
			t.Errorf("field %d is %s, want %s", i, got, kind)
		}
	}
}
