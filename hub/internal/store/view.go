package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/proto/filelock"
)

// Errors of OpenView.
var (
	// ErrInUse: a running program has the store open.
	ErrInUse = errors.New("store is in use by a running program")
	// ErrNoStore: there is no store in the folder.
	ErrNoStore = errors.New("no store here")
)

// View is a store that is only looked at. Nothing of it is changed, unless a crash has
// left something half done: then it is opened as the hub would open it, which puts
// that right.
type View struct {
	db *badger.DB
}

// OpenView opens a view of the store in dir, which nobody else may write.
func OpenView(dir string, l *slog.Logger) (*View, error) {
	if _, err := os.Stat(filepath.Join(dir, badger.ManifestFilename)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoStore, dir)
	} else if err != nil {
		return nil, err
	}
	if err := lockable(dir); err != nil {
		return nil, err
	}
	o := badgerOptions(dir, l)
	db, err := badger.Open(o.WithReadOnly(true))
	if err != nil {
		// Badger reads only what was closed in order. A lock of another program that
		// came meanwhile is an error here too.
		if err = removeEmpty(dir); err == nil {
			db, err = badger.Open(o)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return &View{db: db}, nil
}

// lockable tells by its error whether another program has the store.
func lockable(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err = unix.Flock(int(d.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s", ErrInUse, dir)
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", dir, err)
	}
	return errors.Join(err, filelock.Close(d))
}

// Close ends the view.
func (v *View) Close() error { return v.db.Close() }

// Scan is Store.Scan.
func (v *View) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	return scan(v.db, prefix, from, fn)
}

// Verify checks the checksums of all tables on disk.
func (v *View) Verify() error {
	if err := v.db.VerifyChecksum(); err != nil {
		return fmt.Errorf("checksums of tables: %w", err)
	}
	return nil
}
