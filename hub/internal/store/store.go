// Package store is the durable state of a hub: one Badger database, written by one
// committer that groups whatever waits into one write and one fsync. The twins,
// sessions and scope of edgehub, and all of iothub, live in it, each under a prefix of
// its own. The messages of edgehub do not: see package queue.
//
// Three surprises:
//
//   - Badger runs with SyncWrites off. Durability is this package's: the callback
//     of Commit runs only after the write-ahead log that holds the write was
//     synced. Badger's own Sync covers only the newest of its logs, hence wal.go.
//   - A read sees a write as soon as it is in the database, which is shortly
//     before it is on disk. Who acts on what it read must not take it for
//     acknowledged: that is known to the one whose callback ran.
//   - All values live in Badger's tree, none in its value log: a queue empties
//     faster than the value log's statistics could notice, and its garbage
//     collection moves live values without a sync. reclaim.go gives space back.
//
// See docs/architecture.md, "Durability".
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Errors of the package.
var (
	// ErrNotFound is returned by Get when the key has no value.
	ErrNotFound = errors.New("not found")
	// ErrClosed is returned by everything after Close.
	ErrClosed = errors.New("store closed")
	// ErrFull: too little disk space is left to write; nothing was changed. It
	// may work later.
	ErrFull = errors.New("disk full")
	// ErrTooLarge: a key or value is over its limit; nothing was changed.
	ErrTooLarge = errors.New("key or value too large")
	// ErrFailed: an earlier write or sync went wrong, after which nobody knows
	// what is on disk. Permanent: the store must be opened anew.
	ErrFailed = errors.New("store failed")
)

// Limits of one key and one value.
const (
	MaxKey   = 32 << 10
	MaxValue = 384 << 10
)

// MaxAtomic is the size up to which a Batch is never cut.
const MaxAtomic = 512 << 10

const (
	// memTableSize decides how much memory Badger takes: a few times as much while
	// it merges, 10 MB more than nothing at rest with a large database.
	memTableSize = 4 << 20
	// groupBytes bounds one group, so that a group spans at most two of Badger's
	// write-ahead logs; wal.go relies on it.
	groupBytes = memTableSize / 4
)

// Options configure Open. The zero value is right for a gateway with little memory.
type Options struct {
	// InMemory keeps everything in memory; dir is then ignored. Tables are not merged
	// by themselves: it is for tests, whose virtual hours would go into looking for some.
	InMemory bool
	// MaxPending bounds the batches that wait for the committer; Commit blocks
	// above it. 0 means 4096.
	MaxPending int
	// MinFree is the disk space below which writes are refused with ErrFull.
	// 0 means 64 MiB, what Badger may need to tidy up; negative: no check.
	MinFree int64
	// ReclaimInterval is how often the store looks whether deleted data should be
	// given back to the disk. 0 means 30 s.
	ReclaimInterval time.Duration
	// ReclaimBytes is the least amount of deleted data that is worth it. 0 means
	// 16 MiB.
	ReclaimBytes int64
	// UnsafeNoSync leaves out the fsync, so that tests with a simulated power cut
	// can prove that they would notice: acknowledged writes are then lost.
	UnsafeNoSync bool
	// Logger receives Badger's warnings and errors; nil means slog.Default.
	Logger *slog.Logger
}

func (o *Options) defaults() {
	if o.MaxPending <= 0 {
		o.MaxPending = 4096
	}
	if o.MinFree == 0 {
		o.MinFree = 64 << 20
	}
	if o.ReclaimInterval <= 0 {
		o.ReclaimInterval = 30 * time.Second
	}
	if o.ReclaimBytes <= 0 {
		o.ReclaimBytes = 16 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Store is an open database. All methods may be called concurrently.
type Store struct {
	db   *badger.DB
	opts Options
	dir  string
	wal  *wal // owned by the committer; nil in memory

	mu      sync.Mutex
	room    sync.Cond // of mu: pending got shorter, or closed
	pending []pending // guarded by mu
	bounded int       // guarded by mu: how many of pending count for MaxPending
	closed  bool      // guarded by mu
	ended   bool      // guarded by mu: the committer has ended
	failure error     // guarded by mu: why the store failed

	dead deadBytes

	wake     chan struct{} // capacity 1: pending is not empty, or closed
	stop     chan struct{} // closed by Close: ends the loops
	failed   chan struct{} // closed when the store failed
	finished sync.WaitGroup

	once     sync.Once
	closeErr error
}

// Open opens the database in dir, creating it if need be, and starts its
// goroutines: committer, reclaimer, trimmer. Close must be called.
func Open(dir string, o Options) (*Store, error) {
	o.defaults()
	bo := badgerOptions(dir, o.Logger)
	if o.InMemory {
		bo = bo.WithDir("").WithValueDir("").WithInMemory(true).WithNumCompactors(0).WithNumLevelZeroTablesStall(math.MaxInt)
	} else if err := removeEmpty(dir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	db, err := badger.Open(bo)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{
		db:     db,
		opts:   o,
		dir:    dir,
		wake:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		failed: make(chan struct{}),
	}
	s.room.L = &s.mu
	if !o.InMemory {
		if s.wal, err = openWAL(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), db.Close())
		}
	}
	s.finished.Go(s.commitLoop)
	s.finished.Go(s.reclaimLoop)
	if !o.InMemory {
		s.finished.Go(s.trimLoop)
	}
	return s, nil
}

func badgerOptions(dir string, l *slog.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(badgerLog{l}).
		WithSyncWrites(false).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(4).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumCompactors(2).
		WithValueLogFileSize(1 << 20).
		WithValueThreshold(MaxValue).
		WithBaseTableSize(2 << 20).
		WithBlockSize(16 << 10).
		WithBaseLevelSize(8 << 20).
		WithDetectConflicts(false).
		WithMetricsEnabled(false)
}

// Close refuses new writes, commits those that wait, and closes the database. It
// may be called more than once. It must not be called from a callback of Commit.
// After a failure it leaves the database open, since Badger would go on trying to
// write what is in memory: the program must end.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.stop)
		s.mu.Lock()
		s.closed = true
		s.room.Broadcast()
		s.mu.Unlock()
		s.nudge()
		s.finished.Wait()
		if s.wal != nil {
			s.wal.close()
		}
		if s.failureErr() != nil {
			return
		}
		if err := s.db.Close(); err != nil {
			s.closeErr = fmt.Errorf("close store: %w", err)
		}
	})
	return s.closeErr
}

// Failed is closed when a write or sync has gone wrong: from then on every write
// ends with ErrFailed, and the program should end and start again.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Watch waits until the store fails, and returns why, or until ctx ends, and returns
// nil. A program runs it beside its other parts, so that it ends with the store.
func (s *Store) Watch(ctx context.Context) error {
	select {
	case <-s.failed:
		return s.failureErr()
	case <-ctx.Done():
		return nil
	}
}

// Get returns a copy of the value, or ErrNotFound.
func (s *Store) Get(key []byte) ([]byte, error) {
	if err := s.readable(); err != nil {
		return nil, err
	}
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
	case errors.Is(err, badger.ErrDBClosed):
		return nil, ErrClosed
	case err != nil:
		return nil, fmt.Errorf("read store: %w", err)
	}
	return value, nil
}

func (s *Store) readable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// ErrStop may be returned by the function given to Scan to end it without error.
var ErrStop = errors.New("stop")

// Scan calls fn for every key that has the prefix and is not below from (nil: from
// the first), in order of keys. key and value are valid during the call only. fn
// must not write to the store and wait for it. Scan must not run while Close does.
func (s *Store) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	if err := s.readable(); err != nil {
		return err
	}
	return scan(s.db, prefix, from, fn)
}

func scan(db *badger.DB, prefix, from []byte, fn func(key, value []byte) error) error {
	err := db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		o.PrefetchValues = false // values lie in the tree: nothing to fetch
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
	switch {
	case err == nil || errors.Is(err, ErrStop):
		return nil
	case errors.Is(err, badger.ErrDBClosed):
		return ErrClosed
	}
	return fmt.Errorf("scan store: %w", err)
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
	batch.Delete(b.Key(key), 0)
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
