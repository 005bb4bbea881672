package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// AMQP in bytes: as much of it as faulty conversations need.

var (
	amqpHeader = []byte("AMQP\x00\x01\x00\x00")
	saslHeader = []byte("AMQP\x03\x01\x00\x00")
)

// frame is a frame of type 0 with a performative that is a list.
func frame(channel uint16, code byte, fields ...[]byte) []byte {
	body := bytes.Join(fields, nil)
	list := []byte{0x00, 0x53, code, 0xd0}
	list = binary.BigEndian.AppendUint32(list, uint32(len(body)+4))
	list = binary.BigEndian.AppendUint32(list, uint32(len(fields)))
	return rawFrame(channel, append(list, body...))
}

func rawFrame(channel uint16, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+8))
	b = append(b, 2, 0)
	b = binary.BigEndian.AppendUint16(b, channel)
	return append(b, body...)
}

func str(s string) []byte { return append([]byte{0xa1, byte(len(s))}, s...) }

func uintValue(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0x70}, n) }

var (
	null   = []byte{0x40}
	isTrue = []byte{0x41}
	no     = []byte{0x42}
)

// Performatives.
const (
	codeOpen, codeBegin, codeAttach, codeFlow, codeTransfer = 0x10, 0x11, 0x12, 0x13, 0x14
	codeEnd, codeClose                                      = 0x17, 0x18
)

func amqpOpen() []byte { return frame(0, codeOpen, str("raw"), str("hub")) }

func amqpBegin(channel uint16) []byte {
	return frame(channel, codeBegin, null, uintValue(0), uintValue(100), uintValue(100))
}

// terminus is a source (0x28) or target (0x29) with an address.
func terminus(code byte, address string) []byte {
	fields := str(address)
	return append([]byte{0x00, 0x53, code, 0xc0, byte(len(fields) + 1), 1}, fields...)
}

// attachSender is a sending link to an address.
func attachSender(name, address string) []byte {
	return frame(0, codeAttach, str(name), uintValue(0), no, null, null, terminus(0x28, "me"), terminus(0x29, address), null, null, uintValue(0))
}

// amqpExchange is one raw conversation: its answer must have these bytes in it.
type amqpExchange struct {
	name string
	send []byte
	want []string
	ends bool
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func amqpExchanges(device string) []amqpExchange {
	begun := concat(amqpHeader, amqpOpen(), amqpBegin(0))
	const framing = "amqp:connection:framing-error"
	oversized := concat(amqpHeader, amqpOpen(), []byte{0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0})
	mechanism := func(name string, response []byte) []byte {
		sym := append([]byte{0xa3, byte(len(name))}, name...)
		data := append([]byte{0xa0, byte(len(response))}, response...)
		init := frame(0, 0x41, sym, data)
		init[5] = 1 // a SASL frame
		return concat(saslHeader, init)
	}
	return []amqpExchange{
		{"an HTTP request", []byte("GET / HTTP/1.1\r\n\r\n"), []string{"AMQP"}, true},
		{"AMQP 0-9-1", []byte("AMQP\x00\x00\x09\x01"), []string{"AMQP"}, true},
		{"SASL with an unknown mechanism", mechanism("NONSENSE", nil), []string{"MSSBCBS"}, true},
		{"SASL PLAIN with a wrong password", mechanism("PLAIN", []byte("\x00"+device+"@sas.10\x00SharedAccessSignature sr=a&sig=b&se=1")), []string{"PLAIN"}, true},
		{"frame of 4 bytes", concat(amqpHeader, []byte{0, 0, 0, 4, 2, 0, 0, 0}), []string{framing}, true},
		{"frame of 2 GiB", oversized, []string{framing}, true},
		{"frame with an offset of 0", concat(amqpHeader, []byte{0, 0, 0, 8, 0, 0, 0, 0}), []string{framing}, true},
		{"begin before open", concat(amqpHeader, amqpBegin(0)), nil, true},
		{"second open", concat(amqpHeader, amqpOpen(), amqpOpen()), []string{"amqp:"}, true},
		{"garbage for a performative", concat(amqpHeader, amqpOpen(), rawFrame(0, []byte{0x00, 0x53, 0x11, 0xd0, 0xff, 0xff, 0xff, 0xff})), []string{"amqp:"}, true},
		{"unknown performative", concat(amqpHeader, amqpOpen(), frame(0, 0x7e)), []string{"amqp:"}, true},
		{"performative of a million nested lists", concat(amqpHeader, amqpOpen(), rawFrame(0, bytes.Repeat([]byte{0x00}, 60000))), []string{"amqp:"}, true},
		{"frame on a channel without a session", concat(amqpHeader, amqpOpen(), frame(9, codeFlow, null, uintValue(1), uintValue(0), uintValue(1))), nil, true},
		{"transfer on a handle without a link", concat(begun, frame(0, codeTransfer, uintValue(77), uintValue(0), []byte{0xa0, 1, 1}, uintValue(0), isTrue)), []string{"amqp:session:unattached-handle"}, false},
		{"telemetry link without a token", concat(begun, attachSender("t", "/devices/"+device+"/messages/events")), []string{"amqp:unauthorized-access"}, false},
		{"link to $cbs without a token", concat(begun, attachSender("c", "$cbs")), []string{"$cbs"}, false},
		{"link to an unknown address", concat(begun, attachSender("t", "/nonsense")), []string{"amqp:"}, false},
		{"close is answered", concat(begun, frame(0, codeClose)), nil, true},
		{"end is answered", concat(begun, frame(0, codeEnd)), []string{"\x00\x53\x17"}, false},
	}
}

// rawAMQP tries what only a faulty client does, each in a connection of its own. All at
// once: a hub waits some seconds for the close of who has erred.
func (w *world) rawAMQP(ctx context.Context, hub string) {
	c := &checks{w, "raw bytes", "amqp", hub}
	list := amqpExchanges(w.hostiles[hub].device)
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, e := range list {
		wg.Go(func() { errs[i] = w.amqpExchange(ctx, hub, e) })
	}
	wg.Wait()
	for i, e := range list {
		c.check(ctx, e.name, func(context.Context) (string, error) { return "", errs[i] })
	}
}

func (w *world) amqpExchange(ctx context.Context, hub string, e amqpExchange) error {
	conn, err := w.dialTLS(ctx, hub, portAMQP)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	if _, err := conn.Write(e.send); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	var got []byte
	ended := false
	for buf := make([]byte, 64<<10); !ended && (e.ends || !containsAll(got, e.want)); {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			ended = true
		case err != nil && e.ends && !isTimeout(err):
			ended = true // it closed on what it had not read
		case err != nil:
			return fmt.Errorf("after %q: %w", got, err)
		}
	}
	if !containsAll(got, e.want) {
		return fmt.Errorf("answer %q has not %q", got, e.want)
	}
	if !e.ends && ended {
		return fmt.Errorf("the connection ended after %q", got)
	}
	return nil
}

func containsAll(got []byte, want []string) bool {
	for _, s := range want {
		if !bytes.Contains(got, []byte(s)) {
			return false
		}
	}
	return true
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
