package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The frame types.
const (
	FrameAMQP uint8 = 0
	FrameSASL uint8 = 1
)

// MinMaxFrameSize is the smallest max-frame-size that a peer may ask for.
const MinMaxFrameSize = 512

// FrameHeaderSize is the size of the header of the frames written here.
const FrameHeaderSize = 8

// ErrFraming is wrapped by SplitFrame's errors.
var ErrFraming = errors.New("amqp: malformed frame")

// Frame is a frame whose body has not been decoded. An empty Body is a
// heartbeat.
type Frame struct {
	Type    uint8
	Channel uint16
	Body    []byte // aliases the input
}

// SplitFrame takes the frame at the front of b and returns its size, or 0 when
// b holds only a part of it. A frame larger than maxSize is an error as soon
// as its size is known.
func SplitFrame(b []byte, maxSize uint32) (f Frame, n int, err error) {
	if len(b) < 4 {
		return f, 0, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size < 8 || size > maxSize {
		return f, 0, fmt.Errorf("%w: size %d, allowed are 8 to %d", ErrFraming, size, maxSize)
	}
	if len(b) < 8 {
		return f, 0, nil
	}
	offset := 4 * int(b[4])
	if offset < 8 || offset > int(size) {
		return f, 0, fmt.Errorf("%w: data offset %d in %d bytes", ErrFraming, offset, size)
	}
	if len(b) < int(size) {
		return f, 0, nil
	}
	f = Frame{Type: b[5], Channel: binary.BigEndian.Uint16(b[6:]), Body: b[offset:size:size]}
	return f, int(size), nil
}

// AppendFrame appends a frame: p and then payload, of which at most so much is
// taken that the frame has no more than maxSize bytes; it returns how much. A
// nil p makes an empty frame, the heartbeat.
func AppendFrame(b []byte, typ uint8, channel uint16, p Performative, payload []byte, maxSize uint32) ([]byte, int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 2, typ, byte(channel>>8), byte(channel))
	n := 0
	if p != nil {
		b = p.appendTo(b)
		room := max(int64(maxSize)-int64(len(b)-start), 0)
		n = int(min(int64(len(payload)), room))
		b = append(b, payload[:n]...)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b, n
}

// Decoder decodes the bodies of frames. Each result of Decode is valid only
// until the next call, because the frequent performatives are kept in the
// Decoder. The zero Decoder is ready for use.
type Decoder struct {
	flow        Flow
	transfer    Transfer
	disposition Disposition
	r           reader
}

// Decode decodes the body of a frame and returns the performative and what
// follows it, both of which may alias body.
func (d *Decoder) Decode(typ uint8, body []byte) (p Performative, payload []byte, err error) {
	d.r = reader{b: body}
	code := d.r.descriptor()
	if d.r.err != nil {
		return nil, nil, d.r.err
	}
	switch typ {
	case FrameAMQP:
		p = d.performative(code)
	case FrameSASL:
		p = saslFrame(code)
	}
	if p == nil {
		return nil, nil, fmt.Errorf("%w: descriptor 0x%x in a frame of type %d", ErrDecode, code, typ)
	}
	p.readFrom(&d.r)
	if d.r.err != nil {
		return nil, nil, d.r.err
	}
	return p, body[d.r.off:], nil
}

// Cost returns about how many bytes the result of the last Decode takes in
// memory, strings and values included, for limits on what is kept.
func (d *Decoder) Cost() int { return len(d.r.b) + 64*d.r.elements }

func (d *Decoder) performative(code uint64) Performative {
	switch code {
	case codeOpen:
		return new(Open)
	case codeBegin:
		return new(Begin)
	case codeAttach:
		return new(Attach)
	case codeFlow:
		return &d.flow
	case codeTransfer:
		return &d.transfer
	case codeDisposition:
		return &d.disposition
	case codeDetach:
		return new(Detach)
	case codeEnd:
		return new(End)
	case codeClose:
		return new(Close)
	}
	return nil
}

func saslFrame(code uint64) Performative {
	switch code {
	case codeSASLMechanisms:
		return new(SASLMechanisms)
	case codeSASLInit:
		return new(SASLInit)
	case codeSASLChallenge:
		return new(SASLChallenge)
	case codeSASLResponse:
		return new(SASLResponse)
	case codeSASLOutcome:
		return new(SASLOutcome)
	}
	return nil
}
