// Package edge is the hub on the edge device: the Backend behind the protocol
// heads. It admits clients that the scope knows, routes and stores what they send,
// delivers to module inputs and to the cloud, and keeps twins and methods going
// with or without a cloud.
//
//	head -> session -> route.Table -> queue -> dispatch -> inputSink -> session
//	                                                    -> cloudSink -> upstream.Pool
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/hub/internal/auth"
	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Options configure a Hub. Durations of 0 mean the defaults.
type Options struct {
	HubName  string // of the IoT hub
	Device   string // id of the edge device
	Hostname string // name of this gateway, as clients dial it
	Version  string

	MaxClients int           // 100
	AckTimeout time.Duration // for a module to settle an input message: 30 s
	Reauth     time.Duration // between two checks of connected clients: 5 min

	// ConfigRefresh is between two looks at the hub's own twin: 1 h.
	ConfigRefresh time.Duration
	// Connectivity is how long the own cloud connection may be silent before it is
	// tried: 5 min; negative: for ever. CallTimeout bounds one call: 20 s.
	// Hanging: see upstream.Options; 50 s.
	Connectivity, CallTimeout, Hanging time.Duration

	Limits Limits

	Dial upstream.Dialer
	Idle time.Duration // close an unused cloud connection: 1 h; negative: never
	// KeepConnections leaves the cloud connection of a client that has left until it is
	// idle; otherwise it is closed when nothing of it is under way.
	KeepConnections bool
	// LocalSubscriptions keeps what clients subscribe to from the cloud: it sends them
	// no methods, messages or desired properties.
	LocalSubscriptions bool
	// KeepForUnknown lets messages of identities that the cloud does not let in wait;
	// otherwise they are dropped.
	KeepForUnknown bool
	// CloudVouches has the cloud asked about tokens of whom the scope does not know,
	// CloudVouchesForAll about all tokens. Messages of strangers then wait for them to come
	// back, as with KeepForUnknown.
	CloudVouches, CloudVouchesForAll bool

	Records twin.Records
	Config  Config
	// Fixed are desired properties that count in place of those of the hub's twin; nil:
	// those of the twin count.
	Fixed []byte
	Twin  twin.Options
	Auth  auth.Options

	// Messages is where the queues lie. It belongs to the hub.
	Messages seglog.Folder
	// UnsafeNoSync: see queue.Options.
	UnsafeNoSync bool
	Scope        *scope.Cache
	// Registry takes what those below this hub ask of the registry.
	Registry Registry
	Metrics  *metrics.Metrics
	Logger   *slog.Logger
}

// Config keeps the last good configuration for a start without a cloud.
type Config interface {
	Get(key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
}

// Hub is the edge hub's Backend. Run must run for it to work.
type Hub struct {
	o       Options
	log     *slog.Logger
	metrics *metrics.Metrics
	scope   *scope.Cache
	auth    *auth.Authenticator
	twins   *twin.Manager
	pool    *upstream.Pool
	queue   *queue.Queue
	engine  *dispatch.Engine

	routing    atomic.Pointer[routing]
	online     atomic.Bool  // the hub's own cloud connection is up
	lost       atomic.Int64 // when it went down, in ns since 1970; 0 while it is up, or was never
	configured chan struct{}
	configOnce sync.Once
	configMu   sync.Mutex            // one configuration at a time
	desired    desired               // guarded by configMu
	inputs     map[string]*inputSink // guarded by configMu; by endpoint
	refetch    chan struct{}         // capacity 1: the hub's twin could not be fetched
	vouching   chan struct{}         // one token for each login that the cloud is asked about
	hits       sync.Pool
	jobs       *jobs // that wait for nobody
	calls      *jobs // to the cloud, for clients
	own        *jobs // to the cloud, for the hub: a slow answer to a client delays none
	report     *reporter

	mu       sync.Mutex
	sessions map[iothub.Identity]*session
	ready    chan struct{} // closed when a client begins to take methods
	closing  bool
}

var (
	_ head.Backend     = (*Hub)(nil)
	_ upstream.Handler = (*Hub)(nil)
)

// New wires the hub. Nothing runs yet.
func New(o Options) (*Hub, error) {
	if o.MaxClients == 0 {
		o.MaxClients = 100
	}
	defaults := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	defaults(&o.AckTimeout, 30*time.Second)
	defaults(&o.Reauth, 5*time.Minute)
	defaults(&o.ConfigRefresh, time.Hour)
	defaults(&o.Connectivity, 5*time.Minute)
	defaults(&o.CallTimeout, 20*time.Second)
	defaults(&o.Hanging, 50*time.Second)
	h := &Hub{
		o: o, log: o.Logger, metrics: o.Metrics, scope: o.Scope,
		configured: make(chan struct{}),
		sessions:   make(map[iothub.Identity]*session),
		ready:      make(chan struct{}),
		refetch:    make(chan struct{}, 1),
		vouching:   make(chan struct{}, maxVouching),
	}
	if o.CloudVouches || o.CloudVouchesForAll {
		o.Auth.Cloud, o.Auth.CloudOnly = h.askCloud, o.CloudVouchesForAll
		o.KeepForUnknown = true
	}
	h.auth = auth.New(o.Scope, o.Auth)
	h.pool = upstream.New(o.Dial, h, upstream.Options{
		Token: h.ownToken, KeepForUnknown: o.KeepForUnknown, Idle: o.Idle, Hanging: o.Hanging, Logger: o.Logger, Max: max(1000, 2*o.MaxClients),
	})
	h.twins = twin.New(cloudTwins{h}, o.Records, h.notifyDesired, o.Twin)
	h.jobs, h.calls, h.own = newJobs(4), newJobs(32), newJobs(4)
	h.report = newReporter(h)
	var err error
	if h.queue, err = queue.Open(o.Messages, h.queueOptions()); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	o.Metrics.WatchQueues(h.queueLengths)
	h.engine = dispatch.New(h.queue, dispatch.Options{Logger: o.Logger, Hooks: h.hooks()})
	h.routing.Store(h.newRouting(nil))
	return h, nil
}

func (h *Hub) queueLengths() []metrics.QueueLength {
	var list []metrics.QueueLength
	for _, l := range h.queue.Lengths() {
		list = append(list, metrics.QueueLength{Endpoint: l.Endpoint, Priority: l.Priority, Messages: l.Messages})
	}
	return list
}

// Configured is closed when the hub has a configuration, the last one from disk or
// one from the cloud. Heads should not serve before.
func (h *Hub) Configured() <-chan struct{} { return h.configured }

// Run runs the hub until ctx ends, or the storage of its queues fails. Clients are
// disconnected and the queues closed at the end.
func (h *Hub) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, h.queue.Close()) }()
	if err := h.loadConfig(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.pool.Run(ctx) })
	h.twins.Resume(h.scope.IDs())
	g.Go(func() error { return h.twins.Run(ctx) })
	g.Go(func() error { return h.engine.Run(ctx) })
	g.Go(func() error { return h.scope.Run(ctx) })
	for _, j := range []*jobs{h.jobs, h.calls, h.own} {
		g.Go(func() error { return j.run(ctx) })
	}
	g.Go(func() error { return h.report.run(ctx) })
	g.Go(func() error { return h.reauthenticate(ctx) })
	g.Go(func() error { return h.followOwnTwin(ctx) })
	g.Go(func() error { return h.watchConnectivity(ctx) })
	g.Go(func() error {
		err := h.queue.Watch(ctx)
		if err != nil {
			h.log.Error("storage has failed; the hub ends, so that it starts anew from what is on disk", "error", err)
		}
		return err
	})
	<-ctx.Done()
	h.disconnectAll()
	return g.Wait()
}

// self is the hub's own identity.
func (h *Hub) self() iothub.Identity { return iothub.ModuleIdentity(h.o.Device, iothub.HubModule) }

// Connect admits a client. See head.Backend.
func (h *Hub) Connect(ctx context.Context, l head.Login, c head.Client) (head.Session, error) {
	if err := h.Check(ctx, l); err != nil {
		return nil, err
	}
	s := &session{hub: h, identity: l.Identity, login: l, byCloud: h.auth.Vouched(l), client: c, gone: make(chan struct{}), features: make(map[head.Feature]bool)}
	h.mu.Lock()
	old := h.sessions[l.Identity]
	switch {
	case h.closing:
		h.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", head.ErrUnavailable, head.ErrShutdown)
	case old == nil && len(h.sessions) >= h.o.MaxClients:
		h.mu.Unlock()
		return nil, fmt.Errorf("%w: maximum allowed clients, %d, are connected", head.ErrUnavailable, h.o.MaxClients)
	}
	h.sessions[l.Identity] = s
	// Told under the lock, so that they hear of coming and going in that order.
	h.metrics.Connected(l.Identity.String(), len(h.sessions))
	h.report.connected(l.Identity)
	h.mu.Unlock()
	if old != nil {
		old.client.Disconnect(head.ErrReplaced)
		h.subscribeUpstream(l.Identity) // the new one has yet to say what it wants
	}
	return s, nil
}

// Check tells whether a login would be admitted. See head.Backend.
func (h *Hub) Check(ctx context.Context, l head.Login) error {
	var err error
	switch l.Identity {
	case h.self():
		err = fmt.Errorf("%w: %s is this hub", head.ErrUnauthorized, l.Identity)
	case iothub.Identity{}:
		return fmt.Errorf("%w: no policies on this hub", head.ErrUnauthorized)
	default:
		err = h.auth.Authenticate(ctx, l)
	}
	if errors.Is(err, head.ErrUnauthorized) {
		h.metrics.Refused(l.Identity.String())
	}
	return err
}

// Product is what a connected client calls itself, "" for others.
func (h *Hub) Product(id iothub.Identity) string {
	if s := h.session(id); s != nil {
		return s.credentials().Product
	}
	return ""
}

// leave forgets a session that has ended, unless a newer one has its place.
func (h *Hub) leave(s *session) {
	id := s.id()
	h.mu.Lock()
	current := h.sessions[id] == s
	if current {
		delete(h.sessions, id)
		h.metrics.Disconnected(id.String(), len(h.sessions))
		h.report.disconnected(id)
	}
	h.mu.Unlock()
	if current {
		h.subscribeUpstream(id)
	}
}

func (h *Hub) session(id iothub.Identity) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

func (h *Hub) all() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		list = append(list, s)
	}
	return list
}

// disconnectAll ends all sessions, and lets no new ones in.
func (h *Hub) disconnectAll() {
	h.mu.Lock()
	h.closing = true
	h.mu.Unlock()
	for _, s := range h.all() {
		s.client.Disconnect(head.ErrShutdown)
	}
}

// settleInOrder calls done after those of everything that was accepted before:
// answers keep their order.
func (h *Hub) settleInOrder(result error, done func(error)) {
	h.queue.Append(nil, nil, func(err error) {
		if result != nil {
			err = result
		}
		done(err)
	})
}

// reauthenticate checks connected clients again and again: tokens expire, keys
// change, devices are disabled.
func (h *Hub) reauthenticate(ctx context.Context) error {
	tick := time.NewTicker(h.o.Reauth)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, s := range h.all() {
				h.recheck(s)
				h.resubscribe(s)
			}
		}
	}
}

func (h *Hub) recheck(s *session) {
	check, l := h.auth.Check, s.credentials()
	if s.vouched() && h.auth.Vouched(l) {
		check = h.auth.Valid // the rest is the cloud's to say
	}
	if err := check(l); err != nil {
		h.log.Info("client is no longer authenticated", "id", s.id().String(), "error", err)
		s.client.Disconnect(fmt.Errorf("%w: %w", head.ErrExpired, err))
	}
}

// ScopeChanged is to be called when an identity has changed or gone.
func (h *Hub) ScopeChanged(id iothub.Identity) {
	for _, s := range h.all() {
		// Those on whose behalf a child speaks depend on everybody in between.
		if s.id() == id || s.id().Parent() == id || s.credentials().AuthChain != "" {
			h.recheck(s)
		}
	}
	e, ok := h.scope.Lookup(id)
	if ok && e.Enabled || id == h.self() {
		// The hub's own connection stays: whether it may is the cloud's to say.
		return
	}
	h.pool.CloseBelow(id, h.self())
	if !ok {
		h.jobs.add("forget "+id.String(), func(ctx context.Context) {
			if _, back := h.scope.Lookup(id); back {
				return
			}
			if err := h.twins.Forget(ctx, id); err != nil {
				h.log.Error("twin of a deleted identity stays", "error", err)
			}
		})
	}
}
