package seglog

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

const (
	// pageSize is the least of a file that can be read, and fail to be read, by itself.
	pageSize = 4 << 10
	// maxHoles is how many pages may fail in a pass over a segment. More is no bad place
	// of a disk but a bad disk, which may be well again at the next start.
	maxHoles = 16
)

var errUnreadable = fmt.Errorf("%w: the disk cannot read it", ErrDamaged)

// unreadable tells whether an error is that of a place on the disk.
func unreadable(err error) bool { return errors.Is(err, syscall.EIO) }

// readAt fills b from the segment's file. Pages that the disk cannot read, asked twice,
// are noted as holes and are zeros, in which no frame is good.
func (w *window) readAt(b []byte, pos int64) (int, error) {
	n, err := w.s.file.ReadAt(b, pos)
	if !unreadable(err) {
		return n, err
	}
	for n = 0; n < len(b); {
		at := pos + int64(n)
		page := b[n:min(int64(len(b)), int64(n)+pageSize-at%pageSize)]
		got, err := w.s.file.ReadAt(page, at)
		if unreadable(err) {
			clear(page)
			got, err = len(page), w.addHole(at-at%pageSize, err)
		}
		if n += got; err != nil {
			return n, err
		}
		if got == 0 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

func (w *window) addHole(page int64, err error) error {
	if _, known := w.hole(page, page+pageSize); known {
		return nil
	}
	if w.holes = append(w.holes, page); len(w.holes) > maxHoles {
		return fmt.Errorf("too much cannot be read: %w", err)
	}
	return nil
}

// hole finds the first hole that has a part of what lies between two positions.
func (w *window) hole(from, to int64) (page int64, ok bool) {
	for _, h := range w.holes {
		if h < to && from < h+pageSize && (!ok || h < page) {
			page, ok = h, true
		}
	}
	return page, ok
}
