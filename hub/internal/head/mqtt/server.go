package mqtt

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	mochi "github.com/mochi-mqtt/server/v2"
)

// Server is the MQTT head. Create it with New. Methods may be called
// concurrently; several Serve may run at once.
type Server struct {
	opts     Options
	log      *slog.Logger
	mqtt     *mochi.Server
	listener *listen.Listener
	count    atomic.Uint64 // names connections within mochi

	mu  sync.Mutex
	ids map[iothub.Identity]int // admitted connections; two while one displaces another
}

// New checks the options and returns a server that does nothing yet.
func New(opts Options) (*Server, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, ids: make(map[iothub.Identity]int)}
	s.listener = listen.New(listen.Options{Protocol: "mqtt", TLS: opts.TLS, Timeout: opts.ConnectTimeout,
		MaxConnections: opts.MaxConnections, Logger: opts.Logger})
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumPacketSize = uint32(s.maxPacket())
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
// it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.listener.Serve(ctx, ln, func(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
		s.serve(ctx, nc, Transport{Protocol: "mqtt", Peer: peer})
	})
}

// Transport says how a connection came in that ServeConn shall serve.
type Transport struct {
	Protocol string              // "mqtt" or "mqtt-ws", for head.Login
	Peer     []*x509.Certificate // certificates that the client proved to hold
}

// ServeConn serves one connection that another head accepted, such as a
// WebSocket, and returns when it has ended. It closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, t Transport) {
	s.listener.Conn(ctx, nc, func(ctx context.Context, nc net.Conn, _ []*x509.Certificate) { s.serve(ctx, nc, t) })
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
	nc, err := s.first(ctx, nc)
	if err != nil {
		s.log.Debug("mqtt connection ended before its CONNECT", "err", err)
		return
	}
	c := newClient(ctx, s, nc, t)
	unwatch := context.AfterFunc(ctx, func() { c.stop(head.ErrShutdown) })
	defer unwatch()
	c.finish(c.read())
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
