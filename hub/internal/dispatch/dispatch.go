// Package dispatch moves messages from the queues to the endpoints: one pump per
// endpoint reads, delivers, retries and settles, so that a slow or dead endpoint
// delays no other. The edge hub gives it a Sink per endpoint.
//
// Order: messages of one lane are delivered in the order in which they were
// stored. A lane is the messages of one priority, and where the sink orders by
// sender (SenderOrdered) those of one priority and sender. Many messages of a lane
// may be in flight; when one fails, no later one of its lane is sent any more, the
// others in flight come to their end, and then it goes on with the failed one.
//
// Bound: a pump holds at most Options.Held messages and HeldBytes of one priority
// in memory. Behind a lane that fails, other lanes go on until its messages fill
// that room; then all of this priority wait for it. Other priorities have room of
// their own.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Results of a delivery that mean something particular; test with errors.Is.
var (
	// ErrPermanent: the message can never be delivered; it is dropped.
	ErrPermanent = errors.New("message refused for good")
	// ErrNotReady: the endpoint cannot take anything now. The pump waits for
	// Engine.Wake, or for the next retry.
	ErrNotReady = errors.New("endpoint not ready")
)

// Info is what a sink may want to know beside the message.
type Info struct {
	Endpoint string
	Priority uint32
	Offset   uint64 // in its queue
	Enqueued time.Time
	Attempt  int // 1 for the first
	// First: nothing else of the lane is in flight, and whatever failed before has
	// been noticed. A sink that has failed a message may take messages of the lane
	// again from here on, without one overtaking another. Set in Deliver only.
	First bool
}

// Sink takes the messages of one endpoint. Methods are called from one goroutine.
type Sink interface {
	// Deliver starts a delivery and returns promptly. done must be called exactly
	// once, from any goroutine, possibly before Deliver returns: with nil when the
	// message is delivered, an error that is ErrPermanent or ErrNotReady, or any
	// other error, after which it is sent again, without limit. A sink that has
	// failed a message must fail the later ones of its lane too, since they would
	// arrive out of order, until one comes with Info.First: the pump may be about
	// to send more while it is told of the failure.
	Deliver(m *iothub.Message, info Info, done func(error))
	// Window is how many deliveries may be in flight now; 0: not ready.
	Window() int
}

// Sharing is a Sink that shares room with others, beside the Window of its own. A
// delivery needs a place, which Reserve has given; it is free again when its done is
// called. The methods are called from the goroutine of Deliver.
type Sharing interface {
	Sink
	// Reserve takes up to n places and returns how many, possibly 0. When it is fewer
	// than n, the sink calls Engine.Nudge for the endpoint as soon as there are more,
	// until the next GiveBack.
	Reserve(n int) int
	// GiveBack returns n places, possibly 0, that no delivery has used. A pump keeps
	// none from one round to the next.
	GiveBack(n int)
}

// SenderOrdered is a Sink that needs order per sender only, not per endpoint.
type SenderOrdered interface {
	Sink
	OrderedBySender()
}

// Hooks are told what happens, from the pumps' goroutines; they must not block.
// Each may be nil.
type Hooks struct {
	// Sent: delivered, so long after the delivery was started.
	Sent func(m *iothub.Message, info Info, took time.Duration)
	// Dropped: given up, for "ttl_expiry" (while it was retried or waited in
	// memory; see also queue.Options.Expired) or "permanent".
	Dropped func(m *iothub.Message, info Info, reason string)
	// Retry: failed, and will be sent again.
	Retry func(m *iothub.Message, info Info, err error)
}

// Options configure New. The zero value is usable.
type Options struct {
	Logger *slog.Logger // nil means slog.Default
	Hooks  Hooks
	// Held and HeldBytes bound what a pump holds in memory of one priority. 0
	// means 1024 and 4 MiB; one message is always allowed.
	Held      int
	HeldBytes int
	// Cleanup is the time between two searches for expired messages of an endpoint
	// that takes none. 0 means 30 min.
	Cleanup time.Duration
	// Drain is how long Run waits at its end for deliveries in flight. 0 means 2 s.
	Drain time.Duration
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Hooks.Sent == nil {
		o.Hooks.Sent = func(*iothub.Message, Info, time.Duration) {}
	}
	if o.Hooks.Dropped == nil {
		o.Hooks.Dropped = func(*iothub.Message, Info, string) {}
	}
	if o.Hooks.Retry == nil {
		o.Hooks.Retry = func(*iothub.Message, Info, error) {}
	}
	if o.Held <= 0 {
		o.Held = 1024
	}
	if o.HeldBytes <= 0 {
		o.HeldBytes = 4 << 20
	}
	if o.Cleanup <= 0 {
		o.Cleanup = 30 * time.Minute
	}
	if o.Drain <= 0 {
		o.Drain = 2 * time.Second
	}
}

// Engine owns the pumps. Methods may be called concurrently.
type Engine struct {
	q *queue.Queue
	o Options

	mu      sync.Mutex
	wanted  map[string]Sink  // guarded by mu; nil before the first Reconfigure
	version int              // guarded by mu: of wanted
	pumps   map[string]*pump // guarded by mu; changed by Run's goroutine only
	applied chan struct{}    // guarded by mu: closed when wanted was applied
	ended   bool             // guarded by mu: Run has ended
	running bool             // guarded by mu

	change chan struct{} // capacity 1: wanted has changed
}

// New makes an engine for the queues. Nothing is delivered before Run and
// Reconfigure.
func New(q *queue.Queue, o Options) *Engine {
	o.defaults()
	return &Engine{q: q, o: o, pumps: make(map[string]*pump), change: make(chan struct{}, 1)}
}

// Reconfigure sets the endpoints. Those that stay keep their messages, and get the
// new sink for what is sent from now on; those that are gone lose their messages,
// which is logged with their number, also when they were configured in an earlier
// run of the program. While Run runs, Reconfigure returns when the change is made,
// or ctx ends; before Run, at once.
//
// Change the routes before the endpoints: what is stored for a new endpoint waits,
// while what is stored for one that was removed stays until the next Reconfigure.
func (e *Engine) Reconfigure(ctx context.Context, endpoints map[string]Sink) error {
	e.mu.Lock()
	e.wanted = maps.Clone(endpoints)
	if e.wanted == nil {
		e.wanted = map[string]Sink{}
	}
	e.version++
	if e.applied == nil {
		e.applied = make(chan struct{})
	}
	applied, wait := e.applied, e.running && !e.ended
	e.mu.Unlock()
	select {
	case e.change <- struct{}{}:
	default:
	}
	if !wait {
		return nil
	}
	select {
	case <-applied:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reconfigure endpoints: %w", ctx.Err())
	}
}

// Wake tells that an endpoint can take messages (again). It does not block.
func (e *Engine) Wake(endpoint string) {
	e.mu.Lock()
	p := e.pumps[endpoint]
	e.mu.Unlock()
	if p != nil {
		p.box.wake()
	}
}

// Nudge tells that an endpoint may get more places; see Sharing. Unlike Wake it does
// not say that the endpoint is ready. It does not block.
func (e *Engine) Nudge(endpoint string) {
	e.mu.Lock()
	p := e.pumps[endpoint]
	e.mu.Unlock()
	if p != nil {
		p.box.nudge()
	}
}

// Run runs the pumps until ctx ends, and returns nil then. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	e.running = true
	e.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer e.finish()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-e.change:
				e.apply(ctx, g)
			}
		}
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	return nil
}

// finish lets nobody wait for a change any more.
func (e *Engine) finish() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	if e.applied != nil {
		close(e.applied)
		e.applied = nil
	}
}

// apply makes the pumps those that are wanted.
func (e *Engine) apply(ctx context.Context, g *errgroup.Group) {
	e.mu.Lock()
	wanted, version := e.wanted, e.version
	e.mu.Unlock()
	if wanted == nil {
		return
	}
	known := e.q.Endpoints()
	e.mu.Lock()
	for name := range e.pumps {
		known = append(known, name)
	}
	e.mu.Unlock()
	slices.Sort(known)
	for _, name := range slices.Compact(known) {
		if _, ok := wanted[name]; !ok {
			e.remove(ctx, name)
		}
	}
	for name, sink := range wanted {
		e.mu.Lock()
		p := e.pumps[name]
		if p == nil {
			p = newPump(name, sink, e.q.Reader(name), &e.o)
			e.pumps[name] = p
			pumpCtx, stop := context.WithCancel(ctx)
			p.stop = stop
			g.Go(func() error {
				defer stop()
				defer close(p.stopped)
				p.run(pumpCtx)
				return nil
			})
		} else {
			p.box.replace(sink)
		}
		e.mu.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.version == version && e.applied != nil {
		close(e.applied)
		e.applied = nil
	}
}

// remove ends an endpoint's pump and deletes its queues.
func (e *Engine) remove(ctx context.Context, name string) {
	e.mu.Lock()
	p := e.pumps[name]
	delete(e.pumps, name)
	e.mu.Unlock()
	if p != nil {
		p.removed.Store(true)
		p.stop()
		<-p.stopped
	}
	lost, err := e.q.RemoveEndpoint(ctx, name)
	switch {
	case err != nil:
		e.o.Logger.Error("remove queues of endpoint", "endpoint", name, "lost", lost, "error", err)
	case lost > 0:
		e.o.Logger.Warn("endpoint removed with its messages", "endpoint", name, "lost", lost)
	default:
		e.o.Logger.Info("endpoint removed", "endpoint", name)
	}
}
