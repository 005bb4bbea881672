package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
)

// Server is the AMQP head. Create it with New. Methods may be called
// concurrently; several Serve may run at once.
type Server struct {
	opts   Options
	log    *slog.Logger
	tls    *tls.Config
	epochs epochs

	mu    sync.Mutex
	conns int
}

// New checks the options and returns a server that does nothing yet.
func New(opts Options) (*Server, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, epochs: epochs{groups: make(map[groupPartition]*readers)}}
	if opts.TLS != nil {
		s.tls = opts.TLS.Clone()
		// Whoever comes with a certificate is judged by the Backend; clients with
		// tokens share the port.
		s.tls.ClientAuth = tls.RequestClientCert
	}
	return s, nil
}

// Serve accepts connections until the context ends or the listener fails, then
// ends all of them and waits. It closes ln. It returns nil when the context ended
// it. A temporary failure to accept (no file descriptors) is waited out.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.log.Warn("amqp listener close", "err", err)
		}
	})
	delay := time.Duration(0)
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			wg.Go(func() { s.accepted(ctx, nc) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("amqp accept: %w", err)
		default:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("amqp accept", "err", err, "retryIn", delay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
		}
	}
}

// accepted does the TLS handshake and serves one connection of a listener.
func (s *Server) accepted(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	if !s.enter() {
		s.log.Warn("amqp connection refused: too many connections", "remote", nc.RemoteAddr())
		return
	}
	defer s.leave()
	t := Transport{Protocol: "amqp"}
	if s.tls != nil {
		nc = tls.Server(nc, s.tls)
	}
	if tc, ok := nc.(*tls.Conn); ok {
		handshake, cancel := context.WithTimeout(ctx, s.opts.ConnectTimeout)
		defer cancel()
		if err := tc.HandshakeContext(handshake); err != nil {
			s.log.Debug("amqp TLS handshake", "remote", nc.RemoteAddr(), "err", err)
			return
		}
		t.Peer = tc.ConnectionState().PeerCertificates
	}
	s.serve(ctx, nc, t)
}

// Transport says how a connection came in that ServeConn shall serve.
type Transport struct {
	Protocol string              // "amqp" or "amqp-ws", for head.Login
	Peer     []*x509.Certificate // certificates that the client proved to hold
}

// ServeConn serves one connection that another head accepted, such as a
// WebSocket, and returns when it has ended. It closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, t Transport) {
	defer nc.Close()
	if !s.enter() {
		return
	}
	defer s.leave()
	s.serve(ctx, nc, t)
}

// ServeWebSocket is ServeConn for a connection inside a WebSocket.
func (s *Server) ServeWebSocket(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
	s.ServeConn(ctx, nc, Transport{Protocol: "amqp-ws", Peer: peer})
}

func (s *Server) serve(ctx context.Context, nc net.Conn, t Transport) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newConn(ctx, s, nc, t)
	unwatch := func() bool { return true }
	engineOptions := engine.Options{
		ContainerID:      "DeviceGateway_" + newGUID().hex(),
		Mechanisms:       []string{mechanismCBS, mechanismPlain, mechanismAnonymous},
		HandshakeTimeout: s.opts.ConnectTimeout,
		IdleTimeout:      s.opts.IdleTimeout,
		CloseTimeout:     closeTimeout,
		MaxMessageSize:   maxTransfer,
		MaxBuffered:      s.opts.MaxUnackedBytes,
		MaxPartial:       s.opts.MaxUnackedBytes,
		MaxLinkBytes:     8 << 20,
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

// closeTimeout is how long a client may take to answer a close; a hub that stops waits
// for it.
const closeTimeout = 2 * time.Second

// enter counts an open socket against MaxConnections.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.MaxConnections > 0 && s.conns >= s.opts.MaxConnections {
		return false
	}
	s.conns++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}
