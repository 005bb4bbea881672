package cloud

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// presence is what is known of the connection of an identity.
type presence struct {
	Changed   time.Time `json:"changed"`  // of Connected
	Activity  time.Time `json:"activity"` // last traffic
	ModelID   string    `json:"modelId,omitempty"`
	connected bool
}

func (p presence) state() string {
	if p.connected {
		return rest.Connected
	}
	return rest.Disconnected
}

// presenceTable keeps the presence of all identities that ever connected. It is
// written when a connection begins and ends, without waiting for the disk: after a
// crash times may be a little old.
type presenceTable struct {
	s      *store.Store
	bucket store.Bucket
	now    func() time.Time
	log    *slog.Logger

	mu sync.Mutex
	m  map[iothub.Identity]presence
}

func openPresence(s *store.Store, now func() time.Time, log *slog.Logger) (*presenceTable, error) {
	t := &presenceTable{s: s, bucket: s.Bucket("cloud.presence"), now: now, log: log, m: map[iothub.Identity]presence{}}
	err := t.bucket.Scan("", func(k string, v []byte) error {
		id, err := iothub.ParseIdentity(k)
		if err != nil {
			return err
		}
		var p presence
		if err := json.Unmarshal(v, &p); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		t.m[id] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	return t, nil
}

func (t *presenceTable) get(id iothub.Identity) presence {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[id]
}

// touch notes traffic.
func (t *presenceTable) touch(id iothub.Identity) {
	now := t.now().UTC()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.m[id]
	p.Activity = now
	t.m[id] = p
}

// set notes that a connection began or ended. save, to be called without a lock,
// brings it to the disk.
func (t *presenceTable) set(id iothub.Identity, connected bool, modelID string) (save func()) {
	now := t.now().UTC()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.m[id]
	p.connected, p.Changed = connected, now
	if connected {
		p.Activity = now
		if modelID != "" {
			p.ModelID = modelID
		}
	}
	t.m[id] = p
	return func() { t.save(id) }
}

func (t *presenceTable) save(id iothub.Identity) {
	t.mu.Lock()
	p, ok := t.m[id]
	t.mu.Unlock()
	if !ok {
		return
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.log.Error("encode presence", "error", err)
		return
	}
	var b store.Batch
	b.Put(t.bucket.Key(id.String()), raw)
	t.commit(&b)
}

// forget removes a deleted identity.
func (t *presenceTable) forget(id iothub.Identity) {
	t.mu.Lock()
	_, ok := t.m[id]
	delete(t.m, id)
	t.mu.Unlock()
	if ok {
		var b store.Batch
		b.Delete(t.bucket.Key(id.String()), 0)
		t.commit(&b)
	}
}

func (t *presenceTable) commit(b *store.Batch) {
	t.s.Commit(b, func(err error) {
		if err != nil {
			t.log.Warn("presence not stored", "error", err)
		}
	})
}

// connectedDevices counts devices that are connected, without modules.
func (t *presenceTable) connectedDevices() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for id, p := range t.m {
		if p.connected && !id.IsModule() {
			n++
		}
	}
	return n
}
