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

// commitLoop writes the log, in turns with callers of Commit. It ends when the queue is
// closed and nothing waits any more.
func (q *Queue) commitLoop() {
	defer close(q.done)
	late := time.NewTimer(settleDelay)
	defer late.Stop()
	for {
		select {
		case <-q.wake:
		case <-q.settled:
			late.Reset(settleDelay)
			continue
		case <-late.C:
			q.settleLate()
			continue
		}
		for again := true; again; {
			var ended bool
			if again, ended = q.commitNext(); ended {
				return
			}
		}
	}
}

// commitNext does what waits for the committer, up to one group. again: there was
// something, so there may be more.
func (q *Queue) commitNext() (again, ended bool) {
	q.turn.Lock()
	defer q.turn.Unlock()
	q.mu.Lock()
	calls, waits, closed := q.calls, len(q.waiting) > 0, q.closed
	q.calls = nil
	q.ended = closed && !waits && len(calls) == 0
	ended = q.ended
	q.mu.Unlock()
	if ended {
		q.committer.settle()
		return false, true
	}
	for _, fn := range calls {
		fn()
	}
	if waits {
		nudge(q.committer.commitGroup())
	}
	return waits || len(calls) > 0, false
}

// settleLate writes the settlements that have waited long enough.
func (q *Queue) settleLate() {
	q.turn.Lock()
	defer q.turn.Unlock()
	q.reminded.Store(false)
	q.committer.settle()
}

// Commit has what AppendLater was given stored. With a function it may do so in the
// goroutine of the caller, which spares two changes of goroutines: it then returns when
// that is on disk, done was called, and readers were told; the function is called in the
// end, without a lock, and may block. It does so if nobody else is writing and there is
// not enough traffic for groups. Else, and without a function, it returns at once.
func (q *Queue) Commit(stored func()) {
	if stored == nil || !q.turn.TryLock() {
		q.nudge()
		return
	}
	q.mu.Lock()
	waits := len(q.waiting) > 0
	q.mu.Unlock()
	if !waits || q.committer.several {
		q.turn.Unlock()
		if waits { // else others have stored it
			q.nudge()
		}
		return
	}
	ready := q.commitHere()
	q.turn.Unlock()
	q.mu.Lock()
	more := len(q.waiting) > 0
	q.mu.Unlock()
	if more {
		q.nudge()
	}
	nudge(ready)
	stored()
}

// commitHere commits a group in a goroutine of others, who may survive a panic. The
// queue must not: it ends the program, as in the committer's.
func (q *Queue) commitHere() []*endpoint {
	defer func() {
		if p := recover(); p != nil {
			go func() { panic(p) }()
			select {}
		}
	}()
	return q.committer.commitGroup()
}

func nudge(list []*endpoint) {
	for _, e := range list {
		e.nudge()
	}
}

// committer is what is kept from one frame to the next by whoever has Queue.turn.
type committer struct {
	q        *Queue
	frame    seglog.Frame
	reported bool      // the failure of the log
	several  bool      // the last group had more than one message
	ample    time.Time // when there was space enough
}

// commitGroup stores a first part of what waits, and returns whom to tell.
func (c *committer) commitGroup() []*endpoint {
	if c.several {
		// Those whom the last group has released are about to come back: one sync for
		// all of them is worth more than the moment that it takes to let them.
		runtime.Gosched()
	}
	g := &group{q: c.q}
	g.take()
	c.several = len(g.taken) > 1
	if c.low() {
		c.settle()
		return g.done(seglog.ErrFull)
	}
	return g.done(c.commit(g))
}

// ampleFor is how long enough space on the disk is taken for granted.
const ampleFor = 10 * time.Millisecond

// low tells whether the disk has too little space left for new messages.
func (c *committer) low() bool {
	if c.q.o.MinFree < 0 || time.Since(c.ample) < ampleFor {
		return false
	}
	free, ok := c.q.log.Free()
	if ok && free < c.q.o.MinFree {
		return true
	}
	c.ample = time.Now()
	return false
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
	c.q.fillSettled(&c.frame)
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
