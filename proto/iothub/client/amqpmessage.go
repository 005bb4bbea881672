package client

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// systemProperties are the system properties that are application properties or
// annotations on the wire (iothub-amqp.md 7.1, 8.1). The others have fields of
// their own.
var systemProperties = [...]struct {
	name       string // in iothub.Message.System
	wire       string
	annotation bool
	toHub      bool
}{
	{iothub.OutputName, "iothub-outputname", false, true},
	{iothub.MessageSchema, "iothub-message-schema", false, true},
	{iothub.CreationTime, "iothub-creation-time-utc", false, true},
	{iothub.Operation, "iothub-operation", false, true},
	{iothub.Ack, "iothub-ack", false, false},
	{iothub.InterfaceID, "iothub-interface-id", true, true},
	{iothub.ComponentName, "dt-subject", true, true},
	{iothub.DiagnosticID, "Diagnostic-Id", true, true},
	{iothub.CorrelationContext, "Correlation-Context", true, true},
	{iothub.ConnectionDeviceID, "iothub-connection-device-id", true, false},
	{iothub.ConnectionModuleID, "iothub-connection-module-id", true, false},
	{iothub.InputName, "x-opt-input-name", true, false},
	{iothub.EnqueuedTime, "iothub-enqueuedtime", true, false},
	{iothub.DeliveryCount, "iothub-deliverycount", true, false},
	{iothub.SequenceNumber, "x-opt-sequence-number", true, false},
	{iothub.LockToken, "x-opt-lock-token", true, false},
}

// timeLayout is that of times in system properties.
const timeLayout = "2006-01-02T15:04:05.9999999Z07:00"

// encodeTelemetry makes the AMQP message of telemetry. Application properties with
// the name of a system property are left out, because the hub could not tell them
// from the real ones.
func encodeTelemetry(m *iothub.Message) *amqp.Message {
	out := &amqp.Message{Properties: &amqp.MessageProperties{}, Data: [][]byte{m.Body}}
	if len(m.Properties) > 0 {
		out.ApplicationProperties = make(map[string]any, len(m.Properties))
	}
	for i := range m.Properties {
		p := &m.Properties[i]
		switch {
		case p.Name == "" || reserved(p.Name):
		case p.Null:
			out.ApplicationProperties[valid(p.Name)] = nil
		default:
			out.ApplicationProperties[valid(p.Name)] = valid(p.Value)
		}
	}
	for i := range m.System {
		encodeSystem(out, m.System[i].Name, valid(m.System[i].Value))
	}
	return out
}

// valid makes a string that AMQP takes. Clients can send others: MQTT has
// properties percent-encoded.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// reserved tells names of application properties that mean a system property.
func reserved(name string) bool {
	for i := range systemProperties {
		if s := &systemProperties[i]; !s.annotation && s.toHub && s.wire == name {
			return true
		}
	}
	return false
}

func encodeSystem(out *amqp.Message, name, value string) {
	p := out.Properties
	switch name {
	case iothub.MessageID:
		p.MessageID = value
	case iothub.CorrelationID:
		p.CorrelationID = value
	case iothub.UserID:
		p.UserID = []byte(value)
	case iothub.To:
		p.To = &value
	case iothub.ContentType:
		p.ContentType = &value
	case iothub.ContentEncoding:
		p.ContentEncoding = &value
	case iothub.AbsoluteExpiryTime:
		if t, err := time.Parse(time.RFC3339, value); err == nil {
			p.AbsoluteExpiryTime = &t
		}
	default:
		for i := range systemProperties {
			s := &systemProperties[i]
			switch {
			case s.name != name || !s.toHub:
			case s.annotation:
				if out.Annotations == nil {
					out.Annotations = make(amqp.Annotations, 1)
				}
				out.Annotations[s.wire] = value
			default:
				if out.ApplicationProperties == nil {
					out.ApplicationProperties = make(map[string]any, 1)
				}
				out.ApplicationProperties[s.wire] = value
			}
		}
	}
}

// decodeMessage reads a message to a client, and the name of the input that it is
// for; "" for cloud-to-device messages.
func decodeMessage(in *amqp.Message) (m *iothub.Message, input string) {
	m = &iothub.Message{Body: body(in)}
	if p := in.Properties; p != nil {
		set := func(name, value string) {
			if value != "" {
				m.System.Set(name, value)
			}
		}
		set(iothub.MessageID, text(p.MessageID))
		set(iothub.CorrelationID, text(p.CorrelationID))
		set(iothub.UserID, string(p.UserID))
		set(iothub.To, text(p.To))
		set(iothub.ContentType, text(p.ContentType))
		set(iothub.ContentEncoding, text(p.ContentEncoding))
		set(iothub.AbsoluteExpiryTime, text(p.AbsoluteExpiryTime))
	}
	for i := range systemProperties {
		s := &systemProperties[i]
		var v any
		if s.annotation {
			v = in.Annotations[s.wire]
		} else {
			v = in.ApplicationProperties[s.wire]
		}
		if v != nil {
			m.System.Set(s.name, text(v))
		}
	}
	for name, v := range in.ApplicationProperties {
		switch {
		case name == "iothub-ack" || reserved(name):
		case v == nil:
			m.Properties = append(m.Properties, iothub.Property{Name: name, Null: true})
		default:
			m.Properties = append(m.Properties, iothub.Property{Name: name, Value: text(v)})
		}
	}
	return m, m.System.Get(iothub.InputName)
}

// body returns the body of a message: its data sections, or a value that is text
// or bytes.
func body(m *amqp.Message) []byte {
	switch v := m.Value.(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	}
	if len(m.Data) == 1 {
		return m.Data[0]
	}
	var b []byte
	for _, d := range m.Data {
		b = append(b, d...)
	}
	return b
}

// text writes a scalar AMQP value; "" for what is none.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case *string:
		if v == nil {
			return ""
		}
		return *v
	case []byte:
		return string(v)
	case amqp.UUID:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return v.UTC().Format(timeLayout)
	case *time.Time:
		if v == nil {
			return ""
		}
		return v.UTC().Format(timeLayout)
	case fmt.Stringer:
		return v.String()
	case int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return fmt.Sprint(v)
	}
	return ""
}

// methodID writes the correlation-id of a method call such that correlation finds
// its type again, which the answer must have.
func methodID(v any) string {
	switch v := v.(type) {
	case string:
		return "s" + v
	case amqp.UUID:
		return "u" + string(v[:])
	}
	return ""
}

func correlation(id string) any {
	if id[0] == 'u' {
		var u amqp.UUID
		copy(u[:], id[1:])
		return u
	}
	return id[1:]
}

// newGUID returns a random GUID.
func newGUID() string {
	var u amqp.UUID
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}
