// Package scope knows who may talk to this edge hub: the edge device itself, its
// modules and the devices below it, with their keys, as the cloud's registry lists
// them. What was fetched is kept, sealed, on disk, so that clients authenticate for
// as long as the cloud is away.
package scope

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// AuthType is how an identity authenticates.
type AuthType string

// Kinds of authentication, as the registry names them.
const (
	SAS                  AuthType = "sas"
	SelfSigned           AuthType = "selfSigned"
	CertificateAuthority AuthType = "certificateAuthority"
	None                 AuthType = "none"
)

// Entry is one identity of the scope.
type Entry struct {
	ID           iothub.Identity
	GenerationID string
	Enabled      bool
	Auth         AuthType
	Primary      sas.Key
	Secondary    sas.Key
	Thumbprints  []string // upper-case hex
	Edge         bool     // an edge device
	DeviceScope  string
	ParentScopes []string
}

// Errors of a Source.
var (
	// ErrUnknown: the identity does not exist; final.
	ErrUnknown = errors.New("identity does not exist")
	// ErrForbidden: the identity is not in this scope, or the hub itself was refused.
	// Which of the two, only a listing of the whole scope tells.
	ErrForbidden = errors.New("identity is not in the scope")
)

// Source is where the scope comes from: the cloud.
type Source interface {
	// List returns everybody in the scope.
	List(ctx context.Context) ([]Entry, error)
	// Get returns one identity, or an error that wraps ErrUnknown or ErrForbidden.
	// chain is the auth chain of the edge device below which it should stand; ""
	// means that of this hub.
	Get(ctx context.Context, id iothub.Identity, chain string) (Entry, error)
}

// Records is the place on disk; seal.Bucket is one.
type Records interface {
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	// Scan calls fn for each record that can be read and bad for each other.
	Scan(prefix string, fn func(key string, value []byte) error, bad func(key string, err error)) error
}

// Options configure a Cache. Zero durations mean the defaults.
type Options struct {
	RefreshEvery time.Duration // 1 h
	MinDistance  time.Duration // between two refreshes: 2 min
	RetryEvery   time.Duration // while there is nothing at all: 1 min
	// Changed is called, outside of all locks, for identities that are gone,
	// disabled or have other credentials than before.
	Changed func(id iothub.Identity)
	Logger  *slog.Logger
}

// Cache is the scope as last known. It may be used concurrently.
type Cache struct {
	source Source
	disk   Records
	o      Options
	wake   chan struct{}

	mu       sync.RWMutex
	entries  map[iothub.Identity]Entry
	asked    map[iothub.Identity]time.Time // last single refresh
	full     time.Time                     // last full refresh that succeeded
	failed   time.Time                     // last full refresh that failed
	unsaved  map[iothub.Identity]bool      // that the disk did not take
	listings int                           // under way
	fetched  map[iothub.Identity]bool      // singly, while a listing is under way
}

// New loads what is on disk. Records that cannot be opened are dropped, with a
// warning.
func New(source Source, disk Records, o Options) (*Cache, error) {
	if o.RefreshEvery == 0 {
		o.RefreshEvery = time.Hour
	}
	if o.MinDistance == 0 {
		o.MinDistance = 2 * time.Minute
	}
	if o.RetryEvery == 0 {
		o.RetryEvery = time.Minute
	}
	if o.Changed == nil {
		o.Changed = func(iothub.Identity) {}
	}
	c := &Cache{
		source: source, disk: disk, o: o,
		wake:    make(chan struct{}, 1),
		entries: make(map[iothub.Identity]Entry),
		asked:   make(map[iothub.Identity]time.Time),
		unsaved: make(map[iothub.Identity]bool),
		fetched: make(map[iothub.Identity]bool),
	}
	err := disk.Scan("", func(key string, value []byte) error {
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			o.Logger.Warn("stored identity is unreadable", "id", key, "error", err)
			return nil
		}
		e, err := r.entry()
		if err != nil {
			o.Logger.Warn("stored identity is unreadable", "id", key, "error", err)
			return nil
		}
		c.entries[e.ID] = e
		return nil
	}, func(key string, err error) {
		o.Logger.Warn("stored identity is unreadable", "id", key, "error", err)
	})
	if err != nil {
		return nil, fmt.Errorf("load scope: %w", err)
	}
	return c, nil
}

// Lookup returns an identity as last known.
func (c *Cache) Lookup(id iothub.Identity) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[id]
	return e, ok
}

// Len is the number of identities known.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.entries)
}

// Complete tells whether the whole scope was fetched since New: only then is
// somebody who is not known really not there.
func (c *Cache) Complete() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return !c.full.IsZero()
}

// Refresh asks the source for one identity, at most once in MinDistance for each
// (identities that are known to have no credentials may be asked for always). It
// returns false when it did not ask. A source that cannot be reached changes
// nothing; when it forbids the question the identity stays as well, and the whole
// scope is listed as soon as that is due (spec edgehub-core 2).
func (c *Cache) Refresh(ctx context.Context, id iothub.Identity) (bool, error) {
	return c.RefreshBelow(ctx, id, "")
}

// RefreshBelow is Refresh for an identity that may not be known yet and should stand
// below the edge device that begins the auth chain.
func (c *Cache) RefreshBelow(ctx context.Context, id iothub.Identity, chain string) (bool, error) {
	now := time.Now()
	c.mu.Lock()
	e, known := c.entries[id]
	if last, ok := c.asked[id]; ok && now.Sub(last) < c.o.MinDistance && (!known || e.Auth != None) {
		c.mu.Unlock()
		return false, nil
	}
	if len(c.asked) >= maxAsked {
		clear(c.asked) // forget: strangers must not fill the memory
	}
	c.asked[id] = now
	c.mu.Unlock()
	return true, c.Fetch(ctx, id, chain)
}

// Fetch asks the source for one identity, whenever it was asked last: for one that
// is known to have changed. The rest is as for RefreshBelow.
func (c *Cache) Fetch(ctx context.Context, id iothub.Identity, chain string) error {
	e, err := c.source.Get(ctx, id, chain)
	switch {
	case errors.Is(err, ErrUnknown):
		c.noteFetched(id)
		return c.remove(ctx, id)
	case errors.Is(err, ErrForbidden):
		c.RefreshSoon()
		return fmt.Errorf("refresh %s: %w", id, err)
	case err != nil:
		return fmt.Errorf("refresh %s: %w", id, err)
	}
	c.noteFetched(id)
	return c.put(ctx, e)
}

// noteFetched notes that something newer is known of an identity than what a listing
// that is under way may say.
func (c *Cache) noteFetched(id iothub.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listings > 0 {
		c.fetched[id] = true
	}
}

// maxAsked bounds the memory for the times of single refreshes.
const maxAsked = 10000

// RefreshSoon makes Run fetch everything as soon as MinDistance allows.
func (c *Cache) RefreshSoon() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// RefreshAll fetches everything now. When it fails nothing changes. What was fetched
// singly meanwhile is newer and stays.
func (c *Cache) RefreshAll(ctx context.Context) error {
	c.mu.Lock()
	c.listings++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.listings--; c.listings == 0 {
			clear(c.fetched)
		}
	}()
	list, err := c.source.List(ctx)
	if err != nil {
		return fmt.Errorf("list scope: %w", err)
	}
	found := make(map[iothub.Identity]bool, len(list))
	var errs []error
	for _, e := range list {
		found[e.ID] = true
		if !c.isNewer(e.ID) {
			errs = append(errs, c.put(ctx, e))
		}
	}
	for _, id := range c.IDs() {
		switch {
		case found[id] || c.isNewer(id):
		case id.IsModule() && found[id.Parent()] && !c.isEdge(id.Parent()):
			// Not every cloud lists the modules of leaf devices: this one is asked.
			if err := c.Fetch(ctx, id, ""); err != nil {
				c.o.Logger.Warn("module is not listed; what is known of it stays", "id", id.String(), "error", err)
			}
		default:
			errs = append(errs, c.remove(ctx, id))
		}
	}
	c.mu.Lock()
	c.full = time.Now()
	c.mu.Unlock()
	return errors.Join(errs...)
}

// isNewer tells whether an identity was fetched singly since the listing began.
func (c *Cache) isNewer(id iothub.Identity) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.fetched[id]
}

func (c *Cache) isEdge(id iothub.Identity) bool {
	e, _ := c.Lookup(id)
	return e.Edge
}

// IDs are the identities of the scope, in no order.
func (c *Cache) IDs() []iothub.Identity {
	c.mu.RLock()
	defer c.mu.RUnlock()
	ids := make([]iothub.Identity, 0, len(c.entries))
	for id := range c.entries {
		ids = append(ids, id)
	}
	return ids
}

// afterFailure is between a listing that has failed and one that RefreshSoon asks
// for: each login that fails may ask.
const afterFailure = 10 * time.Second

// tooSoon is how long a listing that RefreshSoon asks for has to wait.
func (c *Cache) tooSoon() time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return max(c.o.MinDistance-time.Since(c.full), afterFailure-time.Since(c.failed))
}

// Run refreshes at the start, every RefreshEvery and when RefreshSoon asks, until
// ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			if wait := c.tooSoon(); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		next := c.o.RefreshEvery
		if err := c.RefreshAll(ctx); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("scope not refreshed", "error", err, "known", c.Len())
			next = c.o.RetryEvery
			c.mu.Lock()
			c.failed = time.Now()
			c.mu.Unlock()
		}
		timer.Reset(next)
	}
}

// put takes an entry. It is told as changed, and counts, even if the disk has no room
// for it; then it is written the next time.
func (c *Cache) put(ctx context.Context, e Entry) error {
	c.mu.Lock()
	old, known := c.entries[e.ID]
	saved := !c.unsaved[e.ID]
	c.entries[e.ID] = e
	c.mu.Unlock()
	same := known && old.same(e)
	if same && saved {
		return nil
	}
	if known && !same {
		c.o.Changed(e.ID)
	}
	value, err := json.Marshal(toRecord(e))
	if err == nil {
		err = c.disk.Put(ctx, e.ID.String(), value)
	}
	c.mu.Lock()
	if delete(c.unsaved, e.ID); err != nil {
		c.unsaved[e.ID] = true
	}
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("keep identity %s: %w", e.ID, err)
	}
	return nil
}

func (c *Cache) remove(ctx context.Context, id iothub.Identity) error {
	c.mu.Lock()
	_, known := c.entries[id]
	delete(c.entries, id)
	delete(c.unsaved, id)
	c.mu.Unlock()
	if !known {
		return nil
	}
	c.o.Changed(id)
	if err := c.disk.Delete(ctx, id.String()); err != nil {
		return fmt.Errorf("forget identity %s: %w", id, err)
	}
	return nil
}
