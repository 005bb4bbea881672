package queue

import (
	"sync"
	"time"
)

// jump is the least by which the system's clock is set that counts. What is less is
// left to the clock.
const jump = time.Minute

// earliest is a time before which no clock is right: the program did not exist.
var earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// clock is the time by which messages age, in milliseconds. It goes as the system's
// clock does, and goes on evenly when that one is set: on a device without a battery
// for its clock that is from 1970, or from when it was switched off, to the present, at
// every start. Messages are stored with the time of this clock.
//
// How far it is ahead of the system's is kept with the state of the queues.
type clock struct {
	now    func() time.Time
	uptime func() time.Duration // nil: nobody sets the system's clock
	jumped func(by time.Duration)

	mu      sync.Mutex
	ahead   int64 // guarded by mu: of the system's clock
	changes int   // guarded by mu: of ahead
	wall    int64 // guarded by mu: the system's clock at the last look
	up      time.Duration
}

// start takes the first look.
func (c *clock) start() {
	c.wall = c.now().UnixMilli()
	if c.uptime != nil {
		c.up = c.uptime()
	}
}

// lookLocked finds out whether the system's clock was set since the last look, and
// returns by how much.
func (c *clock) lookLocked() (by int64) {
	wall := c.now().UnixMilli()
	if c.uptime != nil {
		up := c.uptime()
		by = wall - c.wall - (up - c.up).Milliseconds()
		c.up = up
	}
	c.wall = wall
	if -jump.Milliseconds() < by && by < jump.Milliseconds() {
		return 0
	}
	c.ahead -= by
	c.changes++
	return by
}

// time is the time now.
func (c *clock) time() int64 { return c.at(time.Time{}) }

// at is the time at a time of the system's clock that has just been; zero: now.
func (c *clock) at(t time.Time) int64 {
	c.mu.Lock()
	by := c.lookLocked()
	now := c.wall + c.ahead
	if !t.IsZero() {
		now = t.UnixMilli() + c.ahead
	}
	c.mu.Unlock()
	if by != 0 {
		c.jumped(time.Duration(by) * time.Millisecond)
	}
	return now
}

// system is what the system's clock would have shown, were it as it is now, at a time.
func (c *clock) system(t int64) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(t - c.ahead)
}

// state is the time of the last look, how far the clock is ahead, and how often that
// has changed.
func (c *clock) state() (last, ahead int64, changes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall + c.ahead, c.ahead, c.changes
}

// resumed is what an earlier run has left.
type resumed struct{ last, ahead int64 }

// resume goes on from what an earlier run has left. The time between counts, unless
// the system's clock was set meanwhile: it is behind, or was never right before. Then
// nobody knows how long that was, and it does not count; resume returns true.
func (c *clock) resume(r resumed) (set bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := r.last - r.ahead // by the system's clock
	if c.wall < before-jump.Milliseconds() || before < earliest && c.wall >= earliest {
		c.changes++
		c.ahead = r.last - c.wall
		return true
	}
	c.ahead = r.ahead
	return false
}
