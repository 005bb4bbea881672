// Package cloud is the local hub behind its heads: it joins registry, twins,
// event log and access checks, keeps the sessions of connected devices and
// modules, and carries direct methods and manifests to them.
//
// It has two sides. Devices come in through the heads, for which Hub is a
// head.Backend. Services come in through package api, which calls the other
// methods of Hub.
package cloud

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/authority"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Options configure Open.
type Options struct {
	// Hosts are the names of the hub; the first one is its own.
	Hosts    []string
	Policies access.Policies
	Events   events.Options
	// EventHub describes the event-hub-compatible endpoint; Created, Partitions and the
	// group $Default are set by Open, and what is empty of the rest.
	EventHub head.EventHubInfo
	// Messages are the options of the cloud-to-device queues; Known, Now and Logger are
	// set by Open.
	Messages c2d.Options
	// MaxChildren is how many children an edge device may have; 0 means 100.
	MaxChildren int
	// Deleted, if not nil, is told of each identity that was deleted.
	Deleted func(iothub.Identity)
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Hub is the local hub. All methods may be called concurrently.
type Hub struct {
	o        Options
	log      *slog.Logger
	store    *store.Store
	registry *registry.Registry
	twins    *twin.Store
	events   *events.Log
	eventHub head.EventHubInfo
	messages *c2d.Queues
	// authorities sign the certificates of devices.
	authorities *authority.List
	access      *access.Checker
	presence    *presenceTable
	refresh     *refresher
	// configurations are deployments for many devices, and deployments is where they got.
	configurations *deployment.List
	deployments    *deployer

	applying sync.Map // device id -> struct{}: a manifest is being applied

	mu       sync.Mutex
	sessions map[iothub.Identity]*session
	closed   bool
	changed  chan struct{} // closed and replaced when a session subscribes or comes
	idle     chan struct{} // closed when closed is set and no session is left
}

var _ head.Backend = (*Hub)(nil)

// Open reads the hub's state from s. Run must be called for it to keep its bounds.
func Open(s *store.Store, o Options) (*Hub, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Hosts) == 0 {
		return nil, fmt.Errorf("open hub: no host name")
	}
	if o.Events.Now == nil {
		o.Events.Now = o.Now
	}
	h := &Hub{o: o, log: o.Logger, store: s, twins: twin.NewStore(s), sessions: map[iothub.Identity]*session{},
		changed: make(chan struct{}), idle: make(chan struct{}), refresh: newRefresher(), deployments: newDeployer(s)}
	var err error
	if h.registry, err = registry.Open(s, h.twins, o.Now, h.identitiesChanged); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	h.registry.SetMaxChildren(o.MaxChildren)
	if h.events, err = events.Open(s, o.Events); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	if h.configurations, err = deployment.Open(s, o.Now, h.deployments.changed); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	if err = h.deployments.load(); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	if h.presence, err = openPresence(s, o.Now, h.log); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	messages := o.Messages
	messages.Known, messages.Now, messages.Logger = h.knows, o.Now, h.log
	if h.messages, err = c2d.Open(s, messages); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	if h.authorities, err = authority.Open(s, o.Now, h.recheckAll); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	if err := h.describeEventHub(); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	h.access = access.New(h.registry, access.Options{Hosts: o.Hosts, Policies: o.Policies, Authorities: h.authorities.Pool, Now: o.Now,
		EventHub: h.eventHub.Name, EventHosts: []string{h.eventHub.Host}})
	return h, nil
}

// Run does the hub's own work until ctx ends. It then refuses new connections,
// ends those that are there, and waits for their heads to close them, at most for
// grace.
func (h *Hub) Run(ctx context.Context, grace time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.events.Run(ctx) })
	g.Go(func() error { return h.messages.Run(ctx) })
	g.Go(func() error { return h.refreshScopes(ctx) })
	g.Go(func() error { return h.reauthenticate(ctx) })
	g.Go(func() error { return h.deploy(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		h.shutdown(grace)
		return nil
	})
	return g.Wait()
}

func (h *Hub) shutdown(grace time.Duration) {
	h.mu.Lock()
	h.closed = true
	left := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		left = append(left, s)
	}
	if len(left) == 0 {
		close(h.idle)
	}
	h.mu.Unlock()
	for _, s := range left {
		s.disconnect(head.ErrShutdown)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-h.idle:
	case <-timer.C:
		h.log.Warn("connections did not end in time", "grace", grace)
	}
}

// Registry returns the identities, without their connection state.
func (h *Hub) Registry() *registry.Registry { return h.registry }

// Configurations returns the deployments for many devices, without the results of their
// metrics.
func (h *Hub) Configurations() *deployment.List { return h.configurations }

// Authorities returns the certificate authorities of the hub.
func (h *Hub) Authorities() *authority.List { return h.authorities }

// Events returns the event log.
func (h *Hub) Events() *events.Log { return h.events }

// Access returns the checker of credentials.
func (h *Hub) Access() *access.Checker { return h.access }
