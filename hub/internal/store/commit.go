package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Batch collects writes that become durable together. Keys and values belong to
// the batch once given. A Batch may be committed once. Up to a Size of MaxAtomic it
// is atomic: after a crash all of it is there or nothing. A larger one is cut, in
// order, and a crash may leave a first part of it if its callback has not run.
type Batch struct {
	writes []write
	bytes  int
	dead   int64
	err    error
}

type write struct {
	key, value []byte
	del        bool
}

// Put adds or replaces a value. A key longer than MaxKey or a value longer than
// MaxValue makes the whole batch fail with ErrTooLarge.
func (b *Batch) Put(key, value []byte) { b.add(write{key: key, value: value}) }

// Delete removes a key; a missing key is no error. size is about what its value
// takes, so that the store knows how much space it can give back; 0 if small.
func (b *Batch) Delete(key []byte, size int) {
	b.dead += int64(size)
	b.add(write{key: key, del: true})
}

// Size is about what the batch takes on disk.
func (b *Batch) Size() int { return b.bytes }

// Empty tells whether the batch holds no write.
func (b *Batch) Empty() bool { return len(b.writes) == 0 }

func (b *Batch) add(w write) {
	if len(w.key) == 0 || len(w.key) > MaxKey || len(w.value) > MaxValue {
		b.err = fmt.Errorf("%w: key of %d bytes, value of %d", ErrTooLarge, len(w.key), len(w.value))
	}
	b.bytes += w.size()
	b.writes = append(b.writes, w)
}

// size is more than what Badger counts for the write against its transaction's
// size, and at least the share of one in the count that it allows.
func (w write) size() int { return len(w.key) + len(w.value) + 96 }

// pending is one call of a Commit function on its way through the committer.
type pending struct {
	batch *Batch
	fill  func(*Batch)
	done  func(error)
	kind  kind
	err   error
}

type kind uint8

const (
	durable kind = iota
	relaxed
	exclusive // fill runs alone in the committer, with a nil batch
)

// Commit hands the batch to the committer and returns; it blocks only while
// Options.MaxPending batches wait. done is called exactly once: with nil after the
// batch is on disk, else with the reason why it is not: ErrFull, ErrTooLarge,
// ErrFailed, or ErrClosed (then before Commit returns). Calls of done follow the
// order of Commit, from one goroutine, which they must not block; in particular
// they must not call Commit themselves.
func (s *Store) Commit(b *Batch, done func(error)) {
	s.submit(pending{batch: b, done: done, kind: durable})
}

// CommitLate is Commit for a batch that fill makes at the last moment, so that it
// can take in what arrived while an earlier group was being written. fill runs in
// the goroutine that runs done, always before it, and must not block; it does not
// run when the batch is refused. CommitLate never blocks, not even in a callback:
// the caller keeps a bounded number under way.
func (s *Store) CommitLate(fill func(*Batch), done func(error)) {
	s.submit(pending{fill: fill, done: done, kind: durable})
}

// CommitRelaxed is CommitLate for what may be lost in a power cut (not in a crash
// of the process): done is called after the write without a sync of its own, and a
// full disk does not refuse it, since it is meant for deletes. In a callback it is
// accepted even while the store closes.
func (s *Store) CommitRelaxed(fill func(*Batch), done func(error)) {
	s.submit(pending{fill: fill, done: done, kind: relaxed})
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

func (s *Store) submit(p pending) {
	s.mu.Lock()
	bounded := p.fill == nil
	for bounded && s.bounded >= s.opts.MaxPending && !s.closed {
		s.room.Wait()
	}
	if s.ended || s.closed && p.kind != relaxed {
		s.mu.Unlock()
		p.done(ErrClosed)
		return
	}
	if bounded {
		s.bounded++
	}
	s.pending = append(s.pending, p)
	s.mu.Unlock()
	s.nudge()
}

func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// commitLoop is the only writer of the database. It ends when the store is closed
// and nothing waits any more.
func (s *Store) commitLoop() {
	var spare []pending
	for range s.wake {
		for {
			s.mu.Lock()
			group := s.pending
			s.pending, s.bounded = spare[:0], 0
			s.ended = s.closed && len(group) == 0
			ended := s.ended
			s.room.Broadcast()
			s.mu.Unlock()
			spare = group // the other half of the pair
			if ended {
				return
			}
			if len(group) == 0 {
				break
			}
			s.commitGroups(group)
			clear(group)
		}
	}
}

// commitGroups cuts what was taken into groups of bounded size.
func (s *Store) commitGroups(all []pending) {
	for len(all) > 0 {
		n := s.commitGroup(all)
		all = all[n:]
	}
}

// commitGroup fills, writes and syncs a first part of all, calls its callbacks,
// and returns how many they were.
func (s *Store) commitGroup(all []pending) int {
	if all[0].kind == exclusive {
		all[0].fill(nil)
		all[0].done(s.failureErr())
		return 1
	}
	failure := s.failureErr()
	full := s.diskFull()
	n, size, needSync := 0, 0, false
	for n < len(all) && size < groupBytes && all[n].kind != exclusive {
		p := &all[n]
		n++
		switch {
		case failure != nil:
			p.err = failure
		case full && p.kind == durable && (p.batch == nil || p.batch.grows()):
			p.err = ErrFull
		default:
			if p.fill != nil {
				p.batch = new(Batch)
				p.fill(p.batch)
			}
			p.err = p.batch.err
			size += p.batch.bytes
			needSync = needSync || p.kind == durable && !p.batch.Empty()
		}
	}
	group := all[:n]
	if failure == nil {
		if err := s.writeGroup(group, needSync); err != nil {
			err = s.fail(err)
			for i := range group {
				if group[i].err == nil {
					group[i].err = err
				}
			}
		}
	}
	for i := range group {
		group[i].done(group[i].err)
	}
	return n
}

func (b *Batch) grows() bool {
	for i := range b.writes {
		if !b.writes[i].del {
			return true
		}
	}
	return false
}

func (s *Store) failureErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// fail makes err the end of all writing.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = fmt.Errorf("%w: %w", ErrFailed, err)
		close(s.failed)
	}
	return s.failure
}

// writeGroup writes the batches that have no error, in order.
func (s *Store) writeGroup(group []pending, needSync bool) error {
	t := txn{db: s.db}
	defer t.discard()
	for i := range group {
		if p := &group[i]; p.err == nil {
			if err := t.add(p.batch); err != nil {
				return fmt.Errorf("write store: %w", err)
			}
			s.dead.add(p.batch.dead)
		}
	}
	if err := t.commit(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return s.syncGroup(needSync)
}

func (s *Store) syncGroup(needSync bool) error {
	if s.wal == nil {
		return nil
	}
	sync := s.wal.written
	if needSync && !s.opts.UnsafeNoSync {
		sync = s.wal.sync
	}
	if err := sync(); err != nil {
		return fmt.Errorf("sync store: %w", err)
	}
	return nil
}

// txn puts batches into as few of Badger's transactions as possible without
// cutting one that fits.
type txn struct {
	db    *badger.DB
	cur   *badger.Txn
	count int64
	bytes int64
}

func (t *txn) add(b *Batch) error {
	count, bytes := t.count+int64(len(b.writes)), t.bytes+int64(b.bytes)
	if t.cur != nil && (count >= t.db.MaxBatchCount() || bytes >= t.db.MaxBatchSize()) {
		if err := t.commit(); err != nil {
			return err
		}
	}
	for _, w := range b.writes {
		err := t.put(w)
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err = t.commit(); err == nil {
				err = t.put(w)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) put(w write) error {
	if t.cur == nil {
		t.cur, t.count, t.bytes = t.db.NewTransaction(true), 0, 0
	}
	t.count++
	t.bytes += int64(w.size())
	if w.del {
		return t.cur.Delete(w.key)
	}
	return t.cur.Set(w.key, w.value)
}

func (t *txn) commit() error {
	if t.cur == nil {
		return nil
	}
	cur := t.cur
	t.cur = nil
	return cur.Commit()
}

func (t *txn) discard() {
	if t.cur != nil {
		t.cur.Discard()
	}
}
