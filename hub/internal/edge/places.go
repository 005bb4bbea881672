package edge

import (
	"slices"
	"sync"
)

// places are how many messages all inputs of a client may have under way together. An
// input that is the only busy one gets as many as its pump asks for; when all are
// taken, each that becomes free goes to the input that has waited longest.
//
// A quarter of all is kept for first messages: up to so many inputs can always have
// one under way, whatever the others have.
type places struct {
	mu     sync.Mutex
	limit  int // as it was last told
	inputs int // likewise
	taken  int
	more   int     // of taken: those that are not the first of their input
	queue  []*seat // of inputs that wait
}

// seat is what one input has of the places. The fields are guarded by places.mu.
type seat struct {
	nudge func() // tells the input that it has been given a place
	taken int
	given int // of taken: while it waited, and not fetched yet
	waits bool
}

// reserve takes up to n places for an input, which waits from then on if it gets
// fewer. limit and inputs are as of now.
func (p *places) reserve(s *seat, n, limit, inputs int) int {
	p.mu.Lock()
	p.limit, p.inputs = limit, inputs
	told := p.handOutLocked() // the limit may have grown
	got := s.given
	s.given = 0
	if k := max(0, min(n-got, p.freeLocked(s))); k > 0 {
		p.takeLocked(s, k)
		got += k
	}
	p.waitLocked(s, got < n)
	p.mu.Unlock()
	tell(told)
	return got
}

// leave gives back n places of an input that have not been used, and one that it was
// given while it waited; it waits no longer.
func (p *places) leave(s *seat, n int) {
	p.mu.Lock()
	p.waitLocked(s, false)
	p.freeUpLocked(s, n+s.given)
	s.given = 0
	told := p.handOutLocked()
	p.mu.Unlock()
	tell(told)
}

// done frees the place of a message that is no longer under way.
func (p *places) done(s *seat) {
	p.mu.Lock()
	p.freeUpLocked(s, 1)
	told := p.handOutLocked()
	p.mu.Unlock()
	tell(told)
}

// freeLocked is how many places an input may still take.
func (p *places) freeLocked(s *seat) int {
	free := max(0, p.limit-min(p.inputs, p.limit/4)-p.more)
	if s.taken == 0 {
		free++
	}
	return min(free, p.limit-p.taken)
}

func (p *places) takeLocked(s *seat, n int) {
	p.more += max(0, s.taken+n-1) - max(0, s.taken-1)
	s.taken += n
	p.taken += n
}

func (p *places) freeUpLocked(s *seat, n int) { p.takeLocked(s, -n) }

func (p *places) waitLocked(s *seat, waits bool) {
	if waits == s.waits {
		return
	}
	if s.waits = waits; waits {
		p.queue = append(p.queue, s)
	} else if i := slices.Index(p.queue, s); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	}
}

// handOutLocked gives what is free to those who wait, one place each, and returns whom
// to tell.
func (p *places) handOutLocked() []*seat {
	var told []*seat
	for i := 0; i < len(p.queue) && p.taken < p.limit; {
		s := p.queue[i]
		if p.freeLocked(s) <= 0 {
			i++
			continue
		}
		p.takeLocked(s, 1)
		s.given++
		p.waitLocked(s, false)
		told = append(told, s)
	}
	return told
}

func tell(list []*seat) {
	for _, s := range list {
		s.nudge()
	}
}
