package amqp

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
)

// Server is the AMQP head. Create it with New. Methods may be called
// concurrently; several Serve may run at once.
type Server struct {
	opts     Options
	log      *slog.Logger
	listener *listen.Listener
	epochs   epochs
}

// New checks the options and returns a server that does nothing yet.
func New(opts Options) (*Server, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, epochs: epochs{groups: make(map[groupPartition]*readers)}}
	s.listener = listen.New(listen.Options{Protocol: "amqp", TLS: opts.TLS, Timeout: opts.ConnectTimeout,
		MaxConnections: opts.MaxConnections, Logger: opts.Logger})
	return s, nil
}

// Serve accepts connections until the context ends or the listener fails, then
// ends all of them and waits. It closes ln. It returns nil when the context ended
// it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.listener.Serve(ctx, ln, func(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
		s.serve(ctx, nc, Transport{Protocol: "amqp", Peer: peer})
	})
}

// Transport says how a connection came in that ServeConn shall serve.
type Transport struct {
	Protocol string              // "amqp" or "amqp-ws", for head.Login
	Peer     []*x509.Certificate // certificates that the client proved to hold
}

// ServeConn serves one connection that another head accepted, such as a
// WebSocket, and returns when it has ended. It closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, t Transport) {
	s.listener.Conn(ctx, nc, func(ctx context.Context, nc net.Conn, _ []*x509.Certificate) { s.serve(ctx, nc, t) })
}

// ServeWebSocket is ServeConn for a connection inside a WebSocket.
func (s *Server) ServeWebSocket(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
	s.ServeConn(ctx, nc, Transport{Protocol: "amqp-ws", Peer: peer})
}

func (s *Server) serve(ctx context.Context, nc net.Conn, t Transport) {
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return // it has ended; the engine has its own times
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newConn(ctx, s, nc, t)
	unwatch := func() bool { return true }
	engineOptions := engine.Options{
		ContainerID:      "DeviceGateway_" + newGUID().hex(),
		Mechanisms:       []string{mechanismCBS, mechanismPlain, mechanismAnonymous},
		HandshakeTimeout: s.opts.ConnectTimeout,
		IdleTimeout:      s.opts.IdleTimeout,
		Heartbeat:        heartbeat,
		CloseTimeout:     closeTimeout,
		MaxMessageSize:   maxTransfer,
		MaxBuffered:      s.opts.MaxUnackedBytes,
		MaxPartial:       s.opts.MaxUnackedBytes,
		MaxLinkBytes:     8 << 20,
		Stranger:         engine.Limits{Sessions: strangerSessions, Links: strangerLinks, Bytes: strangerBytes},
	}
	if len(t.Peer) > 0 {
		engineOptions.Mechanisms = append(engineOptions.Mechanisms, mechanismExternal)
	}
	server := amqp.Server{
		NewConn: func(ac *amqp.Conn) amqp.ConnHandler {
			c.amqp = ac
			unwatch = context.AfterFunc(ctx, c.stop)
			return c
		},
		Options: amqp.Options{
			Options: engineOptions, WriteTimeout: s.opts.WriteTimeout,
			// Some clients take one frame a WebSocket message and no more.
			FramePerWrite: t.Protocol == "amqp-ws",
		},
	}
	err := server.Serve(context.WithoutCancel(ctx), nc) // stop ends it
	unwatch()
	c.finish(err)
}

// Limits of a connection on which nobody has authenticated. The SDK for Java begins a
// session for each of up to 1000 devices before it shows their tokens.
const (
	strangerSessions = 1100
	strangerLinks    = 256
	strangerBytes    = 512 << 10
)

// heartbeat is how often a client gets a frame that has not asked for any (spec
// iothub-amqp 3.2): gateways on the way forget connections that are silent.
const heartbeat = 105 * time.Second

// closeTimeout is how long a client may take to answer a close; a hub that stops waits
// for it.
const closeTimeout = 2 * time.Second
