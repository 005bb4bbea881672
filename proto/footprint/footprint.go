// Package footprint keeps the memory of a program small that mostly waits. Small
// gateways hold a dozen such programs.
//
// What a Go program needs at its start - the code and tables of its libraries, the
// garbage of reading its configuration - stays resident after it, though it is not
// used again. Trim gives it back: garbage to the system, and pages of the program's
// own file out of the page table. Those are clean; what is needed is mapped again from
// the page cache, at the price of a minor fault each.
package footprint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// gcPercent bounds what the heap grows between collections. The runtime's 100
	// doubles it, and 4 MiB are free before the first; with 25 it is 1 MiB.
	gcPercent = 25
	// firstTrim is when a start is over, deployments of ordinary size included.
	firstTrim = 30 * time.Second
	interval  = 10 * time.Minute
)

// Run sets the collector to a small heap, and trims from time to time until ctx
// ends. The error tells that pages cannot be given back on this system.
func Run(ctx context.Context) error {
	debug.SetGCPercent(gcPercent)
	timer := time.NewTimer(firstTrim)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := Trim(); err != nil {
			return err
		}
		timer.Reset(interval)
	}
}

// Trim gives back what is not in use.
func Trim() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("own mappings: %w", err)
	}
	defer f.Close()
	list, err := readOnly(f, exe)
	if err != nil {
		return err
	}
	for _, r := range list {
		// Nothing is lost: the mapping is private, of a file, and not writable.
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, r.from, r.to-r.from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("own mappings: %w", errno)
		}
	}
	return nil
}

type span struct{ from, to uintptr }

// readOnly finds the mappings of the file exe that cannot be written to.
func readOnly(maps io.Reader, exe string) ([]span, error) {
	var list []span
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// 00400000-00b0e000 r-xp 00000000 fe:00 10824866     /path
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || !strings.HasSuffix(lines.Text(), " "+exe) || (fields[1] != "r-xp" && fields[1] != "r--p") {
			continue
		}
		from, to, ok := strings.Cut(fields[0], "-")
		a, errA := strconv.ParseUint(from, 16, strconv.IntSize)
		b, errB := strconv.ParseUint(to, 16, strconv.IntSize)
		if err := errors.Join(errA, errB); !ok || err != nil || a >= b {
			return nil, fmt.Errorf("mapping %q: %w", fields[0], err)
		}
		list = append(list, span{uintptr(a), uintptr(b)})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("own mappings: %w", err)
	}
	return list, nil
}
