package amqp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

const (
	chunk      = 64 << 10 // most that is read or written at once, and kept of a buffer
	firstChunk = 4 << 10  // a reader begins with so much
)

// Conn is one connection. Its methods may be called from any goroutine.
type Conn struct {
	nc      net.Conn
	o       Options
	handler ConnHandler
	box     mailbox

	// Owned by the goroutine in run.
	e       *engine.Conn
	writing bool
	spare   []byte // for the engine's output
	held    [][]byte
	ioErr   error
	broken  bool // nothing can be written any more

	hurry      atomic.Bool // the connection is over but for the last words
	free, full chan []byte // buffers to and from the reader
	readErr    error       // set before full is closed
	writes     chan []byte
	wrote      chan written
	stop       chan struct{}
	wg         sync.WaitGroup
}

// written is a buffer that the writer gives back.
type written struct {
	buf []byte
	err error
}

func newConn(nc net.Conn, o Options) *Conn {
	c := &Conn{
		nc: nc, o: o, e: engine.New(o.Options, time.Now()),
		free: make(chan []byte, 2), full: make(chan []byte, 2),
		writes: make(chan []byte), wrote: make(chan written, 1), stop: make(chan struct{}),
	}
	c.box.wake = make(chan struct{}, 1)
	c.free <- nil
	c.free <- nil
	return c
}

// NetConn returns the connection that Serve was given, for its addresses and
// its TLS state. Do not read from it or write to it.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Close closes the connection with an error or nil. It does not wait; OnClose
// tells the end.
func (c *Conn) Close(err *wire.Error) {
	c.box.post(command{fn: func() { c.e.Close(err) }})
}

// Trust ends the limits for strangers of the Options, once it is known whom the
// connection serves.
func (c *Conn) Trust() { c.box.post(command{fn: func() { c.e.Trust() }}) }

// EndSessions ends all sessions with an error or nil, as a reason of their own before
// Close.
func (c *Conn) EndSessions(err *wire.Error) {
	c.box.post(command{fn: func() { c.e.EndSessions(err) }})
}

func (c *Conn) run(ctx context.Context) error {
	c.wg.Go(c.reader)
	c.wg.Go(c.writer)
	c.loop(ctx)
	c.linger()
	close(c.stop)
	_ = c.nc.Close()
	c.wg.Wait()
	c.finish()
	var err error
	if cause := c.e.Err(); c.ioErr != nil {
		err = c.ioErr
	} else if cause != nil {
		err = cause
	}
	if err != nil {
		c.o.Log.Debug("connection ended", "peer", c.nc.RemoteAddr(), "err", err)
	}
	c.handler.OnClose(err)
	return err
}

// loop runs the connection until the engine is done and all is written, or the
// transport is gone.
func (c *Conn) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	full, canceled := c.full, ctx.Done()
	for {
		c.settle()
		if c.broken || c.e.Done() && !c.writing {
			return
		}
		if c.e.Done() && !c.hurry.Swap(true) {
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.o.Linger))
		}
		var due <-chan time.Time
		if d := c.e.Deadline(); !d.IsZero() {
			timer.Reset(time.Until(d))
			due = timer.C
		}
		select {
		case b, ok := <-full:
			if !ok {
				full = nil
				c.lost(fmt.Errorf("read: %w", c.readErr))
				continue
			}
			c.e.Input(time.Now(), b)
			c.held = append(c.held, b)
		case <-c.box.wake:
		case w := <-c.wrote:
			c.writing, c.spare = false, w.buf
			if w.err != nil {
				c.broken = true
				c.lost(fmt.Errorf("write: %w", w.err))
			}
		case now := <-due:
			c.e.Tick(now)
		case <-canceled:
			canceled = nil
			c.e.Close(wire.Errorf(wire.CondConnectionForced, "the server is stopping"))
		}
	}
}

// settle brings everything in line after something has happened: commands,
// events, output, and buffers for the reader.
func (c *Conn) settle() {
	for {
		c.commands()
		n := c.dispatch()
		c.e.Flush()
		if n += c.dispatch(); n == 0 {
			break
		}
	}
	if !c.writing && len(c.e.Output()) > 0 {
		c.writing = true
		out := c.e.TakeOutput(time.Now(), c.spare)
		c.spare = nil
		c.writes <- out // the writer is idle, so it takes it at once
	}
	if c.e.WantsInput() {
		c.giveBack()
	}
}

// giveBack lets the reader have its buffers again.
func (c *Conn) giveBack() {
	for _, b := range c.held {
		c.free <- b
	}
	c.held = c.held[:0]
}

// lost tells the engine that the transport is gone.
func (c *Conn) lost(err error) {
	if c.e.Done() {
		return
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.ioErr, c.broken = err, true
	c.e.Abort(wire.Errorf(wire.CondConnectionForced, "the transport is gone"))
}

// finish answers what came too late.
func (c *Conn) finish() {
	c.box.close()
	for c.commands() > 0 || c.dispatch() > 0 {
	}
}

// linger lets the client read our last words before the transport is closed.
func (c *Conn) linger() {
	if c.broken || c.nc.SetReadDeadline(time.Now().Add(c.o.Linger)) != nil {
		return
	}
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	for {
		c.giveBack()
		b, ok := <-c.full
		if !ok {
			return
		}
		c.held = append(c.held, b)
	}
}

// reader reads into buffers that grow with what comes, because most
// connections are quiet and there may be many.
func (c *Conn) reader() {
	defer close(c.full)
	size := firstChunk
	for {
		var b []byte
		select {
		case b = <-c.free:
		case <-c.stop:
			c.readErr = net.ErrClosed
			return
		}
		if cap(b) < size {
			b = make([]byte, size)
		}
		b = b[:cap(b)]
		n, err := c.nc.Read(b)
		if n == len(b) {
			size = min(2*size, chunk)
		}
		if n > 0 {
			c.full <- b[:n] // has room for both buffers
		}
		if err != nil {
			c.readErr = err
			return
		}
		if n == 0 {
			c.free <- b
		}
	}
}

func (c *Conn) writer() {
	for {
		var b []byte
		select {
		case b = <-c.writes:
		case <-c.stop:
			return
		}
		err := c.write(b)
		if cap(b) > chunk {
			b = nil
		}
		c.wrote <- written{b, err}
	}
}

func (c *Conn) write(b []byte) error {
	for len(b) > 0 {
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.o.WriteTimeout)); err != nil {
			return err
		}
		if c.hurry.Load() {
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.o.Linger))
		}
		n, err := c.nc.Write(b[:c.piece(b)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// piece returns how much of b to write at once.
func (c *Conn) piece(b []byte) int {
	n := min(len(b), chunk)
	if !c.o.FramePerWrite {
		return n
	}
	if string(b[:4]) == "AMQP" { // a protocol header
		return 8
	}
	return min(int(binary.BigEndian.Uint32(b)), len(b))
}
