package seglog

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
)

// janitor gives space back, in a goroutine of its own.
type janitor struct {
	wake chan struct{} // capacity 1
	quit chan struct{}
	once sync.Once
	done sync.WaitGroup
}

func (j *janitor) init() { j.wake, j.quit = make(chan struct{}, 1), make(chan struct{}) }

// Start begins to give space back, which needs an owner that can answer Keep. To be
// called once after Open, unless the log is read only.
func (l *Log) Start() { l.janitor.start(l) }

func (j *janitor) start(l *Log) {
	j.nudge()
	j.done.Go(func() {
		for {
			select {
			case <-j.quit:
				return
			case <-j.wake:
			}
			if err := l.reclaim(); err != nil {
				_ = l.fail(err) // everybody hears of it
			}
		}
	})
}

func (j *janitor) nudge() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *janitor) stop() {
	j.once.Do(func() { close(j.quit) })
	j.done.Wait()
}

func (j *janitor) stopping() bool {
	select {
	case <-j.quit:
		return true
	default:
		return false
	}
}

// wasteLocked tells the janitor when there is something to do about a segment: when
// nothing is left, and each time when half of what was left is gone. The last stays as it
// is: rotate tells the janitor when there is another.
func (l *Log) wasteLocked(s *segment) {
	if n := len(l.segments); n > 0 && l.segments[n-1] == s {
		return
	}
	if s.told == 0 {
		s.told = s.count
	}
	if s.left == 0 || s.sealed && s.left < s.told/2 {
		s.told = s.left
		l.janitor.nudge()
	}
}

// reclaim deletes and writes anew until there is nothing more to gain. An error is
// that of a broken disk.
func (l *Log) reclaim() error {
	for !l.janitor.stopping() && l.Err() == nil {
		if err := l.deleteFinished(); err != nil {
			return err
		}
		list := l.wasteful()
		if list == nil {
			return nil
		}
		again, err := l.compact(list)
		l.mu.Lock()
		for _, s := range list {
			l.releaseLocked(s)
		}
		l.mu.Unlock()
		if noSpace(err) {
			return nil // later, when something else was deleted
		}
		if err != nil || !again {
			return err
		}
	}
	return nil
}

// deleteFinished deletes segments of which nothing is left. The last stays: it has
// the state, or takes frames.
func (l *Log) deleteFinished() error {
	l.mu.Lock()
	var gone []*segment
	for _, s := range l.segments[:max(0, len(l.segments)-1)] {
		if s.left == 0 {
			gone = append(gone, s)
			l.detachLocked(s)
		}
	}
	l.segments = slices.DeleteFunc(l.segments, func(s *segment) bool { return slices.Contains(gone, s) })
	l.mu.Unlock()
	return l.remove(gone)
}

func (l *Log) remove(list []*segment) error {
	for _, s := range list {
		if err := l.folder.Remove(s.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete segment: %w", err)
		}
	}
	return nil
}

const (
	// manySmall is how many segments in a row, together no more than one, are too many.
	manySmall = 16
	// mostAtOnce bounds the files that are open to be written anew.
	mostAtOnce = 32
)

// wasteful finds segments in a row that one can take the place of, so that space is
// gained or there are fewer, and opens them; nil if there are none.
func (l *Log) wasteful() []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.segments[:max(0, len(l.segments)-1)]
	for _, row := range []func([]*segment) int{l.wasteLenLocked, l.smallLenLocked} {
		for i := range old {
			if n := row(old[i:]); n > 0 {
				return l.acquireAllLocked(slices.Clone(old[i : i+n]))
			}
		}
	}
	return nil
}

// wasteLenLocked is how many of the first segments are worth writing anew for the space
// that it gives back; 0: none.
func (l *Log) wasteLenLocked(old []*segment) int {
	var size, live int64
	n := 0
	for ; n < min(len(old), mostAtOnce); n++ {
		s := old[n]
		if !s.sealed || s.damaged || s.keepsAll() || live+s.live() > l.o.SegmentSize*3/4 {
			break
		}
		size += s.size
		live += s.live()
	}
	// What it costs to write must be less than what it gains.
	if live >= size/2 || size-live < l.o.SegmentSize/8 {
		return 0
	}
	return n
}

// smallLenLocked is how many of the first segments are so small that one should take
// their place; 0: none, or too few.
func (l *Log) smallLenLocked(old []*segment) int {
	var size int64
	n := 0
	for ; n < min(len(old), mostAtOnce); n++ {
		if s := old[n]; !s.sealed || s.damaged || size+s.size > l.o.SegmentSize*3/4 {
			break
		}
		size += old[n].size
	}
	if n < manySmall {
		return 0
	}
	return n
}

func (l *Log) acquireAllLocked(list []*segment) []*segment {
	for i, s := range list {
		if err := l.acquireLocked(s); err != nil {
			l.o.Logger.Warn("give space back", "error", err)
			for _, s := range list[:i] {
				l.releaseLocked(s)
			}
			return nil
		}
	}
	return list
}

// keepsAll tells whether writing the segment anew would gain nothing: it was written
// anew before, and most of what was left then still is.
func (s *segment) keepsAll() bool { return s.rewritten > 0 && s.left > s.rewritten/2 }

// compact writes what is left in some segments into one that takes their place. again:
// there may be more to do.
func (l *Log) compact(list []*segment) (again bool, err error) {
	n := number{list[0].from, list[len(list)-1].to}
	size := int64(headSize + tailSize + stateSpace)
	l.mu.Lock()
	for _, s := range list {
		size += s.live() // an estimate: the file can grow
	}
	l.mu.Unlock()
	file, err := l.folder.Create(compactTmp, padded(size))
	if err != nil {
		return false, err
	}
	s := newSegment(head{number: n, id: newID(), first: list[0].first, replaces: true}, file)
	s.refs, s.size, s.end, s.last = 1, size, headSize, list[len(list)-1].last
	w := rewriter{l: l, s: s}
	for _, old := range list {
		if err = w.copy(old); err != nil {
			break
		}
	}
	if err == nil {
		err = w.finish(list)
	}
	if err == nil && !w.stopped {
		err = l.folder.Rename(compactTmp, s.name)
	}
	if err != nil || w.stopped {
		_, _ = file.Close(), l.folder.Remove(compactTmp)
		return w.stopped && err == nil && !l.janitor.stopping(), err
	}
	gone := l.replace(list, s) // the name is that of the new file, whatever comes
	if err := l.folder.Sync(); err != nil {
		return false, errors.New("sync folder: " + err.Error()) // never ErrFull: the name may be lost
	}
	return true, l.remove(gone)
}

// replace puts a segment in the place of others, and returns those to be deleted.
func (l *Log) replace(list []*segment, s *segment) (gone []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(l.segments, list[0])
	for _, x := range s.extents {
		x.left = 0 // until it is counted
		x.entries = nil
	}
	s.left = 0
	for _, old := range list {
		for stream, x := range old.extents {
			// Finished ones were left out, so all that is left is in the new one.
			if y := s.extents[stream]; y != nil {
				y.left += x.left
				s.left += x.left
			}
		}
		l.detachLocked(old)
		if old.name != s.name {
			gone = append(gone, old)
		}
	}
	for stream, x := range s.extents {
		if x.left == 0 {
			delete(s.extents, stream)
		}
	}
	s.rewritten = s.left
	l.attachLocked(s)
	l.segments = slices.Replace(l.segments, at, at+len(list), s)
	l.releaseLocked(s)
	return gone
}

// rewriter fills a segment.
type rewriter struct {
	l       *Log
	s       *segment
	buf     []byte
	frame   Frame
	stopped bool // not to be used: the log closes, or a source is damaged
}

// bufferSize is how much is written at once.
const bufferSize = 256 << 10

func (w *rewriter) copy(old *segment) error {
	var writing error
	damage, err := old.frames(func(i frameInfo, payload []byte, _ int64) error {
		if w.l.janitor.stopping() {
			w.stopped = true
		}
		if w.stopped {
			return ErrStop
		}
		writing = w.take(i, payload)
		return writing
	})
	if len(damage) > 0 {
		w.leave(old, damage[0].String())
	}
	switch {
	case err == nil || errors.Is(err, ErrStop):
		return nil
	case writing == nil:
		// A place that cannot be read is no reason to end, and to end again after each
		// start: what is left of the segment stays where it is.
		w.leave(old, fmt.Sprintf("segment %s: %v", old.name, err))
		return nil
	}
	return err
}

// leave gives up writing a segment anew whose content cannot be had.
func (w *rewriter) leave(old *segment, where string) {
	w.l.o.Logger.Error("messages on disk are damaged", "where", where)
	w.l.mu.Lock()
	old.damaged = true
	w.l.mu.Unlock()
	w.stopped = true
}

// take copies what is left of one frame.
func (w *rewriter) take(i frameInfo, payload []byte) error {
	w.frame.Reset()
	var bodies, chunks []Part
	wanted := make(map[int]bool)
	err := parts(payload, func(p Part) error {
		switch p.Kind {
		case Body:
			bodies = append(bodies, p)
		case Chunk:
			if !w.l.o.Keep(p.Stream, p.First, p.Count) {
				return nil
			}
			numbers, err := w.l.o.Bodies(p.Data)
			for _, n := range numbers {
				wanted[n] = true
			}
			chunks = append(chunks, p)
			return err
		case State, Meta: // newer segments have them
		}
		return nil
	})
	if err != nil || len(chunks) == 0 {
		return err
	}
	for _, p := range bodies { // before the chunks that refer to them
		if wanted[p.Number] {
			w.frame.Add(p)
		}
	}
	for _, p := range chunks {
		w.frame.Add(p)
	}
	pos := w.s.end + int64(len(w.buf))
	for _, p := range w.frame.parts {
		w.s.add(p, pos)
	}
	w.buf = append(w.buf, finishFrame(w.frame.b, w.s.key, i.seq, i.durable)...)
	if len(w.buf) < bufferSize {
		return nil
	}
	return w.flush()
}

func (w *rewriter) flush() error {
	_, err := w.s.file.WriteAt(w.buf, w.s.end)
	w.s.end += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// finish writes head and footer, and syncs.
func (w *rewriter) finish(list []*segment) error {
	if w.stopped {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	if _, err := w.s.file.WriteAt(w.s.encode(), 0); err != nil {
		return err
	}
	w.l.mu.Lock()
	for _, old := range list {
		w.s.rewritten += old.left
	}
	w.l.mu.Unlock()
	b := w.s.encodeFooter(nil)
	if _, err := w.s.file.WriteAt(b, w.s.end); err != nil {
		return err
	}
	w.s.size, w.s.sealed = w.s.end+int64(len(b)), true
	if err := w.s.file.Truncate(w.s.size); err != nil {
		return err
	}
	return w.s.file.Sync()
}
