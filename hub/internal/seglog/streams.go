package seglog

import (
	"cmp"
	"slices"
)

// Extent is offsets of a stream that are on disk in one piece.
type Extent struct{ First, Next uint64 }

// Streams returns which offsets of which streams are on disk, in order, and what they
// cost, for the owner to compare with what it knows.
func (l *Log) Streams() (extents map[uint32][]Extent, cost map[uint32]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	extents, cost = make(map[uint32][]Extent), make(map[uint32]int64)
	for stream, list := range l.streams {
		for _, x := range list {
			cost[stream] += x.cost
			for _, r := range x.runs {
				all := extents[stream]
				if n := len(all); n > 0 && all[n-1].Next == r.lo {
					all[n-1].Next = r.hi
				} else {
					extents[stream] = append(all, Extent{r.lo, r.hi})
				}
			}
		}
	}
	return extents, cost
}

// Finish tells that messages from lo up to but not including hi need not be kept any
// more. Each may be told once.
func (l *Log) Finish(stream uint32, lo, hi uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.streams[stream]
	i, _ := slices.BinarySearchFunc(list, lo, func(x *extent, o uint64) int {
		if x.next() <= o {
			return -1
		}
		return 1
	})
	for ; i < len(list) && list[i].first() < hi; i++ {
		x := list[i]
		x.finish(lo, hi)
		l.wasteLocked(x.seg)
	}
}

// Drop tells that a stream is no longer needed.
func (l *Log) Drop(stream uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.streams[stream] {
		x.seg.left -= x.left
		x.left = 0
		l.wasteLocked(x.seg)
	}
	delete(l.streams, stream)
}

// attachLocked makes the extents of a segment known.
func (l *Log) attachLocked(s *segment) {
	for stream, x := range s.extents {
		list := l.streams[stream]
		i, _ := slices.BinarySearchFunc(list, x.first(), func(x *extent, o uint64) int { return cmp.Compare(x.first(), o) })
		l.streams[stream] = slices.Insert(list, i, x)
	}
}

func (l *Log) detachLocked(s *segment) {
	for stream := range s.extents {
		list := slices.DeleteFunc(l.streams[stream], func(x *extent) bool { return x.seg == s })
		if len(list) == 0 {
			delete(l.streams, stream)
		} else {
			l.streams[stream] = list
		}
	}
}

// Usage is what the log takes on disk.
type Usage struct {
	Segments int
	Bytes    int64
}

// Usage returns what the log takes on disk now.
func (l *Log) Usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{Segments: len(l.segments)}
	for _, s := range l.segments {
		u.Bytes += s.size
	}
	return u
}
