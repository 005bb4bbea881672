package api

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
)

// gate stands before every call, of gRPC and of REST: first the limit of the
// caller (its module, or its user id on the host), then the guard.
type gate struct {
	guard   *peer.Guard
	limit   *limiter
	closing chan struct{} // closed when the server begins to end
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	leave, err := g.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := g.guard.Check(ctx, info.FullMethod, req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// stream authorises when the stream opens; it ends with the connection, that with
// the peer process, and both when the server ends.
func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	leave, err := g.enter(ss.Context())
	if err != nil {
		return err
	}
	defer leave()
	if err := g.guard.Check(ss.Context(), info.FullMethod, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ss.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-g.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	return next(srv, &endingStream{ServerStream: ss, ctx: ctx})
}

// endingStream is a stream whose context ends with the server.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // the way grpc hands it over
}

func (s *endingStream) Context() context.Context { return s.ctx }

func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return func() {}, nil // the guard refuses it and says so in the log
	}
	who := g.guard.Subject(ctx, caller)
	if !g.limit.enter(who) {
		return nil, status.Error(codes.ResourceExhausted, "too many simultaneous requests")
	}
	return func() { g.limit.leave(who) }, nil
}

// limiter bounds simultaneous requests per subject, see peer.Guard.Subject.
type limiter struct {
	max int

	mu  sync.Mutex
	now map[string]int
}

func newLimiter(limit int) *limiter { return &limiter{max: limit, now: map[string]int{}} }

func (l *limiter) enter(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now[who] >= l.max {
		return false
	}
	l.now[who]++
	return true
}

func (l *limiter) leave(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now[who]--; l.now[who] == 0 {
		delete(l.now, who)
	}
}

// inProcess is a gRPC client connection to services in this process: unary calls
// run the server's handler, with the interceptor that a network call would meet,
// in the caller's goroutine and context.
type inProcess struct {
	intercept grpc.UnaryServerInterceptor
	methods   map[string]method
}

type method struct {
	impl    any
	handler grpc.MethodHandler
}

func newInProcess(intercept grpc.UnaryServerInterceptor) *inProcess {
	return &inProcess{intercept: intercept, methods: map[string]method{}}
}

// RegisterService implements grpc.ServiceRegistrar.
func (p *inProcess) RegisterService(d *grpc.ServiceDesc, impl any) {
	for _, m := range d.Methods {
		p.methods["/"+d.ServiceName+"/"+m.MethodName] = method{impl: impl, handler: m.Handler}
	}
}

// Invoke implements grpc.ClientConnInterface. Call options are ignored.
func (p *inProcess) Invoke(ctx context.Context, name string, in, out any, _ ...grpc.CallOption) error {
	m, ok := p.methods[name]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	decode := func(v any) error { return copyMessage(v, in) }
	res, err := m.handler(m.impl, ctx, decode, p.intercept)
	if err != nil {
		return err
	}
	return copyMessage(out, res)
}

// NewStream implements grpc.ClientConnInterface; streams are for gRPC clients.
func (p *inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "streams need gRPC")
}

func copyMessage(to, from any) error {
	dst, ok := to.(proto.Message)
	src, alsoOK := from.(proto.Message)
	if !ok || !alsoOK {
		return status.Error(codes.Internal, fmt.Sprintf("%T is not a message", from))
	}
	proto.Merge(dst, src)
	return nil
}
