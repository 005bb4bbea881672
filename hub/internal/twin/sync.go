package twin

import (
	"context"
	"encoding/json"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// maxPushes is how many identities are pushed at a time. Those of a cloud that is
// away fail at once; only slow answers take up room.
const maxPushes = 32

// Run pushes reported properties until ctx ends: those of one identity no more
// often than PushEvery, and one push of it at a time. A slow one delays no other.
// What fails is tried again. Run waits for the pushes under way.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(m.o.PushEvery)
	defer tick.Stop()
	var pushes errgroup.Group
	pushes.SetLimit(maxPushes)
	defer pushes.Wait() //nolint:errcheck // pushes return no error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, id := range m.takeDirty() {
			started := pushes.TryGo(func() error {
				m.push(ctx, id)
				return nil
			})
			if !started {
				m.markDirty(id) // the next time
			}
		}
	}
}

func (m *Manager) takeDirty() []iothub.Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]iothub.Identity, 0, len(m.dirty))
	for id := range m.dirty {
		ids = append(ids, id)
	}
	clear(m.dirty)
	return ids
}

// push sends what is pending for one identity. On failure it stays pending.
func (m *Manager) push(ctx context.Context, id iothub.Identity) {
	e := m.locked(id)
	sent := e.Pending
	busy := e.pushing
	e.pushing = e.pushing || len(sent) > 0
	e.mu.Unlock()
	if len(sent) == 0 || busy {
		return
	}
	call, cancel := context.WithTimeout(ctx, m.o.CallTimeout)
	err := m.cloud.PatchReported(call, id, sent)
	cancel()

	e.mu.Lock()
	defer e.mu.Unlock()
	e.pushing = false
	if e.gone {
		return
	}
	if err != nil {
		m.o.Logger.Debug("reported properties wait", "id", id.String(), "reason", err)
		m.markDirty(id)
		return
	}
	next := e.record
	if next.Pending, err = minus(e.Pending, sent); err == nil {
		err = m.save(ctx, id, e, next)
	}
	if err != nil {
		// The patch goes out once more; it says the same.
		m.o.Logger.Warn("pushed properties not noted", "id", id.String(), "error", err)
	}
	if len(e.Pending) > 0 {
		m.markDirty(id)
	}
}

// DesiredChanged takes a patch of the desired properties from the cloud. When it
// does not follow what is stored, the whole twin is fetched and the difference
// made.
func (m *Manager) DesiredChanged(ctx context.Context, id iothub.Identity, patch json.RawMessage, version int64) {
	e := m.locked(id)
	if len(e.Desired) == 0 {
		e.mu.Unlock()
		m.notify(id, patch, version)
		return
	}
	have, _ := iothub.Version(e.Desired)
	if version != have+1 {
		e.mu.Unlock()
		if version > have {
			m.sync(ctx, id)
		}
		return
	}
	next := e.record
	merged, err := iothub.MergePatch(e.Desired, patch)
	if err == nil {
		next.Desired, err = iothub.WithVersion(merged, version)
	}
	if err == nil {
		err = m.save(ctx, id, e, next)
	}
	e.mu.Unlock()
	if err != nil {
		m.o.Logger.Warn("desired properties not stored", "id", id.String(), "error", err)
	}
	m.notify(id, patch, version)
}

// Reconnected brings an identity up to date after its connection to the cloud came
// back: first what it has reported, then what is desired of it, the latter no more
// often than MinSync.
func (m *Manager) Reconnected(ctx context.Context, id iothub.Identity) {
	m.push(ctx, id)
	e := m.locked(id)
	// The first one after the start is always due: synced is zero.
	due := time.Since(e.synced) >= m.o.MinSync
	e.mu.Unlock()
	if due {
		m.sync(ctx, id)
	}
}

// sync fetches the twin and tells the client what has changed.
func (m *Manager) sync(ctx context.Context, id iothub.Identity) {
	fresh, before, err := m.fetch(ctx, id)
	if err != nil {
		m.o.Logger.Debug("twin not fetched", "id", id.String(), "reason", err)
		return
	}
	patch, version, err := m.take(ctx, id, fresh, before)
	if err != nil {
		m.o.Logger.Warn("twin not stored", "id", id.String(), "error", err)
		return
	}
	if patch != nil {
		m.notify(id, patch, version)
	}
}

// take stores a whole twin and returns the patch of its desired properties against
// what was stored, nil if nothing differs or nothing was stored.
func (m *Manager) take(ctx context.Context, id iothub.Identity, fresh iothub.TwinProperties, before int) (json.RawMessage, int64, error) {
	e := m.locked(id)
	defer e.mu.Unlock()
	e.synced = time.Now()
	if e.changes != before && len(e.Desired) > 0 {
		return nil, 0, nil // it moved while it was fetched: what moved it has told
	}
	version, _ := iothub.Version(fresh.Desired)
	var patch json.RawMessage
	if len(e.Desired) > 0 {
		diff, err := iothub.DiffPatch(e.Desired, fresh.Desired)
		if err != nil {
			return nil, 0, err
		}
		if string(diff) != "{}" {
			if patch, err = iothub.WithVersion(diff, version); err != nil {
				return nil, 0, err
			}
		}
	}
	next, err := refreshed(e.record, fresh)
	if err != nil {
		return nil, 0, err
	}
	return patch, version, m.save(ctx, id, e, next)
}
