package store

// BreakDatabase closes the database under the committer.
func (s *Store) BreakDatabase() error { return s.db.Close() }

// Reclaim runs a reclaim at once.
func (s *Store) Reclaim() error { return s.reclaim() }

// OpenLogs counts the write-ahead logs that are still to be synced.
func (s *Store) OpenLogs() int { return len(s.wal.open) }
