package dispatch

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// item is a message in the hands of a pump.
type item struct {
	e       *queue.Entry
	lane    *lane
	attempt int // deliveries that were started
	flying  bool
	sent    time.Time
	wakes   int // of the mailbox, when it was sent
}

// lane is the messages that must keep order among each other.
//
//	open     messages are sent as they come
//	draining one has failed; the others in flight must come to their end
//	waiting  until the time of the next try
//	probing  the first is sent again, alone
type lane struct {
	level   *level
	sender  iothub.Identity
	state   laneState
	flight  int
	held    []*item // failed, and what came after it; in order
	failed  int     // tries since the last success
	backoff bool    // the failure asks for a delay
	until   time.Time
}

type laneState uint8

const (
	open laneState = iota
	draining
	waiting
	probing
)

// hold puts an item where its offset belongs.
func (l *lane) hold(it *item) {
	i, _ := slices.BinarySearchFunc(l.held, it, func(a, b *item) int {
		return cmp.Compare(a.e.Offset, b.e.Offset)
	})
	l.held = slices.Insert(l.held, i, it)
}

// next tells whether the lane may send one of its held items now.
func (l *lane) next() bool {
	switch l.state {
	case open:
		return len(l.held) > 0
	case probing:
		return len(l.held) > 0 && l.flight == 0
	}
	return false
}

// fail records a failure; delay asks for a wait before the next try.
func (l *lane) fail(delay bool) {
	l.state = draining
	l.backoff = l.backoff || delay
}

// settle moves a draining lane on when nothing is in flight any more.
func (l *lane) settle(now time.Time) {
	if l.state != draining || l.flight > 0 {
		return
	}
	l.state = waiting
	l.until = now
	if l.backoff {
		l.failed++
		l.until = now.Add(retryDelay(l.failed))
		l.backoff = false
	}
}

// ripen ends the wait when it is over.
func (l *lane) ripen(now time.Time) {
	if l.state == waiting && !now.Before(l.until) {
		l.state = probing
	}
}

// succeed opens a lane that was probing.
func (l *lane) succeed() {
	if l.state == probing || l.state == open {
		l.state, l.failed = open, 0
	}
}

// idle tells whether the lane may be forgotten.
func (l *lane) idle() bool { return l.flight == 0 && len(l.held) == 0 }

// level is what a pump holds of one priority.
type level struct {
	priority uint32
	fresh    []*item // read and not looked at yet, in order
	lanes    map[iothub.Identity]*lane
	count    int // held in memory: fresh, held, in flight
	bytes    int
}

func (v *level) lane(sender iothub.Identity) *lane {
	l := v.lanes[sender]
	if l == nil {
		l = &lane{level: v, sender: sender}
		v.lanes[sender] = l
	}
	return l
}

const maxDelay = time.Minute

// retryDelay is the wait after the n-th failure in a row (spec edgehub-routing 6.5).
func retryDelay(n int) time.Duration {
	if n > 10 {
		return maxDelay
	}
	ms := 1000 + (math.Pow(2, float64(n))-1)*(0.8+0.4*rand.Float64())*1000
	return min(time.Duration(ms)*time.Millisecond, maxDelay)
}
