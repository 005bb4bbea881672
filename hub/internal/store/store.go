// Package store is the durable state of a hub: one Badger database, written by one
// committer that groups whatever waits into one batch and one fsync. The queue,
// the twins, sessions and scope of edgehub and the registry of iothub live in it,
// each under a prefix of its own.
//
// The surprise: Badger runs with SyncWrites off. Durability is this package's:
// the callback of Commit runs only after the batch that holds the write was
// synced. See docs/architecture.md, "Durability".
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Errors of the package.
var (
	// ErrNotFound is returned by Get when the key has no value.
	ErrNotFound = errors.New("not found")
	// ErrClosed is returned by everything after Close.
	ErrClosed = errors.New("store closed")
)

// Options configure Open. The zero value is right for a gateway with little memory.
type Options struct {
	// InMemory keeps everything in memory; Dir is then ignored.
	InMemory bool
	// MaxPending bounds the writes that wait for the committer; Commit blocks
	// above it. 0 means 4096.
	MaxPending int
	// UnsafeNoSync leaves out the fsync. Only for the test that shows that the
	// crash test notices.
	UnsafeNoSync bool
	// Logger receives Badger's warnings and errors; nil means slog.Default.
	Logger *slog.Logger
}

// Store is an open database. All methods may be called concurrently.
type Store struct {
	db    *badger.DB
	opts  Options
	queue chan pending
	stop  chan struct{}
	done  chan struct{}

	mu     sync.RWMutex // held for reading while a Commit hands over
	closed bool
	once   sync.Once
	failed error // of Close
}

type pending struct {
	batch *Batch
	done  func(error)
}

// Open opens the database in dir, creating it if need be, and starts the
// committer. Close must be called.
func Open(dir string, o Options) (*Store, error) {
	if o.MaxPending == 0 {
		o.MaxPending = 4096
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	bo := badger.DefaultOptions(dir).
		WithLogger(badgerLog{o.Logger}).
		WithSyncWrites(false).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumCompactors(2).
		WithValueLogFileSize(64 << 20).
		WithValueThreshold(1 << 10).
		WithBaseTableSize(2 << 20).
		WithBaseLevelSize(8 << 20).
		WithDetectConflicts(false).
		WithMetricsEnabled(false)
	if o.InMemory {
		bo = bo.WithDir("").WithValueDir("").WithInMemory(true)
	}
	db, err := badger.Open(bo)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{
		db:    db,
		opts:  o,
		queue: make(chan pending, o.MaxPending),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go s.commitLoop()
	return s, nil
}

// Close refuses new writes, commits those that wait, and closes the database. It
// may be called more than once.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.stop)
		<-s.done
		if err := s.db.Close(); err != nil {
			s.failed = fmt.Errorf("close store: %w", err)
		}
	})
	return s.failed
}

// Batch collects writes that become durable together. Keys and values belong to
// the batch once given. A Batch may be committed once.
type Batch struct {
	entries []*badger.Entry
	deletes [][]byte
}

// Put adds or replaces a value.
func (b *Batch) Put(key, value []byte) {
	b.entries = append(b.entries, badger.NewEntry(key, value))
}

// Delete removes a key; a missing key is no error. Within one batch a Delete is
// applied after every Put.
func (b *Batch) Delete(key []byte) { b.deletes = append(b.deletes, key) }

// Empty tells whether the batch holds no write.
func (b *Batch) Empty() bool { return len(b.entries) == 0 && len(b.deletes) == 0 }

// Commit hands the batch to the committer and returns; it blocks only while
// Options.MaxPending batches wait. done is called exactly once: with nil after the
// batch is on disk, else with the reason why it is not. Calls of done follow the
// order of Commit, from one goroutine, which they must not block.
func (s *Store) Commit(b *Batch, done func(error)) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		done(ErrClosed)
		return
	}
	s.queue <- pending{batch: b, done: done}
	s.mu.RUnlock()
}

// CommitWait commits and waits for the result. When ctx ends first the write may
// still happen.
func (s *Store) CommitWait(ctx context.Context, b *Batch) error {
	result := make(chan error, 1)
	s.Commit(b, func(err error) { result <- err })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// commitLoop is the only writer of the database.
func (s *Store) commitLoop() {
	defer close(s.done)
	group := make([]pending, 0, cap(s.queue))
	for {
		select {
		case p := <-s.queue:
			group = s.gather(append(group[:0], p))
			s.commitGroup(group)
		case <-s.stop:
			// closed is set, so nothing more can arrive: take what is there.
			if group = s.gather(group[:0]); len(group) > 0 {
				s.commitGroup(group)
			}
			return
		}
	}
}

// gather takes everything that waits, without waiting for more.
func (s *Store) gather(group []pending) []pending {
	for len(group) < cap(group) {
		select {
		case p := <-s.queue:
			group = append(group, p)
		default:
			return group
		}
	}
	return group
}

func (s *Store) commitGroup(group []pending) {
	err := s.write(group)
	if err == nil && !s.opts.InMemory && !s.opts.UnsafeNoSync {
		if err = s.db.Sync(); err != nil {
			err = fmt.Errorf("sync store: %w", err)
		}
	}
	for i := range group {
		group[i].done(err)
		group[i] = pending{}
	}
}

func (s *Store) write(group []pending) error {
	wb := s.db.NewWriteBatch()
	defer wb.Cancel()
	for i := range group {
		for _, e := range group[i].batch.entries {
			if err := wb.SetEntry(e); err != nil {
				return fmt.Errorf("write store: %w", err)
			}
		}
		for _, k := range group[i].batch.deletes {
			if err := wb.Delete(k); err != nil {
				return fmt.Errorf("write store: %w", err)
			}
		}
	}
	if err := wb.Flush(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return nil
}

// Get returns a copy of the value, or ErrNotFound. It sees what was committed.
func (s *Store) Get(key []byte) ([]byte, error) {
	var value []byte
	err := s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("read store: %w", err)
	}
	return value, nil
}

// ErrStop may be returned by the function given to Scan to end it without error.
var ErrStop = errors.New("stop")

// Scan calls fn for every key that has the prefix and is not below from (nil: from
// the first), in order of keys. key and value are valid during the call only. fn
// must not write to the store and wait for it.
func (s *Store) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	err := s.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		o.PrefetchSize = 64
		it := txn.NewIterator(o)
		defer it.Close()
		if from == nil {
			from = prefix
		}
		for it.Seek(from); it.ValidForPrefix(prefix); it.Next() {
			item := it.Item()
			if err := item.Value(func(v []byte) error { return fn(item.Key(), v) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrStop) {
		return fmt.Errorf("scan store: %w", err)
	}
	return nil
}

// Bucket is a named part of the store with text keys, for state that is small:
// twins, identities, sessions. Writes are durable when they return.
type Bucket struct {
	s      *Store
	prefix string
}

// Bucket returns the bucket with this name; names must not contain NUL.
func (s *Store) Bucket(name string) Bucket { return Bucket{s: s, prefix: "b\x00" + name + "\x00"} }

// Key returns the full key in the store, for use in a Batch.
func (b Bucket) Key(key string) []byte { return []byte(b.prefix + key) }

// Get returns the value, or ErrNotFound.
func (b Bucket) Get(key string) ([]byte, error) { return b.s.Get(b.Key(key)) }

// Put stores the value; it is on disk when Put returns nil.
func (b Bucket) Put(ctx context.Context, key string, value []byte) error {
	var batch Batch
	batch.Put(b.Key(key), value)
	return b.s.CommitWait(ctx, &batch)
}

// Delete removes the value; it is gone from disk when Delete returns nil.
func (b Bucket) Delete(ctx context.Context, key string) error {
	var batch Batch
	batch.Delete(b.Key(key))
	return b.s.CommitWait(ctx, &batch)
}

// Scan calls fn for each key with the prefix, in order. value is valid during the
// call only.
func (b Bucket) Scan(prefix string, fn func(key string, value []byte) error) error {
	return b.s.Scan(b.Key(prefix), nil, func(k, v []byte) error {
		return fn(string(k[len(b.prefix):]), v)
	})
}

// badgerLog passes Badger's own messages on; its chatter is debug for us.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(f string, a ...any)   { b.l.Error("badger", "message", fmt.Sprintf(f, a...)) }
func (b badgerLog) Warningf(f string, a ...any) { b.l.Warn("badger", "message", fmt.Sprintf(f, a...)) }
func (b badgerLog) Infof(f string, a ...any)    { b.l.Debug("badger", "message", fmt.Sprintf(f, a...)) }
func (b badgerLog) Debugf(f string, a ...any)   { b.l.Debug("badger", "message", fmt.Sprintf(f, a...)) }
