// Package filelocktest helps to test that locks are given up, and not only closed.
package filelocktest

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Inherit has what this program has open at path open once more, like a child between
// its fork and its program, until the test ends.
func Inherit(t *testing.T, path string) {
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
