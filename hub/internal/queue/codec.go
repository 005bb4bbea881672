package queue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// The form of a message on disk, all numbers unsigned varints:
//
//	version   1
//	body      length, bytes
//	system    count, then per property: name, value
//	custom    count, then per property: name, value
//
//	name      2*length, bytes; or 2*index+1 of knownNames
//	value     0 for a null value; or length+1, bytes
const messageVersion = 1

// knownNames are names of system properties that take one byte on disk. The index
// is part of the format: append only.
var knownNames = [...]string{
	iothub.MessageID, iothub.CorrelationID, iothub.UserID, iothub.To,
	iothub.AbsoluteExpiryTime, iothub.ContentType, iothub.ContentEncoding,
	iothub.OutputName, iothub.InputName, iothub.ConnectionDeviceID,
	iothub.ConnectionModuleID, iothub.ConnectionDeviceGenerationID,
	iothub.ConnectionAuthMethod, iothub.MessageSchema, iothub.MessageType,
	iothub.CreationTime, iothub.EnqueuedTime, iothub.InterfaceID,
	iothub.ComponentName, iothub.ModelID, iothub.DiagnosticID,
	iothub.CorrelationContext, iothub.Operation, iothub.Ack, iothub.LockToken,
	iothub.DeliveryCount, iothub.SequenceNumber, iothub.EdgeMessageID,
	iothub.EdgeHubOrigin, iothub.ReportedByDeviceID, iothub.ReportedByModuleID,
}

var nameIndex = func() map[string]uint64 {
	m := make(map[string]uint64, len(knownNames))
	for i, n := range knownNames {
		m[n] = uint64(i)
	}
	return m
}()

// errCorrupt is wrapped by every error of decoding.
var errCorrupt = errors.New("corrupt record")

// appendMessage appends the form on disk.
func appendMessage(b []byte, m *iothub.Message) []byte {
	b = append(b, messageVersion)
	b = binary.AppendUvarint(b, uint64(len(m.Body)))
	b = append(b, m.Body...)
	b = appendProperties(b, m.System, true)
	return appendProperties(b, m.Properties, false)
}

func appendProperties(b []byte, p iothub.Properties, known bool) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	for i := range p {
		index, ok := uint64(0), false
		if known {
			index, ok = nameIndex[p[i].Name]
		}
		if ok {
			b = binary.AppendUvarint(b, 2*index+1)
		} else {
			b = binary.AppendUvarint(b, 2*uint64(len(p[i].Name)))
			b = append(b, p[i].Name...)
		}
		if p[i].Null {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(p[i].Value))+1)
		b = append(b, p[i].Value...)
	}
	return b
}

// messageSpace is at least the size of the form on disk.
func messageSpace(m *iothub.Message) int {
	n := 1 + 3*binary.MaxVarintLen32 + len(m.Body)
	for _, list := range [2]iothub.Properties{m.System, m.Properties} {
		for i := range list {
			n += len(list[i].Name) + len(list[i].Value) + 2*binary.MaxVarintLen32
		}
	}
	return n
}

// decodeMessage reads the form on disk; the message shares nothing with b. Errors
// wrap errCorrupt.
func decodeMessage(b []byte) (*iothub.Message, error) {
	r := reader{b: b}
	if v := r.byte(); r.err == nil && v != messageVersion {
		return nil, fmt.Errorf("%w: message version %d", errCorrupt, v)
	}
	m := new(iothub.Message)
	if body := r.bytes(r.uvarint()); len(body) > 0 {
		m.Body = append(make([]byte, 0, len(body)), body...)
	}
	r.text = string(r.b) // one allocation for all names and values
	m.System = r.properties()
	m.Properties = r.properties()
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// reader reads fields from the front of b until the first error.
type reader struct {
	b    []byte
	text string // what string takes its results from: ends where b ends
	err  error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errCorrupt, what)
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail("record ends early")
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("wrong number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uvarint32() uint32 {
	v := r.uvarint()
	if v > 1<<32-1 {
		r.fail("number too large")
	}
	return uint32(v)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("wrong number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("record ends early")
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string(n uint64) string {
	start := len(r.text) - len(r.b)
	if r.bytes(n); r.err != nil {
		return ""
	}
	return r.text[start : start+int(n)]
}

func (r *reader) properties() iothub.Properties {
	n := r.uvarint()
	if n > uint64(len(r.b))/2 { // each takes two bytes or more
		r.fail("too many properties")
	}
	if n == 0 || r.err != nil {
		return nil
	}
	list := make(iothub.Properties, n)
	for i := range list {
		p := &list[i]
		switch name := r.uvarint(); {
		case name&1 == 0:
			p.Name = r.string(name / 2)
		case name/2 < uint64(len(knownNames)):
			p.Name = knownNames[name/2]
		default:
			r.fail("unknown name")
		}
		if v := r.uvarint(); v == 0 {
			p.Null = true
		} else {
			p.Value = r.string(v - 1)
		}
		if r.err != nil {
			return nil
		}
	}
	return list
}
