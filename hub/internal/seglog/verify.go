package seglog

import (
	"errors"
	"fmt"
	"slices"
)

// Verify reads everything: each frame, each footer and each index, and compares them.
// visit is called for each chunk, in order of segments, with the bodies of its frame;
// both are valid during the call only. Write must not run meanwhile. It holds one file
// open at a time; what is deleted meanwhile is left out, what is written anew is read.
func (l *Log) Verify(visit func(segment string, chunk Part, bodies Bodies)) ([]Damage, error) {
	var all []Damage
	l.mu.Lock()
	for _, d := range l.damage {
		if !slices.ContainsFunc(l.segments, func(s *segment) bool { return s.name == d.Segment }) {
			all = append(all, d) // could not even be opened
		}
	}
	l.mu.Unlock()
	for after := uint64(0); ; {
		s, err := l.acquireNext(after)
		if s == nil || err != nil {
			return all, err
		}
		damage, err := s.verify(visit)
		after = s.to
		l.release(s)
		if err != nil {
			return all, fmt.Errorf("verify %s: %w", s.name, err)
		}
		all = append(all, damage...)
	}
}

// acquireNext opens the segment that follows a number; nil if there is none.
func (l *Log) acquireNext(after uint64) (*segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if s.to > after {
			return s, l.acquireLocked(s)
		}
	}
	return nil, nil
}

func (s *segment) verify(visit func(string, Part, Bodies)) ([]Damage, error) {
	again := newSegment(s.head, s.file)
	again.size, again.sealed = s.size, s.sealed
	again.end, again.last = s.end, s.last
	bodies := make(Bodies)
	last := uint64(0)
	damage, err := again.frames(func(i frameInfo, payload []byte, pos int64) error {
		last = i.seq
		clear(bodies)
		return parts(payload, func(p Part) error {
			switch p.Kind {
			case Body:
				bodies[p.Number] = p.Data
			case Chunk:
				again.add(p, pos)
				visit(s.name, p, bodies)
			case State, Meta:
			}
			return nil
		})
	})
	if err != nil || len(damage) > 0 || !s.sealed {
		return damage, err
	}
	wrong := func(format string, a ...any) {
		damage = append(damage, Damage{s.name, s.end, -1, "footer: " + fmt.Sprintf(format, a...)})
	}
	if last != s.last && !s.replaces {
		wrong("the last frame is %d, not %d", last, s.last)
	}
	for stream, x := range again.extents {
		if y := s.extents[stream]; y == nil {
			if !s.replaces { // of a stream that was dropped meanwhile
				wrong("stream %d is missing", stream)
			}
		} else if err := x.same(y); err != nil {
			wrong("stream %d: %v", stream, err)
		}
	}
	for stream := range s.extents {
		if again.extents[stream] == nil {
			wrong("stream %d is not there", stream)
		}
	}
	return damage, nil
}

// same compares what was read with what the footer says.
func (x *extent) same(footer *extent) error {
	if !slices.Equal(x.runs, footer.runs) || x.cost != footer.cost || x.own != footer.own ||
		x.shared != footer.shared || x.divided != footer.divided {
		return errors.New("offsets or size differ")
	}
	entries := footer.entries
	if entries == nil {
		var err error
		if entries, err = footer.readEntries(); err != nil {
			return err
		}
	}
	if !slices.Equal(x.entries, entries) {
		return errors.New("the index differs")
	}
	return nil
}
