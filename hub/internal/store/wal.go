package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/proto/filelock"
)

// wal syncs the write-ahead logs of Badger's memtables, the files "00001.mem" and
// so on. Badger starts the next log when a memtable is full, and its DB.Sync then
// covers only the new one, although the end of the old one may hold a part of the
// same group; and it does not sync the folder that holds the new file. A power cut
// would so lose acknowledged writes.
//
// A log counts up by one. A group spans at most two logs (groupBytes), and Badger
// deletes a log only after its successor exists and its content is in a synced
// table, so looking for the next number after each group, synced or not, misses
// none.
type wal struct {
	dir  string
	next int        // number of the first log not seen yet
	open []*os.File // logs that may hold unsynced writes, oldest first
}

const walExt = ".mem"

func openWAL(dir string) (*wal, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+walExt))
	if err != nil {
		return nil, err
	}
	w := &wal{dir: dir}
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), walExt))
		if err == nil && n > w.next {
			w.next = n
		}
	}
	if err := w.discover(); err != nil {
		return nil, err
	}
	if len(w.open) == 0 {
		return nil, errors.New("no write-ahead log")
	}
	// The folder itself may be new too.
	err = syncFolder(filepath.Dir(dir))
	if errors.Is(err, fs.ErrPermission) {
		err = nil // then somebody else has made it, and before
	}
	return w, errors.Join(err, syncFolder(dir))
}

// removeEmpty deletes logs without content, which Badger refuses to open: they stay
// when the process is killed while Badger creates or deletes one. It does nothing
// while another process has the database open, and leaves the error to Badger.
func removeEmpty(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = filelock.Close(d) }() // the lock is Badger's, who takes it next
	if unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	files, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, f := range files {
		if ext := filepath.Ext(f.Name()); ext != walExt && ext != ".vlog" {
			continue
		}
		info, err := f.Info()
		if err == nil && info.Size() == 0 {
			err = os.Remove(filepath.Join(dir, f.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// discover opens logs that are new since the last call.
func (w *wal) discover() error {
	for {
		path := filepath.Join(w.dir, fmt.Sprintf("%05d%s", w.next, walExt))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		// Badger writes through a memory map of a file with holes. Without blocks
		// of its own a full disk would be a SIGBUS instead of an error. Where the
		// file system cannot do it, Options.MinFree alone must be enough.
		_ = unix.Fallocate(int(f.Fd()), 0, 0, memTableSize+groupBytes)
		w.open = append(w.open, f)
		w.next++
	}
}

// maxUnsynced bounds the logs that stay open, and so on disk, for lack of a sync.
const maxUnsynced = 4

// written must be called after a group that needs no sync.
func (w *wal) written() error {
	if err := w.discover(); err != nil {
		return err
	}
	if len(w.open) > maxUnsynced {
		return w.sync()
	}
	return nil
}

// sync makes everything durable that was written before the call.
func (w *wal) sync() error {
	if err := w.discover(); err != nil {
		return err
	}
	for _, f := range w.open {
		if err := fdatasync(f); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(f.Name()), err)
		}
	}
	if len(w.open) > 1 { // the folder has got a new one
		if err := syncFolder(w.dir); err != nil {
			return err
		}
	}
	last := len(w.open) - 1
	for _, f := range w.open[:last] {
		_ = f.Close() // read and synced only
	}
	w.open = append(w.open[:0], w.open[last])
	return nil
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncFolder brings the names in a folder to disk.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (w *wal) close() {
	for _, f := range w.open {
		_ = f.Close()
	}
	w.open = nil
}

// diskFull tells whether less than Options.MinFree is left.
func (s *Store) diskFull() bool {
	if s.wal == nil || s.opts.MinFree < 0 {
		return false
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return false
	}
	return int64(st.Bavail)*int64(st.Bsize) < s.opts.MinFree //nolint:unconvert // an int32 on 32-bit machines
}
