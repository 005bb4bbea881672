package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	mochi "github.com/mochi-mqtt/server/v2"
)

// Server is the MQTT head. Create it with New. Methods may be called
// concurrently; several Serve may run at once.
type Server struct {
	opts  Options
	log   *slog.Logger
	mqtt  *mochi.Server
	tls   *tls.Config
	count atomic.Uint64 // names connections within mochi

	mu    sync.Mutex
	conns int
	ids   map[iothub.Identity]int // admitted connections; two while one displaces another
}

// New checks the options and returns a server that does nothing yet.
func New(opts Options) (*Server, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, ids: make(map[iothub.Identity]int)}
	if opts.TLS != nil {
		s.tls = opts.TLS.Clone()
		// Whoever comes with a certificate is judged by the Backend, which knows
		// thumbprints and trust bundle; SAS clients share the port.
		s.tls.ClientAuth = tls.RequestClientCert
	}
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumPacketSize = uint32(opts.MaxMessageSize + topicRoom)
	capabilities.MinimumProtocolVersion = protocolLevel
	capabilities.MaximumClientWritesPending = 1 // mochi's own queue is not used
	capabilities.TopicAliasMaximum = 0
	s.mqtt = mochi.New(&mochi.Options{
		Capabilities: capabilities,
		// mochi logs whole packets on errors, and a CONNECT holds a token.
		Logger:                  slog.New(slog.DiscardHandler),
		ClientNetReadBufferSize: 8 << 10,
	})
	if err := s.mqtt.AddHook(&hook{srv: s}, nil); err != nil {
		return nil, fmt.Errorf("mqtt hook: %w", err)
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
			s.log.Warn("mqtt listener close", "err", err)
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
			return fmt.Errorf("mqtt accept: %w", err)
		default:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("mqtt accept", "err", err, "retryIn", delay)
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
	deadline := time.Now().Add(s.opts.ConnectTimeout)
	if err := nc.SetDeadline(deadline); err != nil {
		return
	}
	if !s.enter() {
		s.log.Warn("mqtt connection refused: too many connections", "remote", nc.RemoteAddr())
		return
	}
	defer s.leave()
	t := Transport{Protocol: "mqtt"}
	if s.tls != nil {
		nc = tls.Server(nc, s.tls)
	}
	if tc, ok := nc.(*tls.Conn); ok {
		if err := tc.HandshakeContext(ctx); err != nil {
			s.log.Debug("mqtt TLS handshake", "remote", nc.RemoteAddr(), "err", err)
			return
		}
		t.Peer = tc.ConnectionState().PeerCertificates
	}
	s.serve(ctx, nc, t)
}

// Transport says how a connection came in that ServeConn shall serve.
type Transport struct {
	Protocol string              // "mqtt" or "mqtt-ws", for head.Login
	Peer     []*x509.Certificate // certificates that the client proved to hold
}

// ServeConn serves one connection that another head accepted, such as a
// WebSocket, and returns when it has ended. It closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, t Transport) {
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(s.opts.ConnectTimeout)); err != nil {
		return
	}
	if !s.enter() {
		return
	}
	defer s.leave()
	s.serve(ctx, nc, t)
}

// ServeWebSocket is ServeConn for a connection inside a WebSocket.
func (s *Server) ServeWebSocket(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
	s.ServeConn(ctx, nc, Transport{Protocol: "mqtt-ws", Peer: peer})
}

func (s *Server) serve(ctx context.Context, nc net.Conn, t Transport) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nc, done := s.divert(ctx, nc, t.Peer)
	if done {
		return
	}
	c := newClient(ctx, s, nc, t)
	unwatch := context.AfterFunc(ctx, func() { c.stop(head.ErrShutdown) })
	defer unwatch()
	c.finish(c.read())
}

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

// admit counts an authenticated client against MaxClients; a second connection of
// one identity is none more.
func (s *Server) admit(id iothub.Identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids[id] == 0 && s.opts.MaxClients > 0 && len(s.ids) >= s.opts.MaxClients {
		return false
	}
	s.ids[id]++
	return true
}

func (s *Server) dismiss(id iothub.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids[id]--; s.ids[id] == 0 {
		delete(s.ids, id)
	}
}

// uniqueID names a connection within mochi, which would otherwise take over the
// session of an older one of the same client id.
func (s *Server) uniqueID(clientID string) string {
	return clientID + "#" + strconv.FormatUint(s.count.Add(1), 10)
}
