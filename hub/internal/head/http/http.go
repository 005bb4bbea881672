// Package http is edge hub's HTTPS port: direct methods between modules, metrics,
// and the other protocols inside WebSockets (spec edgehub-core 10.2, 13).
// Gateways and agents of edge devices below this one read their scope and manage
// their modules here.
package http

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Backend is what the server needs of the hub.
type Backend interface {
	// Device is the id of the edge device.
	Device() string
	// Authenticate checks credentials; errors as those of head.Backend.Connect.
	Authenticate(ctx context.Context, l head.Login) error
	// Invoke calls a direct method of a client of this hub. It waits so long for
	// the target and then so long for its answer. Errors: head.ErrNotConnected,
	// head.ErrNoAnswer, that of ctx.
	Invoke(ctx context.Context, caller, target iothub.Identity, r iothub.MethodRequest, connect, response time.Duration) (iothub.MethodResponse, error)

	// Members, Member and Modules are for edge devices below this one, which have
	// been authenticated. Errors: head.ErrUnauthorized, when actor may not act for
	// the target; head.ErrNotFound; *rest.Error, when the registry has refused.

	// Members lists what is directly below an edge device.
	Members(actor, target string) (rest.ScopeResult, error)
	// Member gives one identity.
	Member(ctx context.Context, actor string, target iothub.Identity) (rest.ScopeResult, error)
	// Modules makes a registry call about the modules of an edge device.
	Modules(ctx context.Context, actor, device string, call rest.ModuleCall, o rest.OnBehalfOf) (rest.Answer, error)
}

// Options configure a Server. Backend, TLS and Logger are required.
type Options struct {
	Backend Backend
	// TLS is the configuration of the port. A client certificate is asked for but
	// not required.
	TLS *tls.Config
	// WebSockets are the protocols that run inside WebSockets, by sub-protocol.
	WebSockets map[string]ws.Serve
	// ProxyModule is the module of this device that may pass on the certificates of
	// its clients; "" means there is none.
	ProxyModule string
	// Metrics answers GET /metrics; nil means 404.
	Metrics http.Handler
	// MaxConnections bounds the open connections; listen.Known says who gives way. 0 means
	// 1024.
	MaxConnections int
	// MaxMethods bounds the method calls under way, and MaxChildCalls those of edge
	// devices below; one more is answered with 429. 0 means 256 and 64.
	MaxMethods, MaxChildCalls int
	Logger                    *slog.Logger
}

const (
	headerTimeout = 15 * time.Second // TLS handshake included
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
	stopGrace     = 5 * time.Second
)

// Server is the HTTPS port. Create it with New.
type Server struct {
	o     Options
	calls chan struct{} // one token for each method call under way
	child chan struct{} // and for each call of an edge device below
}

// New returns a server that does nothing yet.
func New(o Options) *Server {
	if o.MaxConnections == 0 {
		o.MaxConnections = 1024
	}
	if o.MaxMethods == 0 {
		o.MaxMethods = 256
	}
	if o.MaxChildCalls == 0 {
		o.MaxChildCalls = 64
	}
	return &Server{o: o, calls: make(chan struct{}, o.MaxMethods), child: make(chan struct{}, o.MaxChildCalls)}
}

// Serve serves a listener until ctx ends, then ends all connections, waits for them
// and returns nil. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sockets := ws.New(ctx, s.o.WebSockets)
	config := s.o.TLS.Clone()
	config.ClientAuth = tls.RequestClientCert // judged by the Backend
	config.NextProtos = []string{"http/1.1"}  // WebSockets need it, and no SDK uses more
	server := &http.Server{
		Handler:           s.handler(sockets),
		TLSConfig:         config,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       listen.Guest,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// What net/http says of broken connections is none of ours to fix.
		ErrorLog:     slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done() // with it end WebSockets and calls
		end, done := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer done()
		if err := server.Shutdown(end); err != nil {
			s.o.Logger.Warn("http requests did not end in time", "error", err)
			_ = server.Close()
		}
		sockets.Wait()
	}()
	places := listen.New(listen.Options{Protocol: "http", MaxConnections: s.o.MaxConnections, Logger: s.o.Logger})
	err := server.ServeTLS(places.Limit(l), "", "")
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTPS: %w", err)
}

// handler is everything but the port.
func (s *Server) handler(sockets http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if ws.Asked(r) {
			sockets.ServeHTTP(w, s.behindProxy(r))
			return
		}
		s.route(w, r)
	})
}
