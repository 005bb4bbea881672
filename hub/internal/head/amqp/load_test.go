package amqp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// loadBackend admits everyone and settles messages at once.
type loadBackend struct{}

type loadSession struct{ head.Session }

func (loadBackend) Connect(context.Context, head.Login, head.Client) (head.Session, error) {
	return loadSession{}, nil
}
func (loadBackend) Check(context.Context, head.Login) error { return nil }

func (loadSession) Telemetry(_ context.Context, _ *iothub.Message, done func(error)) { done(nil) }
func (loadSession) Close(error)                                                      {}

// lean is a sender that does as little for a message as it can, so that what is
// measured is the server.
type lean struct {
	conn net.Conn
	r    *bufio.Reader
	dec  wire.Decoder

	mu      sync.Mutex
	moved   sync.Cond
	sent    uint32 // guarded by mu
	settled uint32
	credit  uint32 // what may be sent in all, by the link's credit
	window  uint32 // the same by the session's window
	err     error
}

const leanFrame = 1 << 16

// dialLean logs in by SASL PLAIN and attaches a sending link to the events of a
// device.
func dialLean(addr string, id iothub.Identity, token string) (*lean, error) {
	nc, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test certificate
	if err != nil {
		return nil, err
	}
	c := &lean{conn: nc, r: bufio.NewReaderSize(nc, leanFrame)}
	c.moved.L = &c.mu
	hello := []byte("AMQP\x03\x01\x00\x00")
	add := func(typ uint8, p wire.Performative) { hello, _ = wire.AppendFrame(hello, typ, 0, p, nil, leanFrame) }
	add(wire.FrameSASL, &wire.SASLInit{Mechanism: "PLAIN", InitialResponse: []byte("\x00" + id.Device + "@sas.h\x00" + token)})
	hello = append(hello, "AMQP\x00\x01\x00\x00"...)
	add(wire.FrameAMQP, &wire.Open{ContainerID: "lean", Hostname: "h", MaxFrameSize: leanFrame, ChannelMax: 10})
	add(wire.FrameAMQP, &wire.Begin{IncomingWindow: 1 << 20, OutgoingWindow: 1 << 20, HandleMax: 10})
	add(wire.FrameAMQP, &wire.Attach{
		Name: "load", Role: wire.RoleSender, SenderMode: wire.SenderMixed, InitialDeliveryCount: wire.Some(uint32(0)),
		Source: &wire.Source{Address: "me"}, Target: &wire.Target{Address: "/devices/" + id.Device + "/messages/events"},
	})
	if _, err := nc.Write(hello); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

// read takes what the server says until the connection ends.
func (c *lean) read() {
	err := func() error {
		for { // a protocol header comes before each kind of frames
			head, err := c.r.Peek(8)
			if err != nil {
				return err
			}
			if string(head[:4]) == "AMQP" {
				_, _ = c.r.Discard(8) // it is in the buffer
				continue
			}
			size := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
			raw, err := c.r.Peek(size)
			if err != nil {
				return err
			}
			f, _, err := wire.SplitFrame(raw, leanFrame)
			if err != nil {
				return err
			}
			if len(f.Body) > 0 {
				p, _, err := c.dec.Decode(f.Type, f.Body)
				if err != nil {
					return err
				}
				if err := c.heard(p); err != nil {
					return err
				}
			}
			_, _ = c.r.Discard(size) // it is in the buffer
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.moved.Broadcast()
}

func (c *lean) heard(p wire.Performative) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p := p.(type) {
	case *wire.Begin:
		c.window = p.IncomingWindow
	case *wire.Flow:
		c.window = p.NextIncomingID.V + p.IncomingWindow
		if p.Handle.Set {
			c.credit = p.DeliveryCount.V + p.LinkCredit.V
		}
	case *wire.Disposition:
		if p.State.Code != wire.StateAccepted {
			return fmt.Errorf("message %d: %v", p.First, p.State.Code)
		}
		c.settled += p.Last.Or(p.First) - p.First + 1
	case *wire.Detach:
		return fmt.Errorf("detached: %w", p.Error)
	case *wire.Close:
		return io.EOF
	}
	c.moved.Broadcast()
	return nil
}

// load sends n messages with at most inFlight of them not settled, and waits until
// all are. Those that may go go together.
func (c *lean) load(n, inFlight int, payload []byte) error {
	var batch []byte
	var tag [4]byte
	for left := uint32(n); left > 0; {
		c.mu.Lock()
		room := func() uint32 {
			return min(left, c.settled+uint32(inFlight)-c.sent, c.credit-c.sent, c.window-c.sent)
		}
		for c.err == nil && room() == 0 {
			c.moved.Wait()
		}
		count, first, err := room(), c.sent, c.err
		c.sent += count
		c.mu.Unlock()
		if err != nil {
			return err
		}
		batch = batch[:0]
		for id := first; id != first+count; id++ {
			tag = [4]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
			batch, _ = wire.AppendFrame(batch, wire.FrameAMQP, 0, &wire.Transfer{DeliveryID: wire.Some(id), DeliveryTag: tag[:]}, payload, leanFrame)
		}
		if _, err := c.conn.Write(batch); err != nil {
			return err
		}
		left -= count
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && c.settled != c.sent {
		c.moved.Wait()
	}
	return c.err
}
