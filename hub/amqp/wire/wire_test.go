package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/Azure/go-amqp"
	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func TestEveryValueSurvivesTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := values(3).Draw(t, "v")
		b := wire.AppendValue([]byte{1, 2, 3}, v)
		got, n, err := wire.DecodeValue(append(b[3:], 0xff))
		if err != nil || n != len(b)-3 || !got.Equal(v) {
			t.Fatalf("%x: got %v, %d, %v; want %v, %d", b[3:], got, n, err, v, len(b)-3)
		}
	})
}

func TestEncodingsOfTheStandard(t *testing.T) {
	for name, c := range map[string]struct {
		v    wire.Value
		want []byte
	}{
		"null":             {wire.Value{}, []byte{0x40}},
		"true":             {wire.Bool(true), []byte{0x41}},
		"uint0":            {wire.Uint(0), []byte{0x43}},
		"smalluint":        {wire.Uint(200), []byte{0x52, 200}},
		"uint":             {wire.Uint(256), []byte{0x70, 0, 0, 1, 0}},
		"ulong0":           {wire.Ulong(0), []byte{0x44}},
		"smallint":         {wire.Int(-1), []byte{0x54, 0xff}},
		"int":              {wire.Int(200), []byte{0x71, 0, 0, 0, 200}},
		"smalllong":        {wire.Long(-128), []byte{0x55, 0x80}},
		"long":             {wire.Long(-129), []byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}},
		"double":           {wire.Double(1), []byte{0x82, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0}},
		"str8":             {wire.String("hé"), []byte{0xa1, 3, 'h', 0xc3, 0xa9}},
		"sym8":             {wire.Symbol("a"), []byte{0xa3, 1, 'a'}},
		"list0":            {wire.List(), []byte{0x45}},
		"list8":            {wire.List(wire.Uint(0)), []byte{0xc0, 2, 1, 0x43}},
		"map8":             {wire.Map{}.With("k", wire.Bool(false)).Value(), []byte{0xc1, 5, 2, 0xa1, 1, 'k', 0x42}},
		"array of symbols": {wire.Symbols("a"), []byte{0xe0, 7, 1, 0xb3, 0, 0, 0, 1, 'a'}},
		"empty array":      {wire.EmptyArray(wire.KindSymbol), []byte{0xe0, 2, 0, 0xb3}},
		"described":        {wire.Described(wire.Ulong(0x24), wire.List()), []byte{0, 0x53, 0x24, 0x45}},
	} {
		if got := wire.AppendValue(nil, c.v); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, want %x", name, got, c.want)
		}
		if v, _, err := wire.DecodeValue(c.want); err != nil || !v.Equal(c.v) {
			t.Errorf("%s: decoded %v, %v", name, v, err)
		}
	}
}

func TestWideAndNarrowEncodingsMeanTheSame(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want wire.Value
	}{
		"boolean byte": {[]byte{0x56, 1}, wire.Bool(true)},
		"wide uint":    {[]byte{0x70, 0, 0, 0, 1}, wire.Uint(1)},
		"str32":        {[]byte{0xb1, 0, 0, 0, 1, 'a'}, wire.String("a")},
		"list32":       {[]byte{0xd0, 0, 0, 0, 5, 0, 0, 0, 1, 0x44}, wire.List(wire.Ulong(0))},
		"array of sym8": {[]byte{0xe0, 6, 2, 0xa3, 1, 'a', 1, 'b'},
			wire.Symbols("a", "b")},
		"array of smalluint": {[]byte{0xe0, 3, 1, 0x52, 9}, wire.Array(wire.Uint(9))},
		"empty array32":      {[]byte{0xf0, 0, 0, 0, 5, 0, 0, 0, 0, 0xa1}, wire.EmptyArray(wire.KindString)},
	} {
		if v, _, err := wire.DecodeValue(c.in); err != nil || !v.Equal(c.want) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
}

func TestMalformedValuesAreRefused(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0}, 200), 0x40)
	lists := wire.List()
	for range wire.MaxDepth + 2 {
		lists = wire.List(lists)
	}
	for name, in := range map[string][]byte{
		"nothing":                  {},
		"unknown constructor":      {0x10},
		"short string":             {0xa1, 5, 'a'},
		"string that is not UTF-8": {0xa1, 1, 0xff},
		"boolean 2":                {0x56, 2},
		"huge list":                {0xd0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1},
		"negative size":            {0xb0, 0xff, 0xff, 0xff, 0xff},
		"more elements than bytes": {0xc0, 2, 200, 0x40},
		"list longer than written": {0xc0, 3, 1, 0x40, 0x40},
		"odd map":                  {0xc1, 2, 1, 0x40},
		"many nulls in an array":   {0xf0, 0, 0, 0, 5, 0, 0, 0xff, 0xff, 0x40},
		"descriptors without end":  deep,
		"nested too deep":          wire.AppendValue(nil, lists),
	} {
		if v, _, err := wire.DecodeValue(in); !errors.Is(err, wire.ErrDecode) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
}

func TestConversionsOfValues(t *testing.T) {
	if n, ok := wire.Ubyte(3).Int64(); n != 3 || !ok {
		t.Error(n, ok)
	}
	if n, ok := wire.Int(-3).Int64(); n != -3 || !ok {
		t.Error(n, ok)
	}
	if _, ok := wire.Int(-3).Uint64(); ok {
		t.Error("-3 is not unsigned")
	}
	if _, ok := wire.Ulong(1 << 63).Int64(); ok {
		t.Error("2^63 does not fit")
	}
	u := wire.UUID([16]byte{0x12, 15: 0xff})
	if u.String() != "12000000-0000-0000-0000-0000000000ff" {
		t.Error(u.String())
	}
	when := time.Date(2024, 2, 3, 4, 5, 6, 7e6, time.UTC)
	if got := wire.TimestampOf(when).Time(); !got.Equal(when) {
		t.Error(got)
	}
	if wire.Array(wire.Int(1), wire.Uint(1)).Kind() != wire.KindList {
		t.Error("an array of two types must not exist")
	}
}

func TestEveryPerformativeSurvivesAFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := performatives().Draw(t, "p")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "payload")
		b, n := wire.AppendFrame(nil, wire.FrameAMQP, 5, p, payload, 1<<20)
		if n != len(payload) {
			t.Fatalf("payload %d of %d", n, len(payload))
		}
		f, size, err := wire.SplitFrame(b, 1<<20)
		if err != nil || size != len(b) || f.Channel != 5 {
			t.Fatal(f, size, err)
		}
		var d wire.Decoder
		got, rest, err := d.Decode(f.Type, f.Body)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		again, _ := wire.AppendFrame(nil, wire.FrameAMQP, 5, got, payload, 1<<20)
		if !bytes.Equal(rest, payload) || !bytes.Equal(again, b) || !reflect.DeepEqual(got, p) {
			t.Fatalf("%x:\n got %+v %v\nwant %+v", b, got, err, p)
		}
	})
}

func TestFrameBounds(t *testing.T) {
	frame, _ := wire.AppendFrame(nil, wire.FrameAMQP, 1, &wire.Close{}, nil, 512)
	for i := range frame {
		if _, n, err := wire.SplitFrame(frame[:i], 512); n != 0 || err != nil {
			t.Fatalf("%d bytes of a frame: %d, %v", i, n, err)
		}
	}
	for name, b := range map[string][]byte{
		"too small":          {0, 0, 0, 7},
		"too large":          {0, 0, 2, 1, 2, 0, 0, 0},
		"offset below 2":     {0, 0, 0, 8, 1, 0, 0, 0},
		"offset beyond size": {0, 0, 0, 8, 3, 0, 0, 0},
	} {
		if _, _, err := wire.SplitFrame(b, 512); !errors.Is(err, wire.ErrFraming) {
			t.Errorf("%s: %v", name, err)
		}
	}
	extended := []byte{0, 0, 0, 12, 3, 0, 0, 9, 1, 2, 3, 4}
	if f, n, err := wire.SplitFrame(extended, 512); err != nil || n != 12 || len(f.Body) != 0 || f.Channel != 9 {
		t.Errorf("extended header: %+v, %d, %v", f, n, err)
	}
	b, n := wire.AppendFrame(nil, wire.FrameAMQP, 0, &wire.Transfer{Handle: 1, More: true}, make([]byte, 2000), 512)
	if len(b) != 512 || n >= 512 {
		t.Errorf("fragment of %d bytes in a frame of %d", n, len(b))
	}
}

func TestUnknownFieldsAreIgnoredAndMissingOnesAreNull(t *testing.T) {
	var d wire.Decoder
	body := wire.AppendValue(nil, wire.Described(wire.Ulong(0x16), wire.List(wire.Uint(3), wire.Bool(true), wire.Value{}, wire.String("new"))))
	p, _, err := d.Decode(wire.FrameAMQP, body)
	if err != nil || p.(*wire.Detach).Handle != 3 || !p.(*wire.Detach).Closed {
		t.Fatalf("%+v, %v", p, err)
	}
	body = wire.AppendValue(nil, wire.Described(wire.Symbol("amqp:detach:list"), wire.List(wire.Uint(4))))
	if p, _, err = d.Decode(wire.FrameAMQP, body); err != nil || p.(*wire.Detach).Handle != 4 {
		t.Fatalf("%+v, %v", p, err)
	}
	for name, v := range map[string]wire.Value{
		"detach without handle":  wire.Described(wire.Ulong(0x16), wire.List()),
		"performative of no one": wire.Described(wire.Ulong(0x99), wire.List()),
		"handle of another type": wire.Described(wire.Ulong(0x16), wire.List(wire.String("1"))),
		"not a list":             wire.Described(wire.Ulong(0x16), wire.String("x")),
		"SASL in an AMQP frame":  wire.Described(wire.Ulong(0x41), wire.List(wire.Symbol("PLAIN"))),
		"settle mode 9":          wire.Described(wire.Ulong(0x12), wire.List(wire.String("n"), wire.Uint(0), wire.Bool(false), wire.Ubyte(9))),
	} {
		if p, _, err := d.Decode(wire.FrameAMQP, wire.AppendValue(nil, v)); !errors.Is(err, wire.ErrDecode) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestSASLFramesSurvive(t *testing.T) {
	var d wire.Decoder
	for _, p := range []wire.Performative{
		&wire.SASLMechanisms{Mechanisms: []string{"PLAIN"}},
		&wire.SASLInit{Mechanism: "PLAIN", InitialResponse: []byte("\x00a\x00b"), Hostname: "h"},
		&wire.SASLChallenge{Challenge: []byte("c")}, &wire.SASLResponse{Response: []byte("r")},
		&wire.SASLOutcome{Code: wire.SASLAuth},
	} {
		b, _ := wire.AppendFrame(nil, wire.FrameSASL, 0, p, nil, 512)
		f, _, err := wire.SplitFrame(b, 512)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := d.Decode(f.Type, f.Body); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%+v, %v; want %+v", got, err, p)
		}
	}
}

func TestEveryMessageSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := messages().Draw(t, "m")
		b := wire.AppendMessage(nil, m)
		var got wire.Message
		if err := wire.DecodeMessage(b, &got); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if again := wire.AppendMessage(nil, &got); !bytes.Equal(again, b) {
			t.Fatalf("%x\nbecame %x", b, again)
		}
	})
}

func foreignMessage() *amqp.Message {
	expiry := time.UnixMilli(1_700_000_000_123).UTC()
	text := func(s string) *string { return &s }
	m := amqp.NewMessage([]byte(`{"temperature":21.5}`))
	m.Header = &amqp.MessageHeader{Durable: true, Priority: 4}
	m.Annotations = amqp.Annotations{"iothub-enqueuedtime": expiry, "x-opt-sequence-number": uint64(77)}
	m.Properties = &amqp.MessageProperties{MessageID: "m-1", UserID: []byte("u"), To: text("/devices/d/messages/devicebound"),
		CorrelationID: amqp.UUID{1, 2, 3}, ContentType: text("application/json"), ContentEncoding: text("utf-8"), AbsoluteExpiryTime: &expiry}
	m.ApplicationProperties = map[string]any{"status-code": int32(200), "long": strings.Repeat("x", 300), "f": 1.5, "b": true, "n": nil}
	return m
}

func TestMessagesOfAForeignCodecDecode(t *testing.T) {
	b, err := foreignMessage().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var m wire.Message
	if err := wire.DecodeMessage(b, &m); err != nil {
		t.Fatal(err)
	}
	if !m.Header.Durable || m.Properties.To != "/devices/d/messages/devicebound" || m.Properties.ContentType != "application/json" ||
		m.Properties.AbsoluteExpiryTime.V != 1_700_000_000_123 || m.Properties.CorrelationID.Kind() != wire.KindUUID || string(m.Properties.UserID) != "u" {
		t.Fatalf("%+v", m.Properties)
	}
	if v, _ := m.ApplicationProperties.Get("status-code"); !v.Equal(wire.Int(200)) {
		t.Error(v)
	}
	if v, _ := m.Annotations.Get("x-opt-sequence-number"); !v.Equal(wire.Ulong(77)) {
		t.Error(v)
	}
	if body, ok := m.Body(); !ok || string(body) != `{"temperature":21.5}` {
		t.Errorf("%s", body)
	}
}

func TestAForeignCodecReadsOurMessages(t *testing.T) {
	src, _ := foreignMessage().MarshalBinary()
	var m wire.Message
	if err := wire.DecodeMessage(src, &m); err != nil {
		t.Fatal(err)
	}
	m.ApplicationProperties = m.ApplicationProperties.With("partitions", wire.Array(wire.String("0"), wire.String("1")))
	var got amqp.Message
	if err := got.UnmarshalBinary(wire.AppendMessage(nil, &m)); err != nil {
		t.Fatal(err)
	}
	want := foreignMessage()
	if parts, ok := got.ApplicationProperties["partitions"].([]string); !ok || len(parts) != 2 {
		t.Fatalf("%#v", got.ApplicationProperties["partitions"])
	}
	delete(got.ApplicationProperties, "partitions")
	if !got.Properties.AbsoluteExpiryTime.Equal(*want.Properties.AbsoluteExpiryTime) {
		t.Fatal(got.Properties.AbsoluteExpiryTime)
	}
	got.Properties.AbsoluteExpiryTime = want.Properties.AbsoluteExpiryTime
	if at, ok := got.Annotations["iothub-enqueuedtime"].(time.Time); ok {
		got.Annotations["iothub-enqueuedtime"] = at.UTC() // it is of the machine's zone
	}
	if !reflect.DeepEqual(got.Properties, want.Properties) || !reflect.DeepEqual(got.ApplicationProperties, want.ApplicationProperties) ||
		fmt.Sprint(got.Annotations) != fmt.Sprint(want.Annotations) || !reflect.DeepEqual(got.Data, want.Data) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
}

func TestBodies(t *testing.T) {
	for name, c := range map[string]struct {
		m    wire.Message
		want string
		ok   bool
	}{
		"none":          {wire.Message{}, "", true},
		"two sections":  {wire.Message{Data: [][]byte{[]byte("a"), []byte("b")}}, "ab", true},
		"string value":  {wire.Message{Value: wire.Some(wire.String("s"))}, "s", true},
		"binary value":  {wire.Message{Value: wire.Some(wire.Binary([]byte("b")))}, "b", true},
		"integer value": {wire.Message{Value: wire.Some(wire.Int(1))}, "", false},
		"sequence":      {wire.Message{Sequences: [][]wire.Value{{wire.Int(1)}}}, "", false},
	} {
		if b, ok := c.m.Body(); string(b) != c.want || ok != c.ok {
			t.Errorf("%s: %q, %v", name, b, ok)
		}
	}
}
