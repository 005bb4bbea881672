// Package amqpload is a small AMQP 1.0 sender for loads, the sibling of mqttload:
// many messages in flight on one link, little work for each, so that what is
// measured is the server.
package amqpload

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
	TLS  *tls.Config
	// Host is the name of the hub that the client asks for.
	Host string
	// Username and Password log in by SASL PLAIN.
	Username, Password string
	// Address is the node that the link sends to.
	Address string
	// Buffer is the size of the buffers in bytes, one for each direction; 64 KiB if
	// it is 0.
	Buffer int
}

// maxFrame is the largest frame that the client takes.
const maxFrame = 4096

// Client is one connection with one link. It ends with its first error.
type Client struct {
	o    Options
	conn net.Conn
	r    *bufio.Reader

	mu       sync.Mutex
	moved    sync.Cond
	w        *bufio.Writer     // guarded by mu
	waiting  map[uint32]func() // guarded by mu: by delivery id
	sent     uint32            // guarded by mu: messages, and the next id
	credit   uint32            // guarded by mu: ids that the link's credit allows, in all
	window   uint32            // guarded by mu: the same by the session's window
	attached bool              // guarded by mu
	frame    []byte            // guarded by mu: for reuse

	done chan struct{}
	once sync.Once
	err  error // valid after done
}

// Dial connects, logs in, attaches the link and waits for credit.
func Dial(ctx context.Context, o Options) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if o.Buffer == 0 {
		o.Buffer = 64 << 10
	}
	conn, err := (&tls.Dialer{Config: o.TLS}).DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	c := &Client{
		o: o, conn: conn, r: bufio.NewReaderSize(conn, max(o.Buffer, maxFrame)), w: bufio.NewWriterSize(conn, o.Buffer),
		waiting: make(map[uint32]func()), done: make(chan struct{}),
	}
	c.moved.L = &c.mu
	if _, err := conn.Write(c.hello()); err != nil {
		conn.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	go c.read()
	c.mu.Lock()
	for c.room() == 0 && !c.over() {
		c.moved.Wait()
	}
	c.mu.Unlock()
	if !stop() || c.over() {
		<-c.done
		return nil, fmt.Errorf("log in: %w", c.err)
	}
	return c, nil
}

// hello is all that the client has to say until it sends; the answers are read
// later.
func (c *Client) hello() []byte {
	b := append([]byte(nil), saslHeader...)
	b = append(b, frame(typeSASL, described(codeSASLInit, text(0xb3, "PLAIN"), text(0xb0, "\x00"+c.o.Username+"\x00"+c.o.Password)))...)
	b = append(b, amqpHeader...)
	b = append(b, frame(typeAMQP, described(codeOpen, text(0xb1, "load"), text(0xb1, c.o.Host), number(maxFrame)))...)
	b = append(b, frame(typeAMQP, described(codeBegin, null, number(0), number(1<<20), number(1<<20)))...)
	return append(b, frame(typeAMQP, described(codeAttach, text(0xb1, "load"), number(0), isFalse, null, null,
		described(codeSource, text(0xb1, "load")), described(codeTarget, text(0xb1, c.o.Address)), null, null, number(0)))...)
}

// room is how many messages may be sent now. c.mu is held.
func (c *Client) room() uint32 {
	if !c.attached {
		return 0
	}
	return min(c.credit-c.sent, c.window-c.sent)
}

func (c *Client) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *Client) read() {
	var err error
	for err == nil {
		err = c.readFrame()
	}
	c.fail(err)
}

// readFrame takes one frame, or the header that comes before the first of a kind.
func (c *Client) readFrame() error {
	head, err := c.r.Peek(8)
	if err != nil {
		return err
	}
	size := len(head)
	if string(head[:4]) != "AMQP" {
		size = int(binary.BigEndian.Uint32(head))
		if size < 8 || size > c.r.Size() {
			return fmt.Errorf("frame of %d bytes", size)
		}
		raw, err := c.r.Peek(size)
		if err != nil {
			return err
		}
		if size > 8 {
			if err := c.heard(raw[8:]); err != nil {
				return err
			}
		}
	}
	_, err = c.r.Discard(size)
	return err
}

func (c *Client) heard(body []byte) error {
	code, fields, err := performative(body)
	if err != nil {
		return err
	}
	switch code {
	case codeSASLOutcome:
		if n := at(fields, 0).n; n != 0 {
			return fmt.Errorf("server refused the login: code %d", n)
		}
	case codeDisposition:
		return c.settle(fields)
	case codeDetach:
		return errors.New("server detached the link")
	case codeEnd, codeClose:
		return io.EOF
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch code {
	case codeBegin:
		c.window = at(fields, 2).n
	case codeAttach:
		c.attached = true
	case codeFlow:
		c.window = at(fields, 0).n + at(fields, 1).n
		if at(fields, 4).set {
			c.credit = at(fields, 5).n + at(fields, 6).n
		}
	}
	c.moved.Broadcast()
	return nil
}

// settle hears the outcome of a range of messages.
func (c *Client) settle(fields []value) error {
	first := at(fields, 1).n
	last := first
	if v := at(fields, 2); v.set {
		last = v.n
	}
	if code := at(fields, 4).code; code != codeAccepted {
		return fmt.Errorf("message %d is not accepted: outcome %#x", first, code)
	}
	for id := first; id != last+1; id++ {
		c.mu.Lock()
		accepted := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if accepted == nil {
			return fmt.Errorf("outcome of message %d, which is not under way", id)
		}
		accepted()
	}
	return nil
}

// Send sends a message that Encode has made; accepted is called after the server
// has accepted it, from the goroutine that reads, and must not block. The message
// may stay in a buffer until Flush. Send blocks while the server gives no credit.
func (c *Client) Send(message []byte, accepted func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.room() == 0 {
		if c.over() {
			return c.err
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		c.moved.Wait()
	}
	c.waiting[c.sent] = accepted
	c.frame = appendTransfer(c.frame[:0], c.sent, message)
	c.sent++
	_, err := c.w.Write(c.frame)
	return err
}

// Flush sends what is in the buffer.
func (c *Client) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Flush()
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
		c.mu.Lock()
		c.moved.Broadcast()
		c.mu.Unlock()
	})
}

// Close ends the connection at once.
func (c *Client) Close() { c.conn.Close(); <-c.done }
