// Package api serves gRPC and REST together on unix sockets. A connection that
// begins with the HTTP/2 preface goes to gRPC, every other one to HTTP/1.1, where
// the same services are reached through grpc-gateway in-process. One interceptor
// authorises both.
//
// A Server is one API (workload or management). It may listen on many sockets,
// which come and go with modules.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
)

const (
	maxMessage   = 4 << 20 // bytes of a request
	headTimeout  = 10 * time.Second
	idleTimeout  = 2 * time.Minute
	drainTimeout = 5 * time.Second
)

// Options configures a Server. All fields are needed but REST.
type Options struct {
	// Register adds the services.
	Register func(grpc.ServiceRegistrar)
	// REST makes the handler of HTTP/1.1 requests, WorkloadREST or ManagementREST;
	// local reaches the registered services. nil answers 404 to all.
	REST func(ctx context.Context, local Local) (http.Handler, error)
	// Guard authorises every call.
	Guard *peer.Guard
	// MaxRequests bounds the simultaneous requests of one module, or of one user
	// id of the host.
	MaxRequests int
	Log         *slog.Logger
}

// Server serves one API. Make it with New, then Run it once; Listen may be called
// before, during, and (failing) after Run.
type Server struct {
	opt   Options
	grpc  *grpc.Server
	http  *http.Server
	h2    *queue // connections on their way to gRPC
	h1    *queue // and to HTTP/1.1
	gate  *gate
	group sync.WaitGroup

	mu      sync.Mutex
	sockets map[*Socket]struct{}
	closed  bool // Listen fails
}

// New prepares a server.
func New(opt Options) (*Server, error) {
	gate := &gate{guard: opt.Guard, limit: newLimiter(opt.MaxRequests), closing: make(chan struct{})}
	s := &Server{opt: opt, h2: newQueue(), h1: newQueue(), gate: gate, sockets: map[*Socket]struct{}{}}
	s.grpc = grpc.NewServer(
		grpc.Creds(peer.Credentials()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ConnectionTimeout(headTimeout),
		// The agent keeps a stream open for long and may ping to see that it lives.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(gate.unary),
		grpc.StreamInterceptor(gate.stream),
		grpc.WaitForHandlers(true),
	)
	local := newInProcess(gate)
	both := registrars{s.grpc, local}
	opt.Register(both)
	healthv1.RegisterHealthServer(s.grpc, health.NewServer())

	handler := http.Handler(http.HandlerFunc(notFound))
	if opt.REST != nil {
		var err error
		if handler, err = opt.REST(context.Background(), local); err != nil {
			return nil, fmt.Errorf("rest handler: %w", err)
		}
	}
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if known, ok := c.(peer.Known); ok {
				return peer.NewContext(ctx, known.Caller())
			}
			return ctx
		},
	}
	return s, nil
}

// Run serves until ctx ends, then closes all sockets, ends streams, gives requests
// in progress a few seconds, and returns when nothing of the server runs any more.
func (s *Server) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error {
		if err := s.grpc.Serve(s.h2); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		if err := s.http.Serve(s.h1); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	<-ctx.Done()
	s.shutdown(context.WithoutCancel(ctx))
	s.group.Wait()
	return g.Wait()
}

func (s *Server) shutdown(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	open := make([]*Socket, 0, len(s.sockets))
	for k := range s.sockets {
		open = append(open, k)
	}
	s.mu.Unlock()
	for _, k := range open {
		k.stopAccepting()
	}
	close(s.gate.closing)
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close() // what does not end in time is cut off
	}
	select {
	case <-drained:
	case <-ctx.Done():
		s.grpc.Stop()
		<-drained
	}
	_, _ = s.h1.Close(), s.h2.Close() // never fail
	for _, k := range open {
		k.Close()
	}
}

// registrars registers a service in several places.
type registrars []grpc.ServiceRegistrar

func (r registrars) RegisterService(d *grpc.ServiceDesc, impl any) {
	for _, x := range r {
		x.RegisterService(d, impl)
	}
}

// queue is a net.Listener of connections that were accepted elsewhere. It holds
// none: put waits until a server takes the connection.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), done: make(chan struct{})} }

// put hands c over. It gives up when the server ends or stop is closed.
func (q *queue) put(c net.Conn, stop <-chan struct{}) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
	case <-stop:
	}
	return false
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.UnixAddr{Name: "api", Net: "unix"} }
