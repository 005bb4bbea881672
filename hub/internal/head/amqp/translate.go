package amqp

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Names of annotations and application properties (spec iothub-amqp 7, 8).
const (
	keyOutputName    = "iothub-outputname"
	keySchema        = "iothub-message-schema"
	keyCreationTime  = "iothub-creation-time-utc"
	keyOperation     = "iothub-operation"
	keyAck           = "iothub-ack"
	keyInterfaceID   = "iothub-interface-id"
	keyComponent     = "dt-subject"
	keyDiagnosticID  = "Diagnostic-Id"
	keyCorrelation   = "Correlation-Context"
	keyEnqueuedTime  = "iothub-enqueuedtime"
	keyDeliveryCount = "iothub-deliverycount"
	keySequence      = "x-opt-sequence-number"
	keyLockToken     = "x-opt-lock-token"
	keyInputName     = "x-opt-input-name"
	keyFromDevice    = "iothub-connection-device-id"
	keyFromModule    = "iothub-connection-module-id"
)

// direction is the way a message goes.
type direction uint8

const (
	fromDevice  direction = 1 << iota // telemetry
	fromService                       // what a service sends to a device
	toClient                          // cloud-to-device messages and inputs
	toReader                          // events
)

// named is a system property that AMQP has no field for: its name on the wire and
// the directions in which it counts.
type named struct {
	wire, name string
	dirs       direction
}

// applicationNames travel as application properties, annotationNames as message
// annotations; both hold strings.
var applicationNames = [...]named{
	{keyOutputName, iothub.OutputName, fromDevice | toReader},
	{keySchema, iothub.MessageSchema, fromDevice | toClient | toReader},
	{keyCreationTime, iothub.CreationTime, fromDevice | toClient | toReader},
	{keyOperation, iothub.Operation, fromDevice | toClient},
	{keyAck, iothub.Ack, fromDevice | fromService | toClient},
}

var annotationNames = [...]named{
	{keyInterfaceID, iothub.InterfaceID, fromDevice | toReader},
	{keyComponent, iothub.ComponentName, fromDevice | toClient | toReader},
	{keyDiagnosticID, iothub.DiagnosticID, fromDevice | toClient | toReader},
	{keyCorrelation, iothub.CorrelationContext, fromDevice | toClient | toReader},
	{keyFromDevice, iothub.ConnectionDeviceID, toClient},
	{keyFromModule, iothub.ConnectionModuleID, toClient},
}

func lookup(list []named, name string, dir direction) (named, bool) {
	for _, n := range list {
		if n.wire == name && n.dirs&dir != 0 {
			return n, true
		}
	}
	return named{}, false
}

// serviceName tells names of application properties that only the hub sets.
func serviceName(name string) bool {
	const connection = "iothub-connection-"
	return len(name) >= len(connection) && strings.EqualFold(name[:len(connection)], connection) ||
		strings.EqualFold(name, keyEnqueuedTime)
}

var errBody = wire.Errorf(wire.CondNotImplemented, "the body must be data sections, a string or a binary")

// systemRoom is how many system properties a message usually has in the end, with
// those that the hub stamps.
const systemRoom = 8

// decode translates a message of a client. What a client says of its sender is
// dropped. The body aliases that of w.
func decode(w *wire.Message, dir direction) (*iothub.Message, *wire.Error) {
	body, ok := w.Body()
	if !ok && !(w.Value.Set && w.Value.V.IsNull()) {
		return nil, errBody
	}
	m := &iothub.Message{Body: body, System: make(iothub.Properties, 0, systemRoom)}
	if n := len(w.ApplicationProperties); n > 0 {
		m.Properties = make(iothub.Properties, 0, n)
	}
	if p := w.Properties; p != nil {
		decodeProperties(p, m)
	}
	properties := m.Properties.Collect()
	for _, pair := range w.ApplicationProperties {
		decodeApplication(pair, dir, m, &properties)
	}
	for _, n := range annotationNames {
		if n.dirs&dir == 0 {
			continue
		}
		if s := w.Annotations.Text(n.wire); s != "" {
			m.System.Set(n.name, valid(s))
		}
	}
	return m, nil
}

// decodeProperties reads the properties section. To, which some clients fill with
// the address of the link, says nothing.
func decodeProperties(p *wire.Properties, m *iothub.Message) {
	set := func(name, value string) {
		if value != "" {
			m.System.Set(name, valid(value))
		}
	}
	set(iothub.MessageID, idText(p.MessageID))
	set(iothub.CorrelationID, idText(p.CorrelationID))
	set(iothub.UserID, text(p.UserID))
	set(iothub.ContentType, p.ContentType)
	set(iothub.ContentEncoding, p.ContentEncoding)
	// A client that has no expiry may send the smallest time that it knows.
	if t := p.AbsoluteExpiryTime; t.Set && t.V.Time().Year() > 1 {
		set(iothub.AbsoluteExpiryTime, timeText(t.V.Time()))
	}
}

// decodeApplication adds an application property to those of the message, or sets a system
// property.
func decodeApplication(pair wire.Pair, dir direction, m *iothub.Message, properties *iothub.Collector) {
	name, ok := pair.Key.Text()
	if !ok || name == "" || serviceName(name) {
		return
	}
	name = valid(name)
	value, isNull := propertyText(pair.Value)
	if n, ok := lookup(applicationNames[:], name, dir); ok {
		if !isNull {
			m.System.Set(n.name, value)
		}
		return
	}
	properties.Set(iothub.Property{Name: name, Value: value, Null: isNull})
}

// propertyText is the text of a scalar; null and compound values have none.
func propertyText(v wire.Value) (s string, isNull bool) {
	switch v.Kind() {
	case wire.KindNull, wire.KindList, wire.KindMap, wire.KindArray, wire.KindDescribed:
		return "", true
	case wire.KindTimestamp:
		t, _ := v.Timestamp()
		return timeText(t.Time()), false
	case wire.KindBinary:
		b, _ := v.Bytes()
		return text(b), false
	}
	return valid(v.String()), false
}

// valid is s as AMQP strings have to be. Symbols, and what comes over MQTT, may be
// otherwise.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// idText is the text of a message id of any of its types.
func idText(v wire.Value) string {
	if b, ok := v.Bytes(); ok {
		return text(b)
	}
	if v.IsNull() {
		return ""
	}
	return v.String()
}

// text is b if that is text, else its base64.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// parseTime reads a time as clients and hubs write it.
func parseTime(s string) (wire.Timestamp, bool) {
	t, err := time.Parse(time.RFC3339Nano, s)
	return wire.TimestampOf(t), err == nil
}

// encode translates a message for a client, addressed to it. input names the input
// of a module, or is empty.
func encode(m *iothub.Message, to, input, lock string) *wire.Message {
	w := wire.NewMessage(m.Body)
	w.Properties = encodeProperties(m, to)
	encodeNamed(w, m, toClient)
	w.Annotations = append(w.Annotations, encodeDelivery(m, lock)...)
	if input != "" {
		w.Annotations = w.Annotations.WithSymbol(keyInputName, wire.String(valid(input)))
	}
	encodeApplication(w, m, toClient)
	return w
}

// encodeNamed adds the system properties that AMQP has no field for.
func encodeNamed(w *wire.Message, m *iothub.Message, dir direction) {
	for i := range m.System {
		p := &m.System[i]
		for _, n := range applicationNames {
			if n.name == p.Name && n.dirs&dir != 0 {
				w.ApplicationProperties = w.ApplicationProperties.With(n.wire, wire.String(valid(p.Value)))
			}
		}
		for _, n := range annotationNames {
			if n.name == p.Name && n.dirs&dir != 0 {
				w.Annotations = w.Annotations.WithSymbol(n.wire, wire.String(valid(p.Value)))
			}
		}
	}
}

// encodeApplication adds the properties of the sender, but those whose names are the
// hub's.
func encodeApplication(w *wire.Message, m *iothub.Message, dir direction) {
	for i := range m.Properties {
		p := &m.Properties[i]
		if _, taken := lookup(applicationNames[:], p.Name, dir); p.Name == "" || taken || serviceName(p.Name) {
			continue
		}
		v := wire.String(valid(p.Value))
		if p.Null {
			v = wire.Value{}
		}
		w.ApplicationProperties = w.ApplicationProperties.With(valid(p.Name), v)
	}
}

func encodeProperties(m *iothub.Message, to string) *wire.Properties {
	p := &wire.Properties{
		To: to, ContentType: valid(m.System.Get(iothub.ContentType)), ContentEncoding: valid(m.System.Get(iothub.ContentEncoding)),
	}
	if id := m.System.Get(iothub.MessageID); id != "" {
		p.MessageID = wire.String(valid(id))
	}
	if id := m.System.Get(iothub.CorrelationID); id != "" {
		p.CorrelationID = wire.String(valid(id))
	}
	if user := m.System.Get(iothub.UserID); user != "" {
		p.UserID = []byte(user)
	}
	if t, ok := parseTime(m.System.Get(iothub.AbsoluteExpiryTime)); ok {
		p.AbsoluteExpiryTime = wire.Some(t)
	}
	return p
}

// encodeDelivery makes the annotations about a delivery. Their types are those
// that the .NET client insists on.
func encodeDelivery(m *iothub.Message, lock string) (a wire.Map) {
	if t, ok := parseTime(m.System.Get(iothub.EnqueuedTime)); ok {
		a = a.WithSymbol(keyEnqueuedTime, wire.TimestampValue(t))
	}
	if n, err := strconv.ParseUint(m.System.Get(iothub.DeliveryCount), 10, 64); err == nil {
		a = a.WithSymbol(keyDeliveryCount, wire.Ubyte(uint8(min(n, 255))))
	}
	if n, err := strconv.ParseUint(m.System.Get(iothub.SequenceNumber), 10, 64); err == nil {
		a = a.WithSymbol(keySequence, wire.Ulong(n))
	}
	return a.WithSymbol(keyLockToken, wire.String(lock))
}
