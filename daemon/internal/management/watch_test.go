package management_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/management"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// breaking is an engine whose first event stream ends after one event.
type breaking struct {
	*runtimetest.Fake
	subscriptions int
}

func (b *breaking) Events(ctx context.Context) <-chan runtime.Event {
	b.subscriptions++
	if b.subscriptions > 1 {
		return b.Fake.Events(ctx)
	}
	ch := make(chan runtime.Event, 1)
	ch <- runtime.Event{Type: runtime.EventStarted, Module: "first"}
	close(ch)
	return ch
}

// receiver is the server's side of a stream, without a network.
type receiver struct {
	grpc.ServerStream
	ctx    context.Context
	events chan *managementv1.ModuleEvent
}

func (r *receiver) Context() context.Context     { return r.ctx }
func (r *receiver) SendHeader(metadata.MD) error { return nil }
func (r *receiver) Send(e *managementv1.ModuleEvent) error {
	r.events <- e
	return nil
}

func TestWatchTellsThatEventsWereLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := &breaking{Fake: runtimetest.New()}
		svc := &management.Modules{Observer: engine, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		r := &receiver{ctx: ctx, events: make(chan *managementv1.ModuleEvent, 4)}
		done := make(chan error, 1)
		go func() { done <- svc.Watch(nil, r) }()
		if e := <-r.events; e.GetName() != "first" {
			t.Errorf("got %v", e)
		}
		began := time.Now()
		if e := <-r.events; e.GetKind() != managementv1.ModuleEvent_KIND_LOST {
			t.Errorf("got %v", e)
		}
		if engine.subscriptions != 2 || time.Since(began) > 2*time.Second {
			t.Errorf("%d subscriptions after %v", engine.subscriptions, time.Since(began))
		}
		cancel()
		if err := <-done; status.Code(err) != codes.Canceled {
			t.Errorf("end: %v", err)
		}
	})
}
