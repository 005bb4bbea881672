package faultdisk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flushLimit is how long the kernel may take to write what it holds at an unmount.
const flushLimit = time.Second

// unmount takes the file system away. Another program that started meanwhile in a
// mount namespace of its own (`ip netns exec` makes one) may hold a copy of the
// mount and so keep it alive; then the connection is cut, and what the kernel still
// had to write is lost as in any power cut.
func (d *Disk) unmount() error {
	var st unix.Stat_t
	if err := unix.Stat(d.mountpoint, &st); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- d.server.Unmount() }()
	select {
	case err := <-done:
		return err
	case <-time.After(flushLimit):
	}
	if err := abort(unix.Minor(st.Dev)); err != nil {
		return err
	}
	return <-done
}

// abort cuts the connection with this number.
func abort(connection uint32) (err error) {
	dir, err := os.MkdirTemp("", "fusectl-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("none", dir, "fusectl", 0, ""); err != nil {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	defer func() {
		if e := syscall.Unmount(dir, syscall.MNT_DETACH); err == nil {
			err = e
		}
	}()
	err = os.WriteFile(filepath.Join(dir, strconv.FormatUint(uint64(connection), 10), "abort"), []byte("1"), 0)
	if os.IsNotExist(err) {
		return nil // it has ended by itself
	}
	return err
}
