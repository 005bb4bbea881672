package queue

import (
	"slices"
	"time"
)

// live is the messages of a queue that may pass its backlog: those that came while
// the reader was behind, as many as have room in memory. When the backlog reaches
// their chunks, what has not passed is read in its turn. Guarded by Queue.mu.
type live struct {
	entries []*Entry
	bytes   int
	taken   finished          // offsets that have passed
	chunks  map[uint64]*chunk // by last offset: of entries and of what has passed
	odd     bool              // whose turn it is when the share is uneven
}

// add takes in chunks that were stored. When there are too many, the oldest wait
// with the backlog.
func (v *live) add(generation int, chunks []*chunk) {
	if v.chunks == nil {
		v.chunks = make(map[uint64]*chunk)
	}
	for _, c := range chunks {
		v.chunks[c.last] = c
		for _, e := range c.entries {
			e.generation = generation
			v.bytes += e.Size
		}
		v.entries = append(v.entries, c.entries...)
		c.entries = nil
	}
	for len(v.entries) > aheadCount || v.bytes > aheadBytes {
		v.drop(v.entries[0].c)
	}
}

// drop leaves what is left of a chunk to the backlog.
func (v *live) drop(c *chunk) {
	v.entries = slices.DeleteFunc(v.entries, func(e *Entry) bool {
		if e.c != c {
			return false
		}
		v.bytes -= e.Size
		return true
	})
	if !c.passed {
		delete(v.chunks, c.last)
	}
}

// take hands out the share of the live messages: half of what may still be read.
func (v *live) take(out, expired []*Entry, now time.Time, count, size int) ([]*Entry, []*Entry, int) {
	if len(v.entries) == 0 || count <= len(out) || size <= 0 {
		return out, expired, size
	}
	share := (count - len(out)) / 2
	if (count-len(out))%2 == 1 {
		if v.odd = !v.odd; v.odd {
			share++
		}
	}
	n := 0
	for ; n < len(v.entries) && share > 0 && size > 0; n++ {
		e := v.entries[n]
		v.bytes -= e.Size
		v.taken.add(e.Offset)
		e.c.passed = true
		if e.Expired(now) {
			expired = append(expired, e)
			continue
		}
		out = append(out, e)
		size -= e.Size
		share--
	}
	clear(v.entries[:n])
	v.entries = v.entries[n:]
	return out, expired, size
}

// meet tells that the backlog has reached a chunk, and returns it if messages of it
// have passed or might have.
func (v *live) meet(last uint64) *chunk {
	c := v.chunks[last]
	if c != nil {
		v.drop(c)
		delete(v.chunks, last)
	}
	return c
}
