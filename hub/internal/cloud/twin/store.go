package twin

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ErrNotFound tells that there is no twin because there is no identity.
var ErrNotFound = errors.New("twin not found")

// Store keeps twins on disk, one record for an identity. Writes to one twin follow
// each other; writes to different twins share an fsync. All methods may be called
// concurrently.
type Store struct {
	s      *store.Store
	bucket store.Bucket
	seed   maphash.Seed

	// life is held for reading while a twin is written, and for writing while
	// identities come and go, so that no write brings a deleted twin back. Lock
	// order: life, then one shard.
	life   sync.RWMutex
	shards [64]sync.Mutex
}

// NewStore returns the twins in s.
func NewStore(s *store.Store) *Store {
	return &Store{s: s, bucket: s.Bucket("cloud.twins"), seed: maphash.MakeSeed()}
}

// Get reads a twin. Errors: ErrNotFound.
func (t *Store) Get(id iothub.Identity) (*Twin, error) {
	raw, err := t.bucket.Get(id.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("twin of %s: %w", id, err)
	}
	tw, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("twin of %s: %w", id, err)
	}
	return tw, nil
}

// ErrUnchanged may be returned by the function given to Update to write nothing.
var ErrUnchanged = errors.New("unchanged")

// Update reads a twin, lets change work on it and writes it; the result is on disk
// when Update returns nil. An error of change is returned and nothing is written,
// except that ErrUnchanged counts as success. after, if not nil, is called with the
// written twin before the next Update of the same twin begins, so that what it
// tells others keeps the order of versions; it must not block.
func (t *Store) Update(ctx context.Context, id iothub.Identity, change func(*Twin) error, after func(*Twin)) (*Twin, error) {
	t.life.RLock()
	defer t.life.RUnlock()
	shard := &t.shards[maphash.Comparable(t.seed, id)%uint64(len(t.shards))]
	shard.Lock()
	defer shard.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tw, err := t.Get(id)
	if err != nil {
		return nil, err
	}
	switch err := change(tw); {
	case errors.Is(err, ErrUnchanged):
		return tw, nil
	case err != nil:
		return nil, err
	}
	raw, err := encode(tw)
	if err != nil {
		return nil, fmt.Errorf("twin of %s: %w", id, err)
	}
	// Not the caller's context: after a write whose end is unknown the next one
	// would build on an old state.
	if err := t.bucket.Put(context.WithoutCancel(ctx), id.String(), raw); err != nil {
		return nil, fmt.Errorf("twin of %s: %w", id, err)
	}
	if after != nil {
		after(tw)
	}
	return tw, nil
}

// Exclusive keeps all writes away until release is called. Created and Deleted may
// be called only between.
func (t *Store) Exclusive() (release func()) {
	t.life.Lock()
	return t.life.Unlock
}

// Created adds the empty twin of a new identity to a batch.
func (t *Store) Created(b *store.Batch, id iothub.Identity) error {
	raw, err := encode(New())
	if err != nil {
		return err
	}
	b.Put(t.bucket.Key(id.String()), raw)
	return nil
}

// Deleted adds the removal of a twin to a batch.
func (t *Store) Deleted(b *store.Batch, id iothub.Identity) {
	b.Delete(t.bucket.Key(id.String()), 0)
}
