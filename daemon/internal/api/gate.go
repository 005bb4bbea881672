package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
