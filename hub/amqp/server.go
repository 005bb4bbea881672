package amqp

import (
	"context"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
)

// Server serves connections. It has no state of its own: it may be copied, for
// instance to offer other SASL mechanisms to some connections.
type Server struct {
	// NewConn makes the handler of a new connection, before its first byte.
	NewConn func(*Conn) ConnHandler
	Options Options
}

// Options are what a Server can be told. Zero fields stand for defaults.
type Options struct {
	// Options of the engine, but for MaxQueue, in place of which
	// SenderOptions.MaxInFlight counts.
	engine.Options

	// WriteTimeout is how long the client may leave 64 KiB unread; 1 minute.
	WriteTimeout time.Duration
	// FramePerWrite gives each frame to the net.Conn in a Write of its own. Some
	// clients of the WebSocket binding want one frame for each message.
	FramePerWrite bool
	// Linger is how long a finished connection takes to write its last words,
	// and then waits for the client to close it, so that they are not lost;
	// 1 second.
	Linger time.Duration
	// Log gets what goes wrong on a connection, at level debug; nil: nothing.
	Log *slog.Logger
}

// ConnHandler decides what happens on one connection. Its methods run on the
// goroutine of the connection and must not block.
type ConnHandler interface {
	// OnSASL is called for the client's choice of a mechanism and for its
	// answers to challenges. r must be answered, now or later; the connection
	// stands still until then.
	OnSASL(r *SASL)
	// OnOpen is called when the client opens the connection. r must be
	// answered, now or later; the connection stands still until then.
	OnOpen(r *Open)
	// OnAttach is called for a new link, which must be accepted or refused, now
	// or later.
	OnAttach(a *Attach)
	// OnClose is called once, as the last of all calls, with the reason or nil.
	OnClose(err error)
}

// Serve serves one connection until it ends, and closes it. When ctx ends, the
// client is told amqp:connection:forced. It returns nil when the client has
// closed in order, else the reason: a *wire.Error or an error of nc.
func (s *Server) Serve(ctx context.Context, nc net.Conn) error {
	o := s.Options
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = time.Minute
	}
	if o.Linger <= 0 {
		o.Linger = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxQueue = math.MaxInt
	c := newConn(nc, o)
	c.handler = s.NewConn(c)
	return c.run(ctx)
}
