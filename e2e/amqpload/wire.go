package amqpload

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// As much of AMQP's encoding as a sender needs.

var (
	saslHeader = []byte("AMQP\x03\x01\x00\x00")
	amqpHeader = []byte("AMQP\x00\x01\x00\x00")
)

// Performatives, and the outcome "accepted".
const (
	codeOpen, codeBegin, codeAttach, codeFlow, codeTransfer = 0x10, 0x11, 0x12, 0x13, 0x14
	codeDisposition, codeDetach, codeEnd, codeClose         = 0x15, 0x16, 0x17, 0x18
	codeAccepted, codeSource, codeTarget                    = 0x24, 0x28, 0x29
	codeSASLInit, codeSASLOutcome                           = 0x41, 0x44
	codeApplicationProperties, codeData                     = 0x74, 0x75
)

// Types of frames.
const typeAMQP, typeSASL = 0, 1

var (
	null    = []byte{0x40}
	isFalse = []byte{0x42}
)

func number(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0x70}, n) }

// text is a string (0xb1), a symbol (0xb3) or binary (0xb0).
func text(constructor byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{constructor}, uint32(len(s))), s...)
}

// described is a list with a descriptor.
func described(code byte, fields ...[]byte) []byte {
	body := bytes.Join(fields, nil)
	b := []byte{0x00, 0x53, code, 0xd0}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	return append(b, body...)
}

// frame is one on channel 0.
func frame(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+8))
	return append(append(b, 2, kind, 0, 0), body...)
}

// Encode is a message with application properties, names and values in turns, and a
// body.
func Encode(body []byte, properties ...string) []byte {
	var pairs []byte
	for _, s := range properties {
		pairs = append(pairs, text(0xb1, s)...)
	}
	b := []byte{0x00, 0x53, codeApplicationProperties, 0xd1}
	b = binary.BigEndian.AppendUint32(b, uint32(len(pairs)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(properties)))
	b = append(b, pairs...)
	b = append(b, 0x00, 0x53, codeData)
	return append(b, text(0xb0, string(body))...)
}

// appendTransfer appends a frame with a message that is not settled, on handle 0.
func appendTransfer(b []byte, id uint32, message []byte) []byte {
	const head = 8 + 3 + 3 + 1 + 5 + 6 + 1 // frame header, descriptor, list, handle, id, tag, format
	b = binary.BigEndian.AppendUint32(b, uint32(head+len(message)))
	b = append(b, 2, typeAMQP, 0, 0, 0x00, 0x53, codeTransfer, 0xc0, 14, 4, 0x43, 0x70)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, 0xa0, 4)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(append(b, 0x43), message...)
}

// value is a field of a performative.
type value struct {
	set  bool
	n    uint32 // of a number; 1 of true
	code byte   // of a described list
	text []byte // of strings and the like
}

var errWire = errors.New("malformed frame")

// performative takes the body of a frame apart.
func performative(b []byte) (code byte, fields []value, err error) {
	if len(b) < 4 || b[0] != 0 || b[1] != 0x53 {
		return 0, nil, errWire
	}
	code, b = b[2], b[3:]
	count, b, err := list(b)
	for ; err == nil && count > 0; count-- {
		var v value
		if v, b, err = next(b); err == nil {
			fields = append(fields, v)
		}
	}
	return code, fields, err
}

// list reads the head of a list.
func list(b []byte) (count int, rest []byte, err error) {
	switch {
	case b[0] == 0x45:
		return 0, b[1:], nil
	case b[0] == 0xc0 && len(b) >= 3:
		return int(b[2]), b[3:], nil
	case b[0] == 0xd0 && len(b) >= 9:
		return int(binary.BigEndian.Uint32(b[5:])), b[9:], nil
	}
	return 0, nil, errWire
}

// next reads one value. How long it is follows from the upper half of its
// constructor.
func next(b []byte) (v value, rest []byte, err error) {
	if len(b) == 0 {
		return v, nil, errWire
	}
	if b[0] == 0 {
		if len(b) < 4 || b[1] != 0x53 {
			return v, nil, errWire
		}
		code := b[2]
		if v, rest, err = next(b[3:]); err == nil {
			v = value{set: true, code: code}
		}
		return v, rest, err
	}
	constructor, b := b[0], b[1:]
	size, width := 0, 0
	switch constructor >> 4 {
	case 4:
	case 5, 6, 7, 8, 9:
		size = 1 << (constructor>>4 - 5)
	case 0xa, 0xc, 0xe:
		width = 1
	case 0xb, 0xd, 0xf:
		width = 4
	default:
		return v, nil, errWire
	}
	if len(b) < width {
		return v, nil, errWire
	}
	switch width {
	case 1:
		size = int(b[0])
	case 4:
		size = int(binary.BigEndian.Uint32(b))
	}
	b = b[width:]
	if size < 0 || len(b) < size {
		return v, nil, errWire
	}
	v = value{set: constructor != 0x40, text: b[:size]}
	switch {
	case constructor == 0x41:
		v.n = 1
	case width == 0:
		for _, x := range v.text {
			v.n = v.n<<8 | uint32(x)
		}
	}
	return v, b[size:], nil
}

// at is a field, or one that is not set.
func at(fields []value, i int) value {
	if i < len(fields) {
		return fields[i]
	}
	return value{}
}
