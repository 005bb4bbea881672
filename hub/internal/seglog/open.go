package seglog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// recover finds the segments, and what has to be known to go on.
func (l *Log) recover() error {
	numbers, err := l.list()
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
			if err := l.sealFound(s); err != nil {
				return err
			}
		}
	}
	for _, s := range l.segments {
		l.release(s)
	}
	l.durable = l.seq
	return nil
}

// list returns the segments in order, without those that others have replaced, and
// removes what is left over.
func (l *Log) list() ([]number, error) {
	names, err := l.folder.Names()
	if err != nil {
		return nil, err
	}
	var all []number
	var old []string
	for _, name := range names {
		if n, ok := parseName(name); ok {
			all = append(all, n)
		} else if name == tmpName || name == compactTmp {
			old = append(old, name)
		}
	}
	// The widest first, so that those in it come after it.
	slices.SortFunc(all, func(a, b number) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) })
	var list []number
	for _, n := range all {
		if k := len(list); k > 0 && n.to <= list[k-1].to {
			old = append(old, n.name())
			continue
		}
		list = append(list, n)
	}
	if l.o.ReadOnly {
		return list, nil
	}
	if len(old) > 0 {
		// What replaces them may have got its name just before a crash, unsynced.
		if err := l.folder.Sync(); err != nil {
			return nil, err
		}
	}
	for _, name := range old {
		if err := l.folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return list, nil
}

// openSegment opens a segment; nil if its head is damaged: it is left aside, and what
// is in it counts as lost.
func (l *Log) openSegment(n number) (*segment, error) {
	f, err := l.folder.Open(n.name())
	if err != nil {
		return nil, err
	}
	b := make([]byte, headSize)
	if _, err = f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	h, err := decodeHead(b)
	if err == nil && h.number != n {
		err = fmt.Errorf("%w: the head is that of segment %s", ErrDamaged, h.name())
	}
	if err != nil {
		l.damage = append(l.damage, Damage{n.name(), 0, -1, err.Error()})
		return nil, f.Close()
	}
	s := newSegment(h, f)
	s.refs = 1
	if s.size, err = f.Size(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// readSegments reads the footers, and the frames where there is none.
func (l *Log) readSegments() error {
	for i, s := range l.segments {
		err := s.readFooter()
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("footer of %s: %w", s.name, err)
		}
		damage, err := s.scan(func(Part, int64) error { return nil })
		if err != nil {
			return fmt.Errorf("read %s: %w", s.name, err)
		}
		// The next segment was made when all of this one was on disk.
		if i+1 < len(l.segments) {
			if next := l.segments[i+1]; next.first > s.last+1 && next.from == s.to+1 {
				damage = append(damage, Damage{s.name, s.end, -1, "frames before the next segment are missing"})
			}
		}
		s.damaged = len(damage) > 0
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
		_, err := s.frames(func(_ frameInfo, payload []byte, _ int64) error {
			return parts(payload, func(p Part) error {
				if p.Kind == State && !found {
					found = true
					return l.o.Restore(p.Data)
				}
				if found {
					return l.o.Replay(p)
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", s.name, err)
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
		_, err := s.frames(func(_ frameInfo, payload []byte, _ int64) error {
			return parts(payload, func(p Part) error {
				if p.Kind == State {
					return nil
				}
				return l.o.Replay(p)
			})
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", s.name, err)
		}
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
			next, torn, resyncErr := w.resync(pos+align, expected)
			if resyncErr != nil {
				return damage, resyncErr
			}
			if !s.sealed && torn {
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
