package seglog_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// inherit has what this program has open at path open once more, like a child between
// its fork and its program, until the test ends.
func inherit(t *testing.T, path string) {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", n.Name())); err != nil || to != path {
			continue
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			t.Fatal(err)
		}
		child, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(child) })
		return
	}
	t.Fatalf("%s is not open", path)
}

func TestOneLogPerFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	f, err := seglog.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seglog.Dir(path); !errors.Is(err, seglog.ErrInUse) {
		t.Errorf("second lock: %v", err)
	}
	inherit(t, path)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := seglog.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
