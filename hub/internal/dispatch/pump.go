package dispatch

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// pump serves one endpoint. All fields but box and removed belong to the goroutine
// of run.
type pump struct {
	name string
	r    *queue.Reader
	o    *Options
	box  *mailbox
	stop context.CancelFunc

	stopped chan struct{} // closed when run has returned
	removed atomic.Bool   // the endpoint's messages will be deleted: no drain

	sink     Sink
	sharing  Sharing // the sink, or nil
	waits    bool    // sharing has given fewer places than the pump wanted
	bySender bool
	levels   []*level // by priority
	flight   int
	wakes    int // of the mailbox, as last seen

	closed  bool // the endpoint said it is not ready
	closes  int  // times in a row
	reopen  time.Time
	reads   int       // reads in a row that went wrong
	reread  time.Time // when to read again
	cleanup time.Time

	spare      []result
	finished   []*queue.Entry
	priorities []uint32
}

// poll is the longest time a pump sleeps (spec edgehub-routing 6.4).
const poll = 10 * time.Second

func newPump(name string, s Sink, r *queue.Reader, o *Options) *pump {
	p := &pump{name: name, r: r, o: o, box: newMailbox(), stopped: make(chan struct{})}
	p.use(s)
	return p
}

func (p *pump) use(s Sink) {
	p.stopWaiting()
	p.sink = s
	p.sharing, _ = s.(Sharing)
	_, p.bySender = s.(SenderOrdered)
}

func (p *pump) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.cleanup = time.Now().Add(p.o.Cleanup)
	for {
		select {
		case <-ctx.Done():
			p.drain()
			return
		case <-p.box.signal:
		case <-p.r.Ready():
		case <-timer.C:
		}
		now := time.Now()
		p.takeResults(now)
		p.pumpOut(now)
		timer.Reset(time.Until(p.nextWake(now)))
	}
}

// nextWake is when the pump must look again without being told.
func (p *pump) nextWake(now time.Time) time.Time {
	next := now.Add(poll)
	earlier := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	if p.closed {
		earlier(p.reopen)
	}
	earlier(p.reread)
	for _, v := range p.levels {
		for _, l := range v.lanes {
			if l.state == waiting {
				earlier(l.until)
			}
		}
	}
	return next
}

// takeResults works through what sinks have answered.
func (p *pump) takeResults(now time.Time) {
	results, sink, wakes := p.box.take(p.spare)
	if sink != nil {
		p.use(sink)
	}
	if wakes != p.wakes {
		p.wakes = wakes
		p.closed, p.closes = false, 0
	}
	for i := range results {
		r := &results[i]
		if !r.it.flying || r.attempt != r.it.attempt {
			p.o.Logger.Error("sink reported a delivery twice", "endpoint", p.name)
			continue
		}
		r.it.flying = false
		p.takeResult(r.it, r.err, now)
	}
	clear(results)
	p.spare = results
	p.flush()
}

func (p *pump) takeResult(it *item, err error, now time.Time) {
	l := it.lane
	p.flight--
	l.flight--
	switch {
	case err == nil:
		p.o.Hooks.Sent(it.e.Message, p.info(it), now.Sub(it.sent))
		p.finish(it)
		l.succeed()
		p.closes = 0
	case errors.Is(err, ErrPermanent):
		p.o.Logger.Warn("message dropped", "endpoint", p.name, "sender", it.e.Message.Sender().String(), "error", err)
		p.o.Hooks.Dropped(it.e.Message, p.info(it), "permanent")
		p.finish(it)
		l.succeed()
	default:
		p.o.Hooks.Retry(it.e.Message, p.info(it), err)
		notReady := errors.Is(err, ErrNotReady)
		l.fail(!notReady)
		l.hold(it)
		if notReady && it.wakes == p.wakes { // else it has become ready since
			p.close(now)
		} else if !notReady && l.failed == 0 && l.flight == 0 {
			p.o.Logger.Info("delivery failed, will be repeated", "endpoint", p.name, "sender", l.sender.String(), "error", err)
		}
	}
	l.settle(now)
	if l.idle() {
		delete(l.level.lanes, l.sender)
	}
}

// close stops sending until the endpoint wakes up, or for a while.
func (p *pump) close(now time.Time) {
	if p.closed {
		return
	}
	p.closed = true
	p.closes++
	p.reopen = now.Add(retryDelay(p.closes))
}

func (p *pump) info(it *item) Info {
	return Info{
		Endpoint: p.name,
		Priority: it.e.Priority,
		Offset:   it.e.Offset,
		Enqueued: it.e.Enqueued,
		Attempt:  it.attempt,
	}
}

// finish is the end of a message that is not in flight.
func (p *pump) finish(it *item) {
	it.lane.level.count--
	it.lane.level.bytes -= it.e.Size
	p.finished = append(p.finished, it.e)
}

// flush tells the queue what is finished.
func (p *pump) flush() {
	p.r.Settle(p.finished...)
	clear(p.finished)
	p.finished = p.finished[:0]
}

// pumpOut reads and sends as much as may be in flight, the most urgent first.
func (p *pump) pumpOut(now time.Time) {
	if !now.Before(p.cleanup) {
		p.cleanup = now.Add(p.o.Cleanup)
		p.dropExpired(now)
	}
	if p.closed && now.Before(p.reopen) {
		p.stopWaiting()
		return
	}
	p.closed = false
	for _, v := range p.levels {
		for _, l := range v.lanes {
			l.ripen(now)
		}
	}
	for p.round(now) {
	}
	p.flush()
}

// round sends once as much as may be in flight, and tells whether it makes sense to
// try more. It leaves no places reserved.
func (p *pump) round(now time.Time) bool {
	p.priorities = p.r.Priorities(p.priorities[:0])
	free := p.sink.Window() - p.flight
	if free <= 0 || len(p.priorities) == 0 && !p.holds() {
		p.stopWaiting() // those who have something to send shall have its places
		return false
	}
	if p.sharing != nil {
		n := p.sharing.Reserve(free)
		p.waits = n < free
		free = n
	}
	if free <= 0 {
		return false
	}
	p.read(now, free)
	left, more := p.send(now, free)
	if p.sharing != nil && left > 0 {
		p.sharing.GiveBack(left)
		p.waits = false
	}
	return more
}

// holds tells whether the pump has messages that are not in flight.
func (p *pump) holds() bool {
	for _, v := range p.levels {
		if len(v.fresh) > 0 {
			return true
		}
		for _, l := range v.lanes {
			if l.next() {
				return true
			}
		}
	}
	return false
}

// stopWaiting gives up the wait for places, and one that has come meanwhile.
func (p *pump) stopWaiting() {
	if p.waits {
		p.waits = false
		p.sharing.GiveBack(0)
	}
}

// read takes messages from the queues, as many as may be sent now; more of a level
// whose lanes hold others back.
func (p *pump) read(now time.Time, free int) {
	if now.Before(p.reread) {
		return
	}
	for _, priority := range p.priorities {
		v := p.level(priority)
		room, bytes := p.o.Held-v.count, p.o.HeldBytes-v.bytes
		if want := min(free-len(v.fresh), room); want > 0 && bytes > 0 {
			list, err := p.r.Read(priority, want, bytes)
			p.add(v, list)
			if err != nil {
				p.reads++
				p.reread = now.Add(retryDelay(p.reads))
				p.o.Logger.Error("read messages", "endpoint", p.name, "error", err)
				return
			}
			p.reads = 0
		}
		if len(v.fresh) >= free {
			return // nothing less urgent would be sent
		}
	}
}

func (p *pump) add(v *level, list []*queue.Entry) {
	if len(list) == 0 {
		return
	}
	items := make([]item, len(list))
	for i, e := range list {
		items[i].e = e
		v.fresh = append(v.fresh, &items[i])
		v.count++
		v.bytes += e.Size
	}
}

func (p *pump) level(priority uint32) *level {
	i, ok := slices.BinarySearchFunc(p.levels, priority, func(v *level, priority uint32) int {
		return cmp.Compare(v.priority, priority)
	})
	if !ok {
		v := &level{priority: priority, lanes: make(map[iothub.Identity]*lane)}
		p.levels = slices.Insert(p.levels, i, v)
	}
	return p.levels[i]
}

// send starts up to n deliveries. It returns how many of n are left, and whether it
// makes sense to try more.
func (p *pump) send(now time.Time, n int) (left int, more bool) {
	progress := false
	for _, v := range p.levels {
		for _, l := range v.lanes { // held ones are older than fresh ones
			for n > 0 && l.next() {
				it := l.held[0]
				l.held[0] = nil
				l.held = l.held[1:]
				if p.start(it, now) {
					n--
				}
				progress = true
				if p.closed {
					return n, false
				}
			}
			if l.idle() {
				delete(v.lanes, l.sender)
			}
		}
		i := 0
		for ; n > 0 && i < len(v.fresh) && !p.closed; i++ {
			it := v.fresh[i]
			v.fresh[i] = nil
			progress = true
			it.lane = v.lane(p.laneOf(it))
			if it.lane.state != open || len(it.lane.held) > 0 {
				it.lane.held = append(it.lane.held, it)
				continue
			}
			if p.start(it, now) {
				n--
			}
		}
		v.fresh = v.fresh[i:]
		if n == 0 || p.closed {
			return n, false
		}
	}
	return n, progress
}

func (p *pump) laneOf(it *item) iothub.Identity {
	if !p.bySender {
		return iothub.Identity{}
	}
	return it.e.Message.Sender()
}

// start starts a delivery; it returns false when the message has expired instead.
func (p *pump) start(it *item, now time.Time) bool {
	l := it.lane
	if it.e.Expired(now) {
		p.o.Hooks.Dropped(it.e.Message, p.info(it), "ttl_expiry")
		p.finish(it)
		if l.idle() {
			delete(l.level.lanes, l.sender)
		}
		return false
	}
	it.attempt++
	it.sent = now
	it.wakes = p.wakes
	info := p.info(it)
	info.First = l.flight == 0
	l.flight++
	p.flight++
	it.flying = true
	box, attempt := p.box, it.attempt
	p.sink.Deliver(it.e.Message, info, func(err error) { box.deliver(it, attempt, err) })
	return true
}

// dropExpired finishes what has expired at the front of the queues, and what has
// expired in the pump's hands.
func (p *pump) dropExpired(now time.Time) {
	for _, priority := range p.r.Priorities(nil) {
		if _, err := p.r.Read(priority, 0, 0); err != nil {
			p.o.Logger.Error("drop expired messages", "endpoint", p.name, "error", err)
		}
	}
	for _, v := range p.levels {
		expired := func(it *item) bool {
			if !it.e.Expired(now) {
				return false
			}
			p.o.Hooks.Dropped(it.e.Message, p.info(it), "ttl_expiry")
			v.count--
			v.bytes -= it.e.Size
			p.finished = append(p.finished, it.e)
			return true
		}
		v.fresh = slices.DeleteFunc(v.fresh, expired)
		for _, l := range v.lanes {
			l.held = slices.DeleteFunc(l.held, expired)
			if l.idle() {
				delete(v.lanes, l.sender)
			}
		}
	}
	p.flush()
}

// drain waits a while for what is in flight, so that it need not come again.
func (p *pump) drain() {
	p.stopWaiting()
	if p.removed.Load() {
		return
	}
	limit := time.NewTimer(p.o.Drain)
	defer limit.Stop()
	for {
		p.takeResults(time.Now())
		if p.flight == 0 {
			return
		}
		select {
		case <-p.box.signal:
		case <-limit.C:
			return
		}
	}
}
