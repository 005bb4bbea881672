package queue

import (
	"encoding/binary"
	"slices"
)

// finished is the set of offsets of a queue that need no delivery any more: all
// below head, the checkpoint, and some spans above. The spans are sorted, apart
// from each other and from head; there are at most as many as unfinished messages
// in the hands of readers.
type finished struct {
	head  uint64
	spans []span
}

// span is the offsets from lo up to but not including hi.
type span struct{ lo, hi uint64 }

// has tells whether the offset is in the set.
func (f *finished) has(offset uint64) bool {
	if offset < f.head {
		return true
	}
	i := f.find(offset)
	return i < len(f.spans) && f.spans[i].lo <= offset
}

// find returns the index of the first span that ends above the offset.
func (f *finished) find(offset uint64) int {
	i, _ := slices.BinarySearchFunc(f.spans, offset, func(s span, o uint64) int {
		if s.hi <= o {
			return -1
		}
		return 1
	})
	return i
}

// add puts one offset into the set and tells whether it is new.
func (f *finished) add(offset uint64) bool {
	if offset == f.head {
		f.head++
		if len(f.spans) > 0 && f.spans[0].lo == f.head {
			f.head = f.spans[0].hi
			f.spans = slices.Delete(f.spans, 0, 1)
		}
		return true
	}
	if f.has(offset) {
		return false
	}
	i := f.find(offset) // the span after the offset
	before := i > 0 && f.spans[i-1].hi == offset
	after := i < len(f.spans) && f.spans[i].lo == offset+1
	switch {
	case before && after:
		f.spans[i-1].hi = f.spans[i].hi
		f.spans = slices.Delete(f.spans, i, i+1)
	case before:
		f.spans[i-1].hi++
	case after:
		f.spans[i].lo--
	default:
		f.spans = slices.Insert(f.spans, i, span{offset, offset + 1})
	}
	return true
}

// addRange puts the offsets from lo up to but not including hi into the set.
func (f *finished) addRange(lo, hi uint64) {
	if lo = max(lo, f.head); lo >= hi {
		return
	}
	i, _ := slices.BinarySearchFunc(f.spans, lo, func(s span, o uint64) int {
		if s.hi < o {
			return -1
		}
		return 1
	})
	n := i
	for ; n < len(f.spans) && f.spans[n].lo <= hi; n++ {
		lo, hi = min(lo, f.spans[n].lo), max(hi, f.spans[n].hi)
	}
	if lo > f.head {
		f.spans = slices.Replace(f.spans, i, n, span{lo, hi})
		return
	}
	f.head = hi
	f.spans = slices.Delete(f.spans, 0, n)
}

// bound is the lowest offset that neither is in the set nor has one above it that is.
func (f *finished) bound() uint64 {
	if n := len(f.spans); n > 0 {
		return f.spans[n-1].hi
	}
	return f.head
}

// count is how many offsets are in the set.
func (f *finished) count() uint64 {
	n := f.head
	for _, s := range f.spans {
		n += s.hi - s.lo
	}
	return n
}

// The form on disk: head, number of spans, then each span as distance from the end of
// the one before and length.
func (f *finished) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, f.head)
	b = binary.AppendUvarint(b, uint64(len(f.spans)))
	last := f.head
	for _, s := range f.spans {
		b = binary.AppendUvarint(b, s.lo-last)
		b = binary.AppendUvarint(b, s.hi-s.lo)
		last = s.hi
	}
	return b
}

// readFinished reads a set from the front of r.
func readFinished(r *reader) (f finished) {
	f.head = r.uvarint()
	n := r.uvarint()
	if n > uint64(len(r.b))/2 {
		r.fail("too many spans")
		n = 0
	}
	last := f.head
	for range n {
		gap, length := r.uvarint(), r.uvarint()
		lo := last + gap
		if gap == 0 || length == 0 || lo < last || lo+length < lo {
			r.fail("wrong span")
		}
		if r.err != nil {
			break
		}
		last = lo + length
		f.spans = append(f.spans, span{lo, last})
	}
	return f
}
