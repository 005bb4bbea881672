package wire

import (
	"encoding/binary"
	"fmt"
)

// reader decodes from b. The first error sticks; after it every method
// returns zero values. When s is set it holds the same bytes as b, and strings
// are cut from it instead of being allocated one by one.
type reader struct {
	b        []byte
	s        string
	off      int
	depth    int
	elements int
	err      error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrDecode, fmt.Sprintf(format, args...))
	}
}

func (r *reader) left() int { return len(r.b) - r.off }

// take returns the next n bytes, which alias the input.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > r.left() {
		r.fail("%d bytes wanted, %d left", n, r.left())
		return nil
	}
	p := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return p
}

// text returns the next n bytes as a string.
func (r *reader) text(n int) string {
	if r.s == "" {
		return string(r.take(n))
	}
	start := r.off
	if r.take(n) == nil {
		return ""
	}
	return r.s[start : start+n]
}

func (r *reader) u8() byte {
	if r.err != nil || r.off >= len(r.b) {
		r.fail("input ends early")
		return 0
	}
	c := r.b[r.off]
	r.off++
	return c
}

func (r *reader) peek() byte {
	if r.err != nil || r.off >= len(r.b) {
		r.fail("input ends early")
		return 0
	}
	return r.b[r.off]
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// length reads a size of one or four bytes and checks it against the input.
func (r *reader) length(wide bool) int {
	n := 0
	if wide {
		n = int(int32(r.u32()))
	} else {
		n = int(r.u8())
	}
	if n < 0 || n > r.left() {
		r.fail("size %d, %d bytes left", uint32(n), r.left())
		return 0
	}
	return n
}

// enter counts one more level of nesting and leave one less.
func (r *reader) enter() bool {
	if r.depth++; r.depth > MaxDepth {
		r.fail("nested deeper than %d", MaxDepth)
	}
	return r.err == nil
}

func (r *reader) leave() { r.depth-- }

// compound reads size and count of a list, map or array and returns where it
// ends. minimal is the least number of bytes of an element.
func (r *reader) compound(wide bool, minimal int) (count, end int) {
	size := r.length(wide)
	end = r.off + size
	if wide {
		count = int(int32(r.u32()))
	} else {
		count = int(r.u8())
	}
	switch {
	case r.err != nil:
	case r.off > end:
		r.fail("size %d is less than the count takes", size)
	case count < 0 || count > MaxElements-r.elements:
		r.fail("more than %d elements", MaxElements)
	case count*minimal > end-r.off:
		r.fail("%d elements in %d bytes", count, end-r.off)
	default:
		r.elements += count
		return count, end
	}
	return 0, r.off
}

// closeCompound checks that a compound value has ended where it said.
func (r *reader) closeCompound(end int) {
	if r.err == nil && r.off != end {
		r.fail("compound value ends at %d instead of %d", r.off, end)
	}
}

// skip passes over one value without looking into it.
func (r *reader) skip() {
	c := r.u8()
	for n := 0; c == 0 && r.err == nil; n++ {
		if n == MaxDepth {
			r.fail("too many descriptors")
			return
		}
		r.skipBody(r.u8())
		c = r.u8()
	}
	r.skipBody(c)
}

func (r *reader) skipBody(c byte) {
	switch c >> 4 {
	case 4:
	case 5:
		r.take(1)
	case 6:
		r.take(2)
	case 7:
		r.take(4)
	case 8:
		r.take(8)
	case 9:
		r.take(16)
	case 0xa, 0xc, 0xe:
		r.take(r.length(false))
	case 0xb, 0xd, 0xf:
		r.take(r.length(true))
	default:
		r.fail("constructor 0x%02x", c)
	}
}
