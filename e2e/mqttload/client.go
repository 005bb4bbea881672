// Package mqttload is a small MQTT 3.1.1 client for loads: QoS 1, many messages in
// flight, little work for each, so that what is measured is the server.
package mqttload

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Options say how to connect.
type Options struct {
	Addr string
	// TLS is nil for plain TCP.
	TLS                          *tls.Config
	ClientID, Username, Password string
	// Persistent asks the server to keep the session.
	Persistent bool
	// Buffer is the size of the buffers in bytes, one for each direction; 64 KiB if
	// it is 0.
	Buffer int
	// Wrap may put something around the connection, inside TLS; nil for nothing.
	Wrap func(net.Conn) net.Conn
	// OnMessage is called for each message that is delivered, from one goroutine;
	// what is delivered with QoS 1 is acknowledged after it returned. payload is
	// valid during the call only.
	OnMessage func(topic string, payload []byte)
}

// Client is one connection. It ends with its first error.
type Client struct {
	o    Options
	conn net.Conn
	r    *bufio.Reader

	mu      sync.Mutex
	w       *bufio.Writer     // guarded by mu
	waiting map[uint16]func() // guarded by mu: by packet id
	nextID  uint16            // guarded by mu

	suback chan byte
	done   chan struct{}
	once   sync.Once
	err    error // valid after done
}

// RefusedError is the return code of a CONNACK that is not 0.
type RefusedError byte

func (e RefusedError) Error() string {
	return fmt.Sprintf("server refused the connection: code %d", byte(e))
}

const (
	connack   = 2 << 4
	publish   = 3 << 4
	puback    = 4 << 4
	suback    = 9 << 4
	pingresp  = 13 << 4
	maxPacket = 1 << 20
)

// Dial connects and waits for the CONNACK.
func Dial(ctx context.Context, o Options) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil {
		t := tls.Client(conn, o.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		conn = t
	}
	if o.Wrap != nil {
		conn = o.Wrap(conn)
	}
	if o.Buffer == 0 {
		o.Buffer = 64 << 10
	}
	c := &Client{
		o: o, conn: conn, r: bufio.NewReaderSize(conn, o.Buffer), w: bufio.NewWriterSize(conn, o.Buffer),
		waiting: make(map[uint16]func()), suback: make(chan byte, 1), done: make(chan struct{}),
	}
	if err := c.connect(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

func (c *Client) connect(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok {
		if err := c.conn.SetDeadline(d); err != nil {
			return err
		}
	}
	flags := byte(0)
	if !c.o.Persistent {
		flags |= 2
	}
	if c.o.Username != "" {
		flags |= 0xc0
	}
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 0} // no keep-alive
	body = text(body, c.o.ClientID)
	if c.o.Username != "" {
		body = text(text(body, c.o.Username), c.o.Password)
	}
	if _, err := c.conn.Write(packet(1<<4, body)); err != nil {
		return err
	}
	kind, answer, err := c.readPacket(nil)
	switch {
	case err != nil:
		return fmt.Errorf("connect: %w", err)
	case kind != connack || len(answer) != 2:
		return errors.New("connect: no CONNACK")
	case answer[1] != 0:
		return RefusedError(answer[1])
	}
	return c.conn.SetDeadline(time.Time{})
}

func text(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func packet(kind byte, body []byte) []byte {
	return append(header(nil, kind, len(body)), body...)
}

func header(b []byte, kind byte, size int) []byte {
	return binary.AppendUvarint(append(b, kind), uint64(size)) // MQTT's form is the same
}

// readPacket reads into buf if it is large enough.
func (c *Client) readPacket(buf []byte) (kind byte, body []byte, err error) {
	if kind, err = c.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return 0, nil, err
	}
	if n > maxPacket {
		return 0, nil, fmt.Errorf("packet of %d bytes", n)
	}
	if uint64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	body = buf[:n]
	_, err = io.ReadFull(c.r, body)
	return kind, body, err
}

func (c *Client) read() {
	buf := make([]byte, c.o.Buffer)
	var err error
	for err == nil {
		var kind byte
		var body []byte
		if kind, body, err = c.readPacket(buf); err != nil {
			break
		}
		err = c.handle(kind, body)
		if err == nil && c.r.Buffered() == 0 {
			err = c.Flush()
		}
	}
	c.fail(err)
}

func (c *Client) handle(kind byte, body []byte) error {
	switch kind & 0xf0 {
	case puback:
		if len(body) < 2 {
			return errors.New("short PUBACK")
		}
		id := binary.BigEndian.Uint16(body)
		c.mu.Lock()
		done := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if done == nil {
			return fmt.Errorf("PUBACK for %d, which is not under way", id)
		}
		done()
	case suback:
		if len(body) < 3 {
			return errors.New("short SUBACK")
		}
		c.suback <- body[2]
	case publish:
		return c.deliver(kind, body)
	case pingresp:
	default:
		return fmt.Errorf("unexpected packet %#x", kind)
	}
	return nil
}

func (c *Client) deliver(kind byte, body []byte) error {
	if len(body) < 2 {
		return errors.New("short PUBLISH")
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	qos := kind >> 1 & 3
	if len(body) < n || qos > 0 && len(body) < n+2 {
		return errors.New("short PUBLISH")
	}
	topic, rest := string(body[2:n]), body[n:]
	if qos == 0 {
		c.o.OnMessage(topic, rest)
		return nil
	}
	c.o.OnMessage(topic, rest[2:])
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.Write([]byte{puback, 2, rest[0], rest[1]})
	return err
}

// Publish sends with QoS 1; acked is called after the PUBACK, from the goroutine
// that reads, and must not block. It may stay in a buffer until Flush.
func (c *Client) Publish(topic string, payload []byte, acked func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.nextID++; c.nextID == 0 || c.waiting[c.nextID] != nil; c.nextID++ {
	}
	c.waiting[c.nextID] = acked
	var head [16]byte
	b := header(head[:0], publish|2, 4+len(topic)+len(payload))
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	c.w.Write(b)                                           //nolint:errcheck // Flush reports it
	c.w.WriteString(topic)                                 //nolint:errcheck // Flush reports it
	c.w.Write([]byte{byte(c.nextID >> 8), byte(c.nextID)}) //nolint:errcheck // Flush reports it
	_, err := c.w.Write(payload)
	return err
}

// Flush sends what is in the buffer.
func (c *Client) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Flush()
}

// Subscribe subscribes with QoS 1 and waits for the SUBACK. One at a time.
func (c *Client) Subscribe(ctx context.Context, filter string) error {
	body := append(text([]byte{0, 1}, filter), 1)
	c.mu.Lock()
	_, err := c.w.Write(packet(8<<4|2, body))
	c.mu.Unlock()
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return err
	}
	select {
	case code := <-c.suback:
		if code > 2 {
			return fmt.Errorf("server refused the subscription %s", filter)
		}
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why it has ended; valid after Done.
func (c *Client) Err() error { return c.err }

func (c *Client) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
		c.conn.Close()
	})
}

// Close ends the connection at once.
func (c *Client) Close() { c.conn.Close(); <-c.done }
