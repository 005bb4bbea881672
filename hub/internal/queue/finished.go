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

// count is how many offsets are in the set.
func (f *finished) count() uint64 {
	n := f.head
	for _, s := range f.spans {
		n += s.hi - s.lo
	}
	return n
}

// The form on disk: version 1, bytes given back, head, then each span as distance
// from the end of the one before and length.
const checkpointVersion = 1

func (f *finished) appendTo(b []byte, deleted uint64) []byte {
	b = append(b, checkpointVersion)
	b = binary.AppendUvarint(b, deleted)
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

func decodeFinished(b []byte) (f finished, deleted uint64, err error) {
	r := reader{b: b}
	if v := r.byte(); r.err == nil && v != checkpointVersion {
		r.fail("checkpoint version")
	}
	deleted = r.uvarint()
	f.head = r.uvarint()
	n := r.uvarint()
	if n > uint64(len(r.b))/2 {
		r.fail("too many spans")
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
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	if r.err != nil {
		return finished{}, 0, r.err
	}
	return f, deleted, nil
}
