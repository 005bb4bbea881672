// Package twin keeps the twins of edge hub's clients: it answers from the cloud
// while there is one and from disk while there is none, takes reported properties
// at any time and pushes them when it can, and turns what the cloud says about
// desired properties into patches for the client (spec edgehub-core 9).
//
// A client's reported patch is on disk when PatchReported returns.
package twin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Cloud is where the twins come from.
type Cloud interface {
	Twin(ctx context.Context, id iothub.Identity) (iothub.TwinProperties, error)
	PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error
}

// Records is a place on disk for twins, by identity.
type Records interface {
	Get(key string) ([]byte, error) // store.ErrNotFound when there is none
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
}

// Notify hands a desired-properties patch to a client that is connected and wants
// it; for others it does nothing.
type Notify func(id iothub.Identity, patch json.RawMessage, version int64)

// Options configure a Manager. Zero durations mean the defaults.
type Options struct {
	PushEvery   time.Duration // reported properties, an identity: 5 s
	MinSync     time.Duration // desired properties after a reconnect: 2 min
	CallTimeout time.Duration // of one call to the cloud: 20 s
	Logger      *slog.Logger
}

// Manager keeps twins. It may be used concurrently.
type Manager struct {
	cloud   Cloud
	records Records
	notify  Notify
	o       Options

	mu      sync.Mutex
	entries map[iothub.Identity]*entry
	dirty   map[iothub.Identity]bool // have something to push
}

// entry is the twin of one identity in memory. mu is held across the disk write,
// so that disk and memory never disagree; it is not held across calls to the cloud
// or to notify.
type entry struct {
	mu     sync.Mutex
	loaded bool
	record
	pushing bool
	synced  time.Time
	// changes counts the writes. A twin that was fetched while it moved is older
	// than what is stored and must not replace it.
	changes int
	// gone: the identity is, and this is no longer its entry. Nothing is stored of it.
	gone bool
}

// record is what lies on disk.
type record struct {
	Desired  json.RawMessage `json:"desired,omitempty"` // nil: never seen
	Reported json.RawMessage `json:"reported,omitempty"`
	Pending  json.RawMessage `json:"pending,omitempty"` // reported, not yet in the cloud
}

// New returns a manager. Run must be running for anything to be pushed.
func New(cloud Cloud, records Records, notify Notify, o Options) *Manager {
	if o.PushEvery == 0 {
		o.PushEvery = 5 * time.Second
	}
	if o.MinSync == 0 {
		o.MinSync = 2 * time.Minute
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 20 * time.Second
	}
	return &Manager{
		cloud: cloud, records: records, notify: notify, o: o,
		entries: make(map[iothub.Identity]*entry),
		dirty:   make(map[iothub.Identity]bool),
	}
}

// locked returns the entry with its mutex held and its record loaded.
func (m *Manager) locked(id iothub.Identity) *entry {
	for {
		m.mu.Lock()
		e := m.entries[id]
		if e == nil {
			e = new(entry)
			m.entries[id] = e
		}
		m.mu.Unlock()
		e.mu.Lock()
		if e.gone { // while this waited for it
			e.mu.Unlock()
			continue
		}
		if !e.loaded {
			m.load(id, e)
		}
		return e
	}
}

func (m *Manager) load(id iothub.Identity, e *entry) {
	raw, err := m.records.Get(id.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		// A record that cannot be read is as good as none; the cloud has the truth.
		m.o.Logger.Warn("stored twin is unreadable", "id", id.String(), "error", err)
	default:
		if err := json.Unmarshal(raw, &e.record); err != nil {
			m.o.Logger.Warn("stored twin is unreadable", "id", id.String(), "error", err)
			e.record = record{}
		}
	}
	e.loaded = true
	if len(e.Pending) > 0 {
		m.markDirty(id)
	}
}

// Resume has Run push what was pending for these identities when the program ended,
// whether or not they come back themselves.
func (m *Manager) Resume(ids []iothub.Identity) {
	for _, id := range ids {
		var r record
		raw, err := m.records.Get(id.String())
		if err == nil && json.Unmarshal(raw, &r) == nil && len(r.Pending) > 0 {
			m.markDirty(id)
		}
	}
}

// Forget deletes the twin of an identity that is gone, and what was pending for it:
// another that gets its name later has a twin of its own.
func (m *Manager) Forget(ctx context.Context, id iothub.Identity) error {
	e := m.locked(id)
	defer e.mu.Unlock()
	if err := m.records.Delete(ctx, id.String()); err != nil {
		return fmt.Errorf("forget twin of %s: %w", id, err)
	}
	e.gone = true
	m.mu.Lock()
	delete(m.entries, id)
	delete(m.dirty, id)
	m.mu.Unlock()
	return nil
}

// save writes the record; when that fails, memory keeps the old one.
func (m *Manager) save(ctx context.Context, id iothub.Identity, e *entry, r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("twin of %s: %w", id, err)
	}
	if err := m.records.Put(ctx, id.String(), raw); err != nil {
		return fmt.Errorf("store twin of %s: %w", id, err)
	}
	e.record = r
	e.changes++
	return nil
}

var emptySection = json.RawMessage(`{"$version":0}`)

// Get returns the twin: the cloud's if it can be reached, else the stored one,
// else an empty one.
func (m *Manager) Get(ctx context.Context, id iothub.Identity) (iothub.TwinProperties, error) {
	fresh, before, cloudErr := m.fetch(ctx, id)
	if ctx.Err() != nil {
		return iothub.TwinProperties{}, ctx.Err()
	}
	e := m.locked(id)
	defer e.mu.Unlock()
	if cloudErr != nil {
		m.o.Logger.Debug("twin from disk", "id", id.String(), "reason", cloudErr)
		return stored(e.record), nil
	}
	if e.changes != before && len(e.Desired) > 0 {
		return stored(e.record), nil
	}
	r, err := refreshed(e.record, fresh)
	if err != nil {
		return iothub.TwinProperties{}, fmt.Errorf("twin of %s: %w", id, err)
	}
	if err := m.save(ctx, id, e, r); err != nil {
		return iothub.TwinProperties{}, err
	}
	return stored(r), nil
}

// fetch asks the cloud for the twin. before is the entry's count of changes from
// before the call.
func (m *Manager) fetch(ctx context.Context, id iothub.Identity) (fresh iothub.TwinProperties, before int, err error) {
	e := m.locked(id)
	before = e.changes
	e.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, m.o.CallTimeout)
	defer cancel()
	fresh, err = m.cloud.Twin(call, id)
	return fresh, before, err
}

// refreshed is the record after the cloud has told the whole twin: what is still
// pending lies on top of the cloud's reported section.
func refreshed(r record, fresh iothub.TwinProperties) (record, error) {
	next := record{Desired: fresh.Desired, Reported: fresh.Reported, Pending: r.Pending}
	if len(r.Pending) > 0 {
		version, _ := iothub.Version(fresh.Reported)
		merged, err := iothub.MergePatch(fresh.Reported, r.Pending)
		if err != nil {
			return record{}, err
		}
		if next.Reported, err = iothub.WithVersion(merged, version); err != nil {
			return record{}, err
		}
	}
	return next, nil
}

func stored(r record) iothub.TwinProperties {
	t := iothub.TwinProperties{Desired: r.Desired, Reported: r.Reported}
	if len(t.Desired) == 0 {
		t.Desired = emptySection
	}
	if len(t.Reported) == 0 {
		t.Reported = emptySection
	}
	return t
}

// PatchReported takes a reported-properties patch. It is on disk when nil is
// returned, and goes to the cloud when Run gets to it. An invalid patch gives the
// error of iothub.CheckPatch.
func (m *Manager) PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error {
	if err := iothub.CheckPatch(patch); err != nil {
		return err
	}
	e := m.locked(id)
	defer e.mu.Unlock()
	reported := e.Reported
	if len(reported) == 0 {
		reported = emptySection
	}
	version, _ := iothub.Version(reported)
	next := e.record
	merged, err := iothub.MergePatch(reported, patch)
	if err != nil {
		return err
	}
	if len(merged) > iothub.MaxTwinSize {
		return &iothub.ValidationError{Reason: fmt.Sprintf("all reported properties have %d bytes then, at most %d", len(merged), iothub.MaxTwinSize)}
	}
	if next.Reported, err = iothub.WithVersion(merged, version); err != nil {
		return err
	}
	if next.Pending, err = joinPatches(e.Pending, patch); err != nil {
		return err
	}
	if err := m.save(ctx, id, e, next); err != nil {
		return err
	}
	m.markDirty(id)
	return nil
}

func (m *Manager) markDirty(id iothub.Identity) {
	m.mu.Lock()
	m.dirty[id] = true
	m.mu.Unlock()
}

// Stored returns the twin as it is on disk, empty sections if there is none.
func (m *Manager) Stored(id iothub.Identity) iothub.TwinProperties {
	e := m.locked(id)
	defer e.mu.Unlock()
	return stored(e.record)
}
