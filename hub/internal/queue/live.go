package queue

// live is the messages of a queue that may pass its backlog: those that came while
// the reader was behind, as many as have room in memory. When the backlog reaches
// their chunks, what has not passed is read in its turn. Guarded by Queue.mu.
type live struct {
	entries []*Entry
	bytes   int
	taken   map[uint64]struct{} // offsets that have passed and are not settled
	chunks  map[uint64]*chunk   // by last offset: of entries, and of what has passed and is not all settled
	passed  int                 // how many of chunks have passed
	paused  bool                // until the backlog has reached some of what has passed
	odd     bool                // whose turn it is when the share is uneven
}

// maxPassed bounds what must be remembered of the messages that have passed: spans of
// them that are finished, which the state of the queue on disk has too, and chunks of
// which some have passed. Each time when more comes than is sent, one of each is added.
const maxPassed = 512

// open tells whether new messages may pass. When too much is to be remembered they
// join the backlog, until it has come to where half of that is forgotten.
func (v *live) open(f *fifo, most int) bool {
	// Spans below come from what the reader holds, which has bounds of its own.
	n := max(len(f.done.spans)-f.done.find(f.loaded), v.passed)
	switch {
	case n >= most:
		v.paused = true
	case n <= most/2:
		v.paused = false
	}
	return !v.paused
}

// add takes in chunks that were stored. When there are too many, the older half waits
// with the backlog: in one piece, since there is less to be remembered of few long runs
// that have passed than of many short ones.
func (v *live) add(generation int, chunks []*chunk) {
	if v.chunks == nil {
		v.chunks, v.taken = make(map[uint64]*chunk), make(map[uint64]struct{})
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
	if len(v.entries) > aheadCount || v.bytes > aheadBytes {
		for len(v.entries) > aheadCount/2 || v.bytes > aheadBytes/2 {
			v.dropFirst()
		}
	}
}

// dropFirst leaves what is left of the oldest chunk to the backlog.
func (v *live) dropFirst() {
	c := v.entries[0].c
	n := 0
	for ; n < len(v.entries) && v.entries[n].c == c; n++ {
		v.bytes -= v.entries[n].Size
	}
	clear(v.entries[:n])
	v.entries = v.entries[n:]
	if !c.passed {
		delete(v.chunks, c.last)
	}
}

// take hands out the share of the live messages: half of what may still be read.
func (v *live) take(out, expired []*Entry, now int64, count, size int) ([]*Entry, []*Entry, int) {
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
		v.taken[e.Offset] = struct{}{}
		if !e.c.passed {
			e.c.passed = true
			v.passed++
		}
		if now >= e.expires {
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
	if c == nil {
		return nil
	}
	for len(v.entries) > 0 && v.entries[0].c.last <= last {
		v.dropFirst()
	}
	v.forget(c)
	return c
}

// settled takes note of a chunk of which all is finished.
func (v *live) settled(c *chunk) {
	if v.chunks[c.last] == c {
		v.forget(c)
	}
}

// forget drops a chunk of which nothing is waiting here.
func (v *live) forget(c *chunk) {
	delete(v.chunks, c.last)
	if c.passed {
		v.passed--
	}
}
