package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// windowSize is how much of a segment is read at once.
const windowSize = 128 << 10

var windows = sync.Pool{New: func() any { b := make([]byte, windowSize); return &b }}

// window reads frames of a segment through a bounded buffer.
type window struct {
	s       *segment
	limit   int64  // of positions
	highest uint64 // no frame has a higher sequence number
	small   *[]byte
	// What resync has seen of later frames, so that it looks at none twice.
	durable uint64 // up to which all was on disk, as they say
	seen    int64  // where the next of them may begin
	buf     []byte // what was read at
	at      int64
	holes   []int64 // pages that cannot be read
}

func (w *window) release() {
	if w.small != nil {
		windows.Put(w.small)
	}
	w.small, w.buf = nil, nil
}

// bytes returns n bytes at pos, or fewer at the end.
func (w *window) bytes(pos int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.limit-pos))
	if off := pos - w.at; off >= 0 && off+int64(n) <= int64(len(w.buf)) {
		return w.buf[off : off+int64(n)], nil
	}
	var b []byte
	if n <= windowSize {
		if w.small == nil {
			w.small = windows.Get().(*[]byte)
		}
		b = (*w.small)[:min(windowSize, w.limit-pos)]
	} else {
		b = make([]byte, n)
	}
	got, err := w.readAt(b, pos)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", w.s.name, err)
	}
	w.buf, w.at = b[:got], pos
	return w.buf[:min(n, got)], nil
}

// frame reads the frame at pos. The payload is valid until the next call. An error
// that is ErrDamaged says that there is none.
func (w *window) frame(pos int64) (frameInfo, []byte, error) {
	i, payload, err := w.decode(pos)
	if errors.Is(err, ErrDamaged) {
		if _, ok := w.hole(pos, pos+frameHead+min(int64(i.length), MaxFrame)); ok {
			err = errUnreadable
		}
	}
	return i, payload, err
}

func (w *window) decode(pos int64) (frameInfo, []byte, error) {
	b, err := w.bytes(pos, frameHead)
	if err != nil {
		return frameInfo{}, nil, err
	}
	if len(b) < frameHead {
		return frameInfo{}, nil, fmt.Errorf("%w: frame ends early", ErrDamaged)
	}
	i := decodeFrameHead(b, w.s.key)
	if i.length == 0 || i.length > MaxFrame || pos+frameHead+int64(i.length) > w.limit {
		return i, nil, fmt.Errorf("%w: length of frame", ErrDamaged)
	}
	if b, err = w.bytes(pos, frameHead+int(i.length)); err != nil {
		return i, nil, err
	}
	return decodeFrame(b, w.s.key)
}

// highest is a sequence number that no frame of the segment is above.
func (s *segment) highest() uint64 { return max(s.last, s.first+uint64(s.size/align)) }

// resync looks for the next good frame from pos on whose sequence number is at least
// seq, and returns its place, or -1. torn: no frame from there on says that the one
// with this number was on disk when it was written, so it never was; it is what a
// crash has torn. Not looked for in a segment that has a footer: all was on disk then.
// Over all calls it goes once over what lies behind, and once more for torn.
func (w *window) resync(pos int64, seq uint64, sealed bool) (next int64, torn bool, err error) {
	next, i, err := w.find(pos, seq)
	if next < 0 || sealed || err != nil {
		return next, !sealed, err
	}
	if w.seen <= next {
		w.durable, w.seen = max(w.durable, i.durable), next+i.space()
	}
	for w.durable < seq {
		at, i, err := w.find(w.seen, seq)
		if at < 0 || err != nil {
			w.seen = w.limit
			return next, true, err
		}
		w.durable, w.seen = max(w.durable, i.durable), at+i.space()
	}
	return next, false, nil
}

// find looks for the next good frame with a sequence number not below seq.
func (w *window) find(pos int64, seq uint64) (next int64, i frameInfo, err error) {
	pos = padded(pos)
	mask := w.s.mask
	for pos+frameHead < w.limit {
		b, err := w.bytes(pos, windowSize)
		if err != nil {
			return 0, i, err
		}
		n := 0
		for ; n+frameHead <= len(b); n += align {
			v := binary.LittleEndian.Uint64(b[n+8:]) ^ mask
			if v < seq || v > w.highest || b[n+4]|b[n+5]|b[n+6]|b[n+7] == 0 {
				continue
			}
			i, _, err = w.frame(pos + int64(n))
			if err == nil {
				return pos + int64(n), i, nil
			}
			if !errors.Is(err, ErrDamaged) {
				return 0, i, err
			}
			if b, err = w.bytes(pos, len(b)); err != nil { // the buffer was used
				return 0, i, err
			}
		}
		if n == 0 {
			break
		}
		pos += int64(n)
	}
	return -1, i, nil
}

// ErrStop may be returned by the function given to Read to end it without error.
var ErrStop = errors.New("stop")

// Bodies are the bodies of a frame, by number.
type Bodies map[int][]byte

// Read calls fn for each chunk of a stream that has an offset from lo on and below hi,
// in order. Chunk data and bodies are valid during the call only. What cannot be read
// is left out and told to damaged, if that is not nil.
func (l *Log) Read(stream uint32, lo, hi uint64, fn func(chunk Part, bodies Bodies) error, damaged func(Damage)) error {
	for lo < hi {
		r, ok, err := l.reading(stream, lo)
		if !ok || err != nil {
			return err
		}
		err = r.run(hi, fn, damaged)
		l.release(r.x.seg)
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil:
			return err
		}
		lo = r.next
	}
	return nil
}

// reading is reading one extent.
type reading struct {
	x       *extent
	w       window
	lo      uint64 // where to begin
	next    uint64 // where it ends
	entries []entry
	every   int
}

// reading finds the extent that has the offset, or the first after it.
func (l *Log) reading(stream uint32, lo uint64) (*reading, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false, ErrClosed
	}
	list := l.streams[stream]
	i, _ := slices.BinarySearchFunc(list, lo, func(x *extent, o uint64) int {
		if x.next() <= o {
			return -1
		}
		return 1
	})
	if i == len(list) {
		return nil, false, nil
	}
	x := list[i]
	r := &reading{x: x, lo: lo, next: x.next(), every: x.every}
	if x.entries != nil {
		from, _ := slices.BinarySearchFunc(x.entries, lo, func(e entry, o uint64) int {
			if e.first <= o {
				return -1
			}
			return 1
		})
		r.entries = append(r.entries, x.entries[max(0, from-1):]...)
	}
	r.w = window{s: x.seg, limit: x.seg.end, highest: x.seg.highest()}
	return r, true, l.acquireLocked(x.seg)
}

// acquireLocked opens the segment's file, unless it is open.
func (l *Log) acquireLocked(s *segment) error {
	if s.refs == 0 {
		f, err := l.folder.Open(s.name)
		if err != nil {
			return fmt.Errorf("open segment: %w", err)
		}
		s.file = f
	}
	s.refs++
	return nil
}

// release closes the file if nobody uses it any more.
func (l *Log) release(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseLocked(s)
}

func (l *Log) releaseLocked(s *segment) {
	if s.refs--; s.refs == 0 {
		_ = s.file.Close() // what was written is synced
		s.file = nil
	}
}

func (r *reading) run(hi uint64, fn func(Part, Bodies) error, damaged func(Damage)) error {
	defer r.w.release()
	if err := r.loadEntries(); err != nil {
		return err
	}
	pos := r.entries[0].pos
	bodies := make(Bodies)
	for pos < r.w.limit {
		i, payload, err := r.w.frame(pos)
		if errors.Is(err, ErrDamaged) {
			next, _, findErr := r.w.find(pos+align, r.x.seg.first)
			if findErr != nil {
				return findErr
			}
			if damaged != nil {
				damaged(Damage{r.x.seg.name, pos, max(next-pos, -1), err.Error()})
			}
			if next < 0 {
				return nil
			}
			pos = next
			continue
		}
		if err != nil {
			return err
		}
		done, err := r.frame(payload, hi, bodies, fn)
		if err != nil || done {
			return err
		}
		pos = r.after(pos, i)
	}
	return nil
}

// loadEntries reads the index of a segment that has a footer, and leaves out what is
// before the place to begin.
func (r *reading) loadEntries() error {
	if r.entries != nil {
		return nil
	}
	list, err := r.x.readEntries()
	switch {
	case errors.Is(err, ErrDamaged) || unreadable(err) || err == nil && len(list) == 0: // go through all frames
		r.entries, r.every = []entry{{r.x.first(), headSize}}, 0
		return nil
	case err != nil:
		return fmt.Errorf("read index of %s: %w", r.x.seg.name, err)
	}
	i := slices.IndexFunc(list, func(e entry) bool { return e.first > r.lo })
	if i < 0 {
		i = len(list)
	}
	r.entries = list[max(0, i-1):]
	return nil
}

// after is where to go on after a frame: if every frame that has something of the
// stream is in the index, those in between are passed over.
func (r *reading) after(pos int64, i frameInfo) int64 {
	pos += i.space()
	for len(r.entries) > 0 && r.entries[0].pos < pos {
		r.entries = r.entries[1:]
	}
	if r.every == 1 && len(r.entries) > 0 {
		return r.entries[0].pos
	}
	return pos
}

// frame gives the stream's chunks of a frame to fn, and tells whether all is read.
func (r *reading) frame(payload []byte, hi uint64, bodies Bodies, fn func(Part, Bodies) error) (done bool, err error) {
	clear(bodies)
	err = parts(payload, func(p Part) error {
		if p.Kind == Body {
			bodies[p.Number] = p.Data
			return nil
		}
		if p.Kind != Chunk || p.Stream != r.x.stream || p.next() <= r.lo {
			return nil
		}
		if p.First >= hi {
			return ErrStop
		}
		done = p.next() >= r.next
		return fn(p, bodies)
	})
	return done, err
}
