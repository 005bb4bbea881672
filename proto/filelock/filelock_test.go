package filelock_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/proto/filelock"
	"github.com/breakwater-iot/breakwater/proto/filelock/filelocktest"
)

func TestALockIsGivenUpThoughAChildHasTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := open()
	if err := unix.Flock(int(first.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	filelocktest.Inherit(t, path)
	second := open()
	if err := unix.Flock(int(second.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		t.Error("the lock was free while it was held")
	}
	if err := filelock.Close(first); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(second.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the lock is not free: %v", err)
	}
	if err := filelock.Close(second); err != nil {
		t.Error(err)
	}
	if err := filelock.Close(open()); err != nil {
		t.Errorf("a file without a lock: %v", err)
	}
}
