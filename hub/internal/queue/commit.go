package queue

import (
	"errors"
	"runtime"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// settleDelay is how long a settlement waits for a frame of messages to ride with.
const settleDelay = 20 * time.Millisecond

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// call has the committer run a function between two frames. It does not run when the
// committer has ended.
func (q *Queue) call(fn func()) {
	q.mu.Lock()
	q.calls = append(q.calls, fn)
	q.mu.Unlock()
	q.nudge()
}

// commitLoop is the only writer of the log. It ends when the queue is closed and
// nothing waits any more.
func (q *Queue) commitLoop() {
	defer close(q.done)
	c := committer{q: q}
	late := time.NewTimer(settleDelay)
	defer late.Stop()
	for {
		select {
		case <-q.wake:
		case <-q.settled:
			late.Reset(settleDelay)
			continue
		case <-late.C:
			c.settle()
			continue
		}
		for {
			q.mu.Lock()
			calls, waits, closed := q.calls, len(q.waiting) > 0, q.closed
			q.calls = nil
			q.ended = closed && !waits && len(calls) == 0
			ended := q.ended
			q.mu.Unlock()
			if ended {
				c.settle()
				return
			}
			if !waits && len(calls) == 0 {
				break
			}
			for _, fn := range calls {
				fn()
			}
			if waits {
				c.commitGroup()
			}
		}
	}
}

// committer is what the committer's goroutine keeps between frames.
type committer struct {
	q        *Queue
	frame    seglog.Frame
	reported bool // the failure of the log
}

// commitGroup stores a first part of what waits.
func (c *committer) commitGroup() {
	// Those whom the last group has released are about to come back: one sync for all
	// of them is worth more than the moment that it takes to let them.
	runtime.Gosched()
	g := &group{q: c.q}
	g.take()
	if c.q.low() {
		c.settle()
		g.done(seglog.ErrFull)
		return
	}
	g.done(c.commit(g))
}

// low tells whether the disk has too little space left for new messages.
func (q *Queue) low() bool {
	if q.o.MinFree < 0 {
		return false
	}
	free, ok := q.log.Free()
	return ok && free < q.o.MinFree
}

// settle writes settlements that have found no frame of messages.
func (c *committer) settle() {
	for again := true; again; {
		c.frame.Reset()
		again = c.q.fillSettled(&c.frame)
		// What finds no room is in the state that the next segment begins with.
		if err := c.write(false); err != nil && !errors.Is(err, seglog.ErrFull) {
			return
		}
	}
}

// commit writes the messages of a group, and settlements with them.
func (c *committer) commit(g *group) error {
	c.frame.Reset()
	if c.q.fillSettled(&c.frame) {
		c.q.remind()
	}
	g.fill(&c.frame)
	return c.write(len(g.fifos) > 0)
}

func (c *committer) write(sync bool) error {
	err := c.q.log.Write(&c.frame, sync)
	if errors.Is(err, seglog.ErrFailed) && !c.reported {
		c.reported = true
		c.q.o.Logger.Error("storage has failed; nothing more is acknowledged", "error", err)
	}
	return err
}
