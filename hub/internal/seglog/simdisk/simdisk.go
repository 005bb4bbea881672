// Package simdisk is a folder in memory for tests: a disk that keeps what was synced
// apart from what was only written, loses the latter in a power cut, tears writes, is
// full, and fails at a chosen call.
package simdisk

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// pageSize is what a power cut keeps or loses in one piece.
const pageSize = 512

// Disk is the disk. Its Folders may be opened one after the other, over power cuts.
type Disk struct {
	mu    sync.Mutex
	names map[string]*file // as seen
	saved map[string]*file // that a power cut leaves
	limit int64            // of bytes; 0: none
	fail  error            // of the call that is to fail
	after int              // how many calls before it
	syncs int
}

type file struct {
	data, saved []byte
	blocks      int64 // bytes that have space of their own
	bad, badEnd int64 // what cannot be read; none if they are equal
	lo, hi      int64 // what was written since the last sync
}

// New returns an empty disk.
func New() *Disk { return &Disk{names: make(map[string]*file), saved: make(map[string]*file)} }

// Folder opens the disk.
func (d *Disk) Folder() seglog.Folder { return folder{d} }

// Limit sets how many bytes fit on it; 0: no limit.
func (d *Disk) Limit(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit = bytes
}

// Used is how many bytes are taken.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

func (d *Disk) used() int64 {
	var n int64
	for _, f := range d.names {
		n += f.blocks
	}
	return n
}

// FailAfter lets the call that changes the disk, or syncs it, after so many others
// fail, and all that follow. A nil error: none.
func (d *Disk) FailAfter(calls int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.after, d.fail = calls, err
}

// Syncs is how often a file or the folder was synced.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// Names lists the files.
func (d *Disk) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names))
}

// Change changes a file's content, on disk as well.
func (d *Disk) Change(name string, change func([]byte) []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	f.data = change(f.data)
	f.saved = bytes.Clone(f.data)
	f.blocks = int64(len(f.data))
}

// Unreadable lets every read fail that touches this part of a file, until its beginning
// is written anew.
func (d *Disk) Unreadable(name string, from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	f.bad, f.badEnd = from, to
}

// PowerCut loses what is not synced: each page and each name by chance, the last
// written page of a file in part. Open folders must not be used any more.
func (d *Disk) PowerCut(random *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = nil
	for _, name := range slices.Sorted(maps.Keys(union(d.names, d.saved))) {
		if d.names[name] != d.saved[name] && random.IntN(2) == 0 {
			continue // the old name, or none, is left
		}
		if f := d.names[name]; f != nil {
			d.saved[name] = f
		} else {
			delete(d.saved, name)
		}
	}
	d.names = maps.Clone(d.saved)
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		d.names[name].lose(random)
	}
}

func union(a, b map[string]*file) map[string]*file {
	c := maps.Clone(a)
	maps.Copy(c, b)
	return c
}

func (f *file) lose(random *rand.Rand) {
	if random.IntN(2) == 0 && len(f.data) != len(f.saved) {
		f.saved = append(f.saved[:min(len(f.saved), len(f.data))], make([]byte, max(0, len(f.data)-len(f.saved)))...)
	}
	for at := 0; at < min(len(f.data), len(f.saved)); at += pageSize {
		to := min(at+pageSize, len(f.data), len(f.saved))
		if bytes.Equal(f.data[at:to], f.saved[at:to]) {
			continue
		}
		switch random.IntN(5) {
		case 0, 1:
			copy(f.saved[at:to], f.data[at:to])
		case 2: // torn
			copy(f.saved[at:at+random.IntN(to-at)], f.data[at:to])
		}
	}
	f.data = bytes.Clone(f.saved)
	f.blocks = int64(len(f.data))
	f.lo, f.hi = math.MaxInt64, 0
}

// change counts a call, and tells whether it must fail. d.mu is held.
func (d *Disk) change() error {
	if d.fail == nil {
		return nil
	}
	if d.after > 0 {
		d.after--
		return nil
	}
	return d.fail
}

func (d *Disk) take(bytes int64) error {
	if d.limit > 0 && bytes > 0 && d.used()+bytes > d.limit {
		return syscall.ENOSPC
	}
	return nil
}

type folder struct{ d *Disk }

func (f folder) Create(name string, size int64) (seglog.File, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.names[name] != nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrExist)
	}
	if err := f.d.change(); err != nil {
		return nil, err
	}
	if err := f.d.take(size); err != nil {
		return nil, err
	}
	n := &file{data: make([]byte, size), blocks: size, lo: math.MaxInt64}
	f.d.names[name] = n
	return &handle{f.d, n}, nil
}

func (f folder) Open(name string) (seglog.File, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := f.d.names[name]
	if n == nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return &handle{f.d, n}, nil
}

func (f folder) Rename(from, to string) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := f.d.names[from]
	if n == nil {
		return fmt.Errorf("%s: %w", from, fs.ErrNotExist)
	}
	if err := f.d.change(); err != nil {
		return err
	}
	delete(f.d.names, from)
	f.d.names[to] = n
	return nil
}

func (f folder) Remove(name string) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.names[name] == nil {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err := f.d.change(); err != nil {
		return err
	}
	delete(f.d.names, name)
	return nil
}

func (f folder) Names() ([]string, error) { return f.d.Names(), nil }

func (f folder) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.change(); err != nil {
		return err
	}
	f.d.syncs++
	f.d.saved = maps.Clone(f.d.names)
	return nil
}

func (f folder) Free() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.limit == 0 {
		return 1 << 40, nil
	}
	return max(0, f.d.limit-f.d.used()), nil
}

func (f folder) Close() error { return nil }

type handle struct {
	d *Disk
	f *file
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if at >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	if at < h.f.badEnd && at+int64(len(b)) > h.f.bad {
		return 0, syscall.EIO
	}
	n := copy(b, h.f.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.change(); err != nil {
		return 0, err
	}
	end := at + int64(len(b))
	if err := h.d.take(end - h.f.blocks); err != nil {
		return 0, err
	}
	h.f.blocks = max(h.f.blocks, end)
	if grown := end - int64(len(h.f.data)); grown > 0 {
		h.f.data = append(h.f.data, make([]byte, grown)...)
	}
	h.f.lo, h.f.hi = min(h.f.lo, at), max(h.f.hi, end)
	if at <= h.f.bad && end > h.f.bad {
		h.f.bad = min(end, h.f.badEnd)
	}
	return copy(h.f.data[at:], b), nil
}

func (h *handle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.change(); err != nil {
		return err
	}
	h.d.syncs++
	f := h.f
	if f.saved == nil { // most of a new segment is nothing but zeros
		f.saved = make([]byte, len(f.data))
	}
	if len(f.saved) != len(f.data) {
		f.saved = bytes.Clone(f.data)
	} else if f.lo < f.hi {
		copy(f.saved[f.lo:], f.data[f.lo:min(f.hi, int64(len(f.data)))])
	}
	h.f.lo, h.f.hi = math.MaxInt64, 0
	return nil
}

func (h *handle) Truncate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.change(); err != nil {
		return err
	}
	if size < int64(len(h.f.data)) {
		h.f.data = h.f.data[:size:size]
	}
	h.f.blocks = min(h.f.blocks, size)
	return nil
}

func (h *handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *handle) Close() error { return nil }
