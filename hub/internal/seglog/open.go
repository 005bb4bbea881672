package seglog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// recover finds the segments, and what has to be known to go on. It holds one file
// open at a time, however many there are, and changes nothing before it has looked at
// the heads of all.
func (l *Log) recover() error {
	numbers, old, err := l.list()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		s, err := l.openSegment(n)
		if err != nil {
			return err
		}
		l.number = max(l.number, n.to)
		if s != nil {
			l.segments = append(l.segments, s)
		}
	}
	// That of a disk which is not there must not count as lost.
	if len(l.segments) == 0 && slices.ContainsFunc(l.damage, func(d Damage) bool { return d.Reason == errUnreadable.Error() }) {
		return fmt.Errorf("%w: no segment can be read", syscall.EIO)
	}
	if err := l.removeOld(old); err != nil {
		return err
	}
	if err := l.readSegments(); err != nil {
		return err
	}
	if err := l.restore(); err != nil {
		return err
	}
	for _, s := range l.segments {
		l.attachLocked(s)
		l.seq = max(l.seq, s.last)
		if !s.sealed && !l.o.ReadOnly && !s.damaged {
			if err := l.using(s, func() error { return l.sealFound(s) }); err != nil {
				return err
			}
		}
	}
	l.durable = l.seq
	return nil
}

// using opens the segment's file for as long as fn runs.
func (l *Log) using(s *segment, fn func() error) error {
	l.mu.Lock()
	err := l.acquireLocked(s)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	defer l.release(s)
	return fn()
}

// list returns the segments in order, without those that others have replaced, and
// the names of what is left over.
func (l *Log) list() (list []number, old []string, err error) {
	names, err := l.folder.Names()
	if err != nil {
		return nil, nil, err
	}
	var all []number
	for _, name := range names {
		if n, ok := parseName(name); ok {
			all = append(all, n)
		} else if name == tmpName || name == compactTmp {
			old = append(old, name)
		}
	}
	// The widest first, so that those in it come after it.
	slices.SortFunc(all, func(a, b number) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) })
	for _, n := range all {
		if k := len(list); k > 0 && n.to <= list[k-1].to {
			old = append(old, n.name())
			continue
		}
		list = append(list, n)
	}
	return list, old, nil
}

// removeOld removes what is left over.
func (l *Log) removeOld(names []string) error {
	if l.o.ReadOnly || len(names) == 0 {
		return nil
	}
	// What replaces them may have got its name just before a crash, unsynced.
	if err := l.folder.Sync(); err != nil {
		return err
	}
	for _, name := range names {
		if err := l.folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// openSegment reads head and footer of a segment; nil if its head is damaged or cannot be
// read: it is left aside, and what is in it counts as lost.
func (l *Log) openSegment(n number) (*segment, error) {
	f, err := l.folder.Open(n.name())
	if err != nil {
		return nil, err
	}
	b := make([]byte, headSize)
	if _, err = f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) && !unreadable(err) {
		return nil, errors.Join(err, f.Close())
	}
	if unreadable(err) {
		l.damage = append(l.damage, Damage{n.name(), 0, -1, errUnreadable.Error()})
		return nil, f.Close()
	}
	h, err := decodeHead(b)
	if errors.Is(err, ErrVersion) {
		return nil, errors.Join(fmt.Errorf("segment %s: %w", n.name(), err), f.Close())
	}
	if err == nil && h.number != n {
		err = fmt.Errorf("%w: the head is that of segment %s", ErrDamaged, h.name())
	}
	if err != nil {
		l.damage = append(l.damage, Damage{n.name(), 0, -1, err.Error()})
		return nil, f.Close()
	}
	s := newSegment(h, f)
	if s.size, err = f.Size(); err == nil {
		if err = s.readFooter(); errors.Is(err, ErrDamaged) || unreadable(err) {
			err = nil // its frames are read instead
		}
	}
	s.file = nil
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.name, err)
	}
	return s, nil
}

// readSegments reads the frames of the segments that have no footer.
func (l *Log) readSegments() error {
	for i, s := range l.segments {
		if s.sealed {
			continue
		}
		var damage []Damage
		err := l.using(s, func() (err error) {
			damage, err = s.scan(func(Part, int64) error { return nil })
			return err
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", s.name, err)
		}
		// Behind the last frame that can be read is nothing to keep as it is.
		s.damaged = slices.ContainsFunc(damage, func(d Damage) bool { return d.Offset < s.end })
		// The next segment was made when all of this one was on disk.
		if i+1 < len(l.segments) {
			if next := l.segments[i+1]; next.first > s.last+1 && next.from == s.to+1 {
				damage = append(damage, Damage{s.name, s.end, -1, "frames before the next segment are missing"})
				s.damaged = true
			}
		}
		l.damage = append(l.damage, damage...)
	}
	return nil
}

// restore gives the owner the newest state and what came after it.
func (l *Log) restore() error {
	for i := len(l.segments) - 1; i >= 0; i-- {
		s := l.segments[i]
		if s.sealed && len(s.state) > 0 {
			if err := l.o.Restore(s.state); err != nil {
				return err
			}
			return l.replay(l.segments[i+1:])
		}
		found := false
		err := l.eachPart(s, func(p Part) error {
			if p.Kind == State && !found {
				found = true
				return l.o.Restore(p.Data)
			}
			if found {
				return l.o.Replay(p)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if found {
			return l.replay(l.segments[i+1:])
		}
	}
	return nil
}

// replay gives the owner what is in segments whose own state cannot be read.
func (l *Log) replay(segments []*segment) error {
	for _, s := range segments {
		err := l.eachPart(s, func(p Part) error {
			if p.Kind == State {
				return nil
			}
			return l.o.Replay(p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachPart calls fn for the parts of all good frames of a segment.
func (l *Log) eachPart(s *segment, fn func(Part) error) error {
	err := l.using(s, func() error {
		_, err := s.frames(func(_ frameInfo, payload []byte, _ int64) error { return parts(payload, fn) })
		return err
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", s.name, err)
	}
	return nil
}

// sealFound gives a segment that a crash has left without footer one, so that what is
// read now is on disk before anybody acts on it.
func (l *Log) sealFound(s *segment) error {
	if err := l.writeFooter(s, nil); err != nil {
		return fmt.Errorf("seal segment %s: %w", s.name, err)
	}
	return nil
}

// scan reads all frames of a segment without footer, and makes its index.
func (s *segment) scan(visit func(p Part, pos int64) error) ([]Damage, error) {
	s.extents, s.left, s.count, s.end, s.last = make(map[uint32]*extent), 0, 0, headSize, s.first-1
	return s.frames(func(i frameInfo, payload []byte, pos int64) error {
		s.last, s.end = i.seq, pos+i.space()
		return parts(payload, func(p Part) error {
			if p.Kind == Chunk {
				s.add(p, pos)
			}
			return visit(p, pos)
		})
	})
}

// frames calls fn for every good frame of the segment, in order: those up to the end
// that the footer tells, or without one those up to where the writer has stopped.
func (s *segment) frames(fn func(i frameInfo, payload []byte, pos int64) error) ([]Damage, error) {
	w := window{s: s, limit: s.size, highest: s.highest()}
	defer w.release()
	if s.sealed {
		w.limit = s.end
	}
	var damage []Damage
	expected := s.first
	for pos := int64(headSize); pos < w.limit; {
		i, payload, err := w.frame(pos)
		if err == nil && i.seq < expected {
			err = fmt.Errorf("%w: sequence of frame", ErrDamaged)
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return damage, err
		}
		if err != nil {
			next, torn, resyncErr := w.resync(pos+align, expected, s.sealed)
			if resyncErr != nil {
				return damage, resyncErr
			}
			if torn {
				if page, ok := w.hole(pos, w.limit); ok { // what a crash has torn, or the last frames
					damage = append(damage, Damage{s.name, max(page, pos), -1, errUnreadable.Error()})
				}
				break
			}
			d := Damage{s.name, pos, next - pos, err.Error()}
			if next < 0 {
				d.Length = w.limit - pos
			}
			damage = append(damage, d)
			if next < 0 {
				break
			}
			pos = next
			continue
		}
		if i.seq > expected && !s.replaces && len(damage) == 0 {
			damage = append(damage, Damage{s.name, pos, 0, fmt.Sprintf("frames %d to %d are missing", expected, i.seq-1)})
		}
		if err := fn(i, payload, pos); err != nil {
			return damage, err
		}
		expected = i.seq + 1
		pos += i.space()
	}
	return damage, nil
}
