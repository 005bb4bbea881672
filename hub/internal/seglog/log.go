package seglog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Log is an open log. Write is for one goroutine at a time; the other methods may be
// called concurrently.
type Log struct {
	folder Folder
	o      Options
	damage []Damage // found by Open

	mu       sync.Mutex
	segments []*segment           // guarded by mu: in order
	streams  map[uint32][]*extent // guarded by mu: in order of offsets
	seq      uint64               // guarded by mu: of the last frame
	durable  uint64               // guarded by mu: up to which frames are on disk
	closed   bool                 // guarded by mu

	// Of Write's goroutine.
	active *segment // the last of segments, when it takes frames
	number uint64   // of the last segment

	failMu  sync.Mutex
	failure error         // guarded by failMu
	failed  chan struct{} // closed when failure is set

	janitor janitor
}

// Open opens the log in a folder, which belongs to it from then on. Close must be
// called, and closes the folder too.
func Open(f Folder, o Options) (*Log, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = SegmentSize
	}
	l := &Log{folder: f, o: o, streams: make(map[uint32][]*extent), failed: make(chan struct{})}
	if err := l.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	for _, d := range l.damage {
		o.Logger.Error("messages on disk are damaged", "where", d.String())
	}
	l.janitor.init()
	return l, nil
}

// Damage is what Open has found damaged.
func (l *Log) Damage() []Damage { return l.damage }

// Failed is closed when a write or sync has gone wrong.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err is why the log failed; nil if it has not.
func (l *Log) Err() error {
	l.failMu.Lock()
	defer l.failMu.Unlock()
	return l.failure
}

// fail makes err the end of all writing.
func (l *Log) fail(err error) error {
	l.failMu.Lock()
	defer l.failMu.Unlock()
	if l.failure == nil {
		l.failure = fmt.Errorf("%w: %w", ErrFailed, err)
		close(l.failed)
	}
	return l.failure
}

// Close ends the log in good order: the last segment gets its footer. Write must not
// run. After a failure it writes nothing any more.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.janitor.stop()
	var err error
	if l.active != nil {
		if l.Err() == nil {
			err = l.seal(l.active)
		}
		l.release(l.active)
		l.active = nil
	}
	if err == nil && l.Err() == nil && !l.o.ReadOnly {
		err = l.deleteFinished()
	}
	if err = errors.Join(err, l.folder.Close()); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// Free is how many bytes the disk has left; ok is false if it does not tell.
func (l *Log) Free() (free int64, ok bool) {
	free, err := l.folder.Free()
	return free, err == nil
}

// Write stores a frame, and returns when it is on disk, if sync is true; else it will
// be with the next that is. An empty frame is not stored. Errors: ErrFull,
// ErrTooLarge and ErrClosed, after which nothing has changed, and ErrFailed.
func (l *Log) Write(f *Frame, sync bool) error {
	if err := l.Err(); err != nil {
		return err
	}
	if f.Size() == 0 {
		return nil
	}
	if f.Size() > MaxFrame {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, f.Size())
	}
	l.mu.Lock()
	closed := l.closed
	full := l.active == nil || l.active.end+padded(int64(f.Size()))+l.active.footerSpace() > l.active.size-stateSpace
	l.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if full {
		if err := l.rotate(int64(f.Size())); err != nil {
			return err
		}
	}
	if err := l.writeFrame(f); err != nil {
		return l.fail(fmt.Errorf("write %s: %w", l.active.name, err))
	}
	if sync && !l.o.UnsafeNoSync {
		if err := l.active.file.Sync(); err != nil {
			return l.fail(fmt.Errorf("sync %s: %w", l.active.name, err))
		}
		l.mu.Lock()
		l.durable = l.seq
		l.mu.Unlock()
	}
	return nil
}

// stateSpace is kept for the state in the footer. If it is larger the file grows.
const stateSpace = 16 << 10

func (l *Log) writeFrame(f *Frame) error {
	s := l.active
	b := finishFrame(f.b, s.key, l.seq+1, l.durable)
	f.b = b
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	s.last = l.seq
	for _, p := range f.parts {
		known := s.extents[p.Stream] != nil
		if x := s.add(p, s.end); !known {
			l.streams[p.Stream] = append(l.streams[p.Stream], x)
		}
	}
	s.end += int64(len(b))
	return nil
}

// rotate seals the segment that takes frames and makes the next.
func (l *Log) rotate(need int64) error {
	if l.active != nil {
		if err := l.seal(l.active); err != nil {
			return l.fail(err)
		}
		l.release(l.active)
		l.active = nil
	}
	state := l.o.Snapshot()
	var f Frame
	f.Add(Part{Kind: State, Data: state})
	size := max(l.o.SegmentSize, headSize+2*int64(len(state))+need+stateSpace+4096)
	if len(state) > MaxFrame {
		return l.fail(fmt.Errorf("state of %d bytes", len(state)))
	}
	s, err := l.create(&f, size)
	if err != nil {
		if noSpace(err) {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		return l.fail(err)
	}
	l.number = s.to
	l.mu.Lock()
	l.seq, l.durable = s.last, s.last
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	l.active = s
	l.janitor.nudge()
	return nil
}

// create makes a segment whose first frame is f, on disk with its name.
func (l *Log) create(f *Frame, size int64) (*segment, error) {
	file, err := l.folder.Create(tmpName, size)
	if err != nil {
		return nil, err
	}
	s := newSegment(head{number: number{l.number + 1, l.number + 1}, id: newID(), first: l.seq + 1}, file)
	s.size, s.last, s.refs = size, s.first, 1
	b := append(s.encode(), finishFrame(f.b, s.key, s.first, l.durable)...)
	s.end = int64(len(b))
	_, err = file.WriteAt(b, 0)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = l.folder.Rename(tmpName, s.name)
	}
	if err == nil {
		err = l.folder.Sync()
	}
	if err != nil {
		// Nothing in it counts yet. What cannot be removed now, the next start removes,
		// or the next segment replaces.
		_, _, _ = file.Close(), l.folder.Remove(tmpName), l.folder.Remove(s.name)
	}
	if err != nil {
		return nil, fmt.Errorf("make segment %s: %w", s.name, err)
	}
	return s, nil
}

func newSegment(h head, f File) *segment {
	return &segment{head: h, key: h.key(), name: h.name(), file: f, extents: make(map[uint32]*extent)}
}

func newID() uint64 {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails (crypto/rand)
	return binary.LittleEndian.Uint64(b[:])
}

// seal syncs the segment and writes its footer.
func (l *Log) seal(s *segment) error {
	var state []byte
	if l.o.Snapshot != nil {
		state = l.o.Snapshot()
	}
	if err := l.writeFooter(s, state); err != nil {
		return fmt.Errorf("seal segment %s: %w", s.name, err)
	}
	l.mu.Lock()
	l.durable = max(l.durable, s.last)
	l.mu.Unlock()
	return nil
}

// writeFooter writes the tail only when all before it is on disk, so that a tail never
// speaks of what is not there. If there is no space for a footer the segment is synced
// and stays without, which costs a later start a little time.
func (l *Log) writeFooter(s *segment, state []byte) error {
	l.mu.Lock()
	b := s.encodeFooter(state)
	end := s.end
	l.mu.Unlock()
	before := len(b) - tailSize
	_, err := s.file.WriteAt(b[:before], end)
	if err != nil && !noSpace(err) {
		return err
	}
	if syncErr := s.file.Sync(); syncErr != nil || err != nil {
		return syncErr
	}
	if _, err := s.file.WriteAt(b[before:], end+int64(before)); noSpace(err) {
		return nil
	} else if err != nil {
		return err
	}
	if err := s.file.Truncate(end + int64(len(b))); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.size, s.sealed, s.state = end+int64(len(b)), true, nil
	for _, x := range s.extents {
		x.entries = nil // from now on they are read
	}
	return nil
}
