package topic

import (
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Direction is the way a message goes.
type Direction uint8

// Directions.
const (
	ToHub    Direction = iota // telemetry
	ToClient                  // cloud-to-device messages and inputs
)

// field is one row of the table of system properties (spec iothub-mqtt 6.1).
type field struct {
	wire     string // name in the bag, decoded
	name     string // name in iothub.Message.System
	toHub    bool   // written and read towards the hub
	toClient bool   // written towards the client; read there in any case
}

var fields = [...]field{
	{"$.mid", iothub.MessageID, true, true},
	{"$.cid", iothub.CorrelationID, true, true},
	{"$.uid", iothub.UserID, true, true},
	{"$.to", iothub.To, true, true},
	{"$.exp", iothub.AbsoluteExpiryTime, true, true},
	{"$.ct", iothub.ContentType, true, true},
	{"$.ce", iothub.ContentEncoding, true, true},
	{"$.on", iothub.OutputName, true, false},
	{"$.cdid", iothub.ConnectionDeviceID, false, true},
	{"$.cmid", iothub.ConnectionModuleID, false, true},
	{"$.schema", iothub.MessageSchema, true, true},
	{"$.ctime", iothub.CreationTime, true, true},
	{"$.ifid", iothub.InterfaceID, true, false},
	{"$.sub", iothub.ComponentName, true, true},
	{"$.diagid", iothub.DiagnosticID, true, true},
	{"$.diagctx", iothub.CorrelationContext, true, true},
	{"iothub-operation", iothub.Operation, true, true},
	{"iothub-ack", iothub.Ack, false, true},
}

// reads tells whether a reader in this direction knows the name at all, be it
// only to drop it.
func (f *field) reads(dir Direction) bool {
	return dir == ToClient || f.toHub || f.name != iothub.Ack
}

// maxWire is the longest wire name; what is longer cannot be one.
const maxWire = len("iothub-operation")

// fieldOf finds the row of a decoded wire name, case-sensitively. The bytes of
// name are not kept.
func fieldOf(name []byte) *field {
	if len(name) < 4 || (name[0] != '$' && name[0] != 'i') {
		return nil
	}
	for i := range fields {
		if fields[i].wire == string(name) {
			return &fields[i]
		}
	}
	return nil
}

// byName finds the row of a system property by its name in the vocabulary.
func byName(name string) *field {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

// EncodeBag writes the property bag of m: system properties that the direction
// knows first ("%24.mid=..."), application properties after, each in the order of
// the message; "" when there are none. System properties without a wire name are
// left out. So are application properties that bear a wire name of the table or a
// name that only the service may set, because a reader could not tell them from
// the real ones.
func EncodeBag(m *iothub.Message, dir Direction) string {
	var b []byte
	for i := range m.System {
		f := byName(m.System[i].Name)
		if f == nil || (dir == ToHub && !f.toHub) || (dir == ToClient && !f.toClient) {
			continue
		}
		b = appendPair(b, f.wire, &m.System[i])
	}
	for i := range m.Properties {
		p := &m.Properties[i]
		if p.Name == "" || serviceName(p.Name) || isSystem(p.Name, dir) {
			continue
		}
		b = appendPair(b, p.Name, p)
	}
	return string(b)
}

// isSystem tells whether a reader in this direction would take an application
// property of this name for a system property.
func isSystem(name string, dir Direction) bool {
	f := wireField(name)
	return f != nil && f.wire == name && f.reads(dir)
}

func appendPair(b []byte, name string, p *iothub.Property) []byte {
	if b == nil {
		b = make([]byte, 0, 256)
	} else {
		b = append(b, '&')
	}
	b = appendEncoded(b, name)
	if p.Null {
		return b
	}
	return appendEncoded(append(b, '='), p.Value)
}

// serviceName tells names of application properties that only the service sets.
func serviceName(name string) bool {
	const connection = "iothub-connection-"
	if len(name) >= len(connection) && strings.EqualFold(name[:len(connection)], connection) {
		return true
	}
	return strings.EqualFold(name, "iothub-enqueuedtime")
}

// DecodeBag adds the properties of a bag (Topic.Bag) to m: those of the table to
// m.System under the names of the vocabulary, all others, unknown "$." names
// included, to m.Properties. Names are decoded before they are compared. A name
// without "=" becomes a null property. Of equal names the last one wins.
//
// In direction ToHub the sender's names ("$.cdid", "$.cmid",
// "iothub-connection-*", "iothub-enqueuedtime") are dropped, and "iothub-ack",
// which means something only towards a client, stays an application property.
//
// Broken percent escapes stay as they are. The only error is a pair without a
// name; it wraps ErrMalformed and leaves m with a part of the bag.
func DecodeBag(bag string, m *iothub.Message, dir Direction) error {
	if bag == "" {
		return nil
	}
	n := strings.Count(bag, "&") + 1
	d := decoder{m: m, dir: dir, properties: m.Properties.Collect()}
	for bag != "" {
		pair, rest, _ := strings.Cut(bag, "&")
		bag = rest
		if pair == "" {
			continue
		}
		if err := d.pair(pair, n); err != nil {
			return err
		}
	}
	return nil
}

type decoder struct {
	m          *iothub.Message
	dir        Direction
	properties iothub.Collector
}

func (d *decoder) pair(pair string, n int) error {
	name, value, hasValue := strings.Cut(pair, "=")
	if name == "" {
		return fmt.Errorf("%w property bag: pair without a name", ErrMalformed)
	}
	p := iothub.Property{Null: !hasValue}
	if f := wireField(name); f != nil && f.reads(d.dir) {
		if d.dir == ToHub && !f.toHub {
			return nil
		}
		p.Name, p.Value = f.name, unescape(value)
		if d.m.System == nil {
			// Room for what the hub stamps on every message.
			d.m.System = make(iothub.Properties, 0, min(n, len(fields))+stamps)
		}
		d.m.System.Put(p)
		return nil
	}
	p.Name = unescape(name)
	if d.dir == ToHub && serviceName(p.Name) {
		return nil
	}
	p.Value = unescape(value)
	if d.m.Properties == nil {
		d.m.Properties = make(iothub.Properties, 0, n)
	}
	d.properties.Set(p)
	return nil
}

// stamps is how many system properties a hub typically adds.
const stamps = 6

// wireField finds the row of a name that may still be encoded, without
// allocating.
func wireField(name string) *field {
	var buf [maxWire]byte
	if len(name) > 3*maxWire || (name[0] != '$' && name[0] != '%' && name[0] != 'i') {
		return nil
	}
	return fieldOf(appendUnescaped(buf[:0], name))
}
