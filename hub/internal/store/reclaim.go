package store

import (
	"fmt"
	"sync/atomic"
	"time"
)

// deadBytes estimates how much of the tables on disk is deleted data.
type deadBytes struct{ n atomic.Int64 }

func (d *deadBytes) add(n int64) { d.n.Add(n) }

// reclaimLoop gives the space of deleted data back from time to time: Badger
// merges tables when they grow, not when what they hold has been deleted, and so
// would keep a drained backlog for ever.
func (s *Store) reclaimLoop() {
	tick := time.NewTicker(s.opts.ReclaimInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if !s.worthReclaiming() {
			continue
		}
		if err := s.reclaim(); err != nil {
			s.opts.Logger.Warn("reclaim disk space", "error", err)
		}
	}
}

func (s *Store) worthReclaiming() bool {
	dead := s.dead.n.Load()
	return dead >= s.opts.ReclaimBytes && dead >= s.DiskSize()/2
}

// DiskSize is what the tables of the database take on disk, in bytes; the
// write-ahead logs, at most 32 MiB, come on top.
func (s *Store) DiskSize() int64 {
	var n int64
	for _, t := range s.db.Tables() {
		n += int64(t.OnDiskSize)
	}
	return n
}

// reclaim brings the deletes that are still in memory to disk and merges all
// levels. Writers wait for the first part only, some 10 ms.
func (s *Store) reclaim() error {
	s.dead.n.Store(0)
	flushed := make(chan error, 1)
	var err error
	s.submit(pending{
		kind: exclusive,
		fill: func(*Batch) { err = s.flushMemtable() },
		done: func(failure error) { flushed <- failure },
	})
	if failure := <-flushed; failure != nil {
		return failure
	}
	if err != nil {
		return err
	}
	if err := s.db.Flatten(1); err != nil {
		return fmt.Errorf("merge levels: %w", err)
	}
	return nil
}

// flushMemtable writes the memtable to disk. Badger does so on DropPrefix, if
// there is something to drop.
func (s *Store) flushMemtable() error {
	key := []byte("\x00flush")
	t := s.db.NewTransaction(true)
	defer t.Discard()
	if err := t.Set(key, nil); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return err
	}
	if err := s.db.DropPrefix(key); err != nil {
		return fmt.Errorf("flush memtable: %w", err)
	}
	if err := s.syncGroup(true); err != nil {
		return s.fail(err)
	}
	return nil
}
