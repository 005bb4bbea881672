package amqp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

const (
	propEpoch = "com.microsoft:epoch"

	// Bounds of what a reader has on the way: it reads on when half of the bytes have
	// left.
	maxReaderBytes  = 1 << 20
	maxReaderEvents = 1024
	// maxReaderRead is how many events are read at once.
	maxReaderRead = 256
)

// eventReader is a link on which a client reads a partition. A goroutine of its own
// reads as the client gives credit and takes what was sent, so a slow one has few
// events in memory and holds back nobody. Events are sent settled unless the client
// wants otherwise, since reading consumes nothing; then the client's outcomes only
// make room.
type eventReader struct {
	c      *conn
	key    groupPartition
	path   string // in lower case, as grants have it
	start  head.EventStart
	source *wire.Source // of the answer; nil echoes that of the client
	epoch  wire.Opt[int64]

	ctx    context.Context // ends with the link
	cancel context.CancelFunc
	wake   chan struct{} // has a token when there is credit or room
	drain  atomic.Bool   // the client wants to know when there is no more

	mu     sync.Mutex
	sender *amqp.Sender // nil until accepted
	ended  *wire.Error  // why the link must end, before there is one
	bytes  int          // on the way
	events int          // likewise
}

var _ amqp.SenderHandler = (*eventReader)(nil)

func newEventReader(c *conn) *eventReader {
	r := &eventReader{c: c, wake: make(chan struct{}, 1), start: fromBeginning}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	return r
}

// configure reads what the client wants.
func (r *eventReader) configure(a *wire.Attach) *wire.Error {
	text, accepted, refusal := selector(a.Source)
	if refusal != nil {
		return refusal
	}
	if text != "" {
		var ok bool
		if r.start, ok = parseSelector(text); !ok {
			return wire.Errorf(condArgument, "the selector is not understood")
		}
	}
	if len(accepted) < len(a.Source.Filter) {
		source := *a.Source
		source.Filter = accepted
		r.source = &source
	}
	if v, ok := a.Properties.Get(propEpoch); ok && !v.IsNull() {
		n, ok := integer(v)
		if !ok || n < 0 {
			return wire.Errorf(condArgument, "the epoch is not a whole number")
		}
		r.epoch = wire.Some(n)
	}
	return nil
}

// integer reads a whole number of any width.
func integer(v wire.Value) (int64, bool) {
	if n, ok := v.Int64(); ok {
		return n, true
	}
	n, ok := v.Uint64()
	return int64(n), ok && n < 1<<63
}

// run serves the link until it ends.
func (r *eventReader) run(a *amqp.Attach) {
	defer r.forget()
	cursor, err := r.c.srv.opts.Events.ReadEvents(r.key.partition, r.start)
	var refusal *wire.Error
	switch {
	case errors.Is(err, head.ErrInvalid):
		refusal = wire.Errorf(condArgumentRange, "%v", err)
	case err != nil:
		r.c.log.Error("amqp events", "err", err)
		refusal = wireError(err)
	default:
		refusal = r.c.srv.epochs.enter(r)
	}
	if refusal != nil {
		a.Refuse(refusal)
		return
	}
	defer r.c.srv.epochs.leave(r)
	sender := a.AcceptSender(r, amqp.SenderOptions{Reply: amqp.Reply{Source: r.source}, MaxInFlight: maxReaderEvents, ManualDrain: true})
	if sender == nil {
		return // the connection is over
	}
	r.mu.Lock()
	r.sender = sender
	ended := r.ended
	r.mu.Unlock()
	if ended != nil {
		sender.Detach(ended)
	}
	for r.ctx.Err() == nil {
		r.step(sender, cursor)
	}
}

func (r *eventReader) forget() {
	r.cancel()
	r.c.mu.Lock()
	delete(r.c.readers, r)
	r.c.mu.Unlock()
}

// step sends what there is and may be sent, or waits for either.
func (r *eventReader) step(sender *amqp.Sender, cursor head.EventCursor) {
	limit, bytes := r.room()
	credit := int(sender.Credit())
	if credit == 0 && r.drain.CompareAndSwap(true, false) {
		sender.Drained()
	}
	if limit = min(limit, credit); limit == 0 {
		select {
		case <-r.wake:
		case <-r.ctx.Done():
		}
		return
	}
	list, err := cursor.Read(limit, bytes)
	if err != nil {
		r.c.log.Error("amqp events", "err", err)
		r.fail(sender, wireError(err))
		return
	}
	for i := range list {
		r.send(sender, &list[i])
	}
	if len(list) > 0 {
		return
	}
	if r.drain.CompareAndSwap(true, false) {
		sender.Drained()
		return
	}
	select {
	case <-cursor.More():
	case <-r.wake:
	case <-r.ctx.Done():
	}
}

// room returns how many events and bytes may be read.
func (r *eventReader) room() (limit, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes = maxReaderBytes - r.bytes; bytes < maxReaderBytes/2 {
		return 0, 0
	}
	return min(maxReaderEvents-r.events, maxReaderRead), bytes
}

func (r *eventReader) send(sender *amqp.Sender, e *head.Event) {
	payload := wire.AppendMessage(nil, encodeEvent(e))
	size := len(payload)
	r.onTheWay(1, size)
	err := sender.SendPayload(payload, amqp.SendOptions{Settled: true}, func(amqp.Outcome) {
		r.onTheWay(-1, -size)
		r.signal()
	})
	if err == nil {
		return
	}
	r.onTheWay(-1, -size)
	if errors.Is(err, amqp.ErrTooLarge) {
		r.fail(sender, wire.Errorf(wire.CondMessageSizeExceeded, "the next event has %d bytes", size))
		return
	}
	r.cancel() // the link has gone
}

func (r *eventReader) onTheWay(events, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events += events
	r.bytes += bytes
}

// fail ends the link.
func (r *eventReader) fail(sender *amqp.Sender, why *wire.Error) {
	sender.Detach(why)
	r.cancel()
}

// detach ends the link from outside.
func (r *eventReader) detach(why *wire.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sender == nil {
		r.ended = why
		return
	}
	r.sender.Detach(why)
}

func (r *eventReader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// OnCredit implements amqp.SenderHandler.
func (r *eventReader) OnCredit(_ *amqp.Sender, _ uint32, drain bool) {
	r.drain.Store(drain)
	r.signal()
}

// OnDetach implements amqp.SenderHandler. The reader makes room before the client
// hears that its link has ended, so that one that closes and attaches anew is not
// refused for its own former link.
func (r *eventReader) OnDetach(*wire.Error) {
	r.c.srv.epochs.leave(r)
	r.cancel()
}

// groupPartition is what readers share.
type groupPartition struct {
	group     string // in lower case
	partition int
}

// maxReaders is how many may read a partition for a group, as in an event hub.
const maxReaders = 5

// readers are those of a partition for a group: one with an epoch, or some without.
type readers struct {
	owner  *eventReader
	others map[*eventReader]struct{}
}

// epochs decides who may read where, over all connections.
type epochs struct {
	mu     sync.Mutex
	groups map[groupPartition]*readers
}

// enter lets a reader in, which must leave, or tells why not. One with an epoch ends
// all others, unless theirs is higher.
func (e *epochs) enter(r *eventReader) *wire.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.groups[r.key]
	if all == nil {
		all = &readers{others: make(map[*eventReader]struct{})}
		e.groups[r.key] = all
	}
	stolen := wire.Errorf(wire.CondStolen, "a reader of a higher epoch has the partition")
	switch {
	case all.owner != nil && (!r.epoch.Set || r.epoch.V < all.owner.epoch.V):
		return stolen
	case !r.epoch.Set && len(all.others) >= maxReaders:
		return wire.Errorf(wire.CondResourceLimitExceeded, "more than %d readers of the partition in one consumer group", maxReaders)
	case !r.epoch.Set:
		all.others[r] = struct{}{}
		return nil
	}
	if all.owner != nil {
		all.owner.detach(stolen)
	}
	for other := range all.others {
		other.detach(stolen)
	}
	clear(all.others)
	all.owner = r
	return nil
}

// leave may be called more than once.
func (e *epochs) leave(r *eventReader) {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.groups[r.key]
	if all == nil {
		return
	}
	delete(all.others, r)
	if all.owner == r {
		all.owner = nil
	}
	if all.owner == nil && len(all.others) == 0 {
		delete(e.groups, r.key)
	}
}
