package bench

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// waitFor waits until a server takes clients.
func waitFor(ctx context.Context, p peer) error {
	var err error
	for range 400 {
		var c *mqttload.Client
		if c, err = mqttload.Dial(ctx, p.subscriber()); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-p.process().Done():
			return fmt.Errorf("%s ended: %w", p.name(), p.process().Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not take clients: %w", p.name(), err)
}

func medianOf[T cmp.Ordered](values []T) T {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// memory is what a process has resident, in bytes: of its own, and pages of files,
// which the kernel can take back.
type memory struct{ own, files int64 }

func (m memory) all() int64 { return m.own + m.files }

func (m memory) String() string { return megabytes(m.all()) + " (" + megabytes(m.own) + " of its own)" }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func memoryOf(pid int) (memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		var kib int64
		switch name {
		case "RssAnon", "RssFile", "RssShmem":
			if _, err := fmt.Sscan(value, &kib); err != nil {
				return memory{}, fmt.Errorf("%s of process %d: %w", name, pid, err)
			}
		}
		if name == "RssAnon" {
			m.own += kib << 10
		} else {
			m.files += kib << 10
		}
	}
	if m.own == 0 {
		return memory{}, fmt.Errorf("process %d has no memory", pid)
	}
	return m, nil
}

// diskUse is what the files in a folder take of the disk, in bytes.
func diskUse(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			if os.IsNotExist(err) {
				return nil // the hub has removed it meanwhile
			}
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// fdatasync measures the floor of a durable acknowledgement: p50 of appending a
// message to a file and syncing it.
func fdatasync(dir string, n int) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(n*payloadSize)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(make([]byte, payloadSize)); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	return medianOf(took), nil
}
