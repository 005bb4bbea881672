package store

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Badger maps every table into memory and touches all of it when it writes it, so
// that a long queue would look like memory of the process and push out others'. A
// gateway has little of it; what is read again comes back from the disk.
const (
	trimInterval = 5 * time.Second
	trimAbove    = 8 << 20 // bytes of tables
)

// trimLoop gives the memory of tables back while there are many.
func (s *Store) trimLoop() {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if s.DiskSize() <= trimAbove {
			continue
		}
		if err := trim(dir); err != nil {
			s.opts.Logger.Debug("trim memory", "error", err)
			return // the kernel cannot, and will not later
		}
	}
}

// trim asks the kernel to page out the tables in dir. The advice changes no
// content, so it does not matter if a mapping has just become something else.
func trim(dir string) error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasSuffix(line, ".sst") || !strings.Contains(line, " "+dir+"/") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return fmt.Errorf("memory map: %w", err)
		}
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT)
		if errno != 0 && !errors.Is(errno, unix.ENOMEM) { // ENOMEM: no longer mapped
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return lines.Err()
}
