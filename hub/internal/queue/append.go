package queue

import (
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Bounds of what one group commit takes of the messages that wait, and the largest
// form on disk of one message: together much less than seglog.MaxFrame.
const (
	groupCount = 2048
	groupBytes = 192 << 10
	maxRecord  = 288 << 10
)

// appended is one call of Append on its way to the disk.
type appended struct {
	m       *iothub.Message
	targets []Target
	record  []byte
	millis  int64 // time of enqueue, by the queues' clock
	done    func(error)
	err     error
}

// shared tells whether the message is stored once for several queues.
func (a *appended) shared() bool { return len(a.targets) > 1 }

// size is about what the message adds to a batch.
func (a *appended) size() int {
	if a.shared() {
		return len(a.record) + itemSpace*len(a.targets)
	}
	return (len(a.record) + itemSpace) * len(a.targets)
}

// Append stores a message for every target, two of which must not be the same
// queue. done is called exactly once: with nil when the message is on disk for all
// of them, else with the reason why it is for none: ErrFull, ErrTooLarge,
// seglog.ErrFull, seglog.ErrFailed, seglog.ErrClosed. Calls of done follow the order
// of Append; they must not block, nor call Append. Without targets nothing is
// stored, and done is called in its turn.
//
// Append blocks while Options.MaxPending messages wait for the disk. The message
// and its lists must not be changed any more; targets is copied.
func (q *Queue) Append(m *iothub.Message, targets []Target, done func(error)) {
	if q.append(m, targets, done) {
		q.nudge()
	}
}

// AppendLater is Append for a caller that calls Commit soon: before, the message is
// stored only if others are.
func (q *Queue) AppendLater(m *iothub.Message, targets []Target, done func(error)) {
	q.append(m, targets, done)
}

// append tells whether there is something to commit.
func (q *Queue) append(m *iothub.Message, targets []Target, done func(error)) bool {
	a := &appended{m: m, done: done, millis: q.clock.time()}
	if len(targets) > 0 {
		a.targets = append(make([]Target, 0, len(targets)), targets...)
		a.record = appendMessage(make([]byte, 0, messageSpace(m)), m)
		if len(a.record) > maxRecord {
			a.err, a.record = ErrTooLarge, nil
		}
	}
	q.mu.Lock()
	for !q.closed && (len(q.waiting) >= q.o.MaxPending || q.waitingBytes >= q.o.MaxPendingBytes) {
		q.nudge() // all of it may be that of AppendLater
		q.room.Wait()
	}
	if a.record != nil && !q.makeRoomLocked(len(a.record)) {
		a.err, a.record = ErrFull, nil
	}
	if q.ended || q.closed && len(q.waiting) == 0 {
		if a.err == nil && len(targets) > 0 {
			a.err = seglog.ErrClosed
		}
		q.mu.Unlock()
		done(a.err)
		return false
	}
	q.waiting = append(q.waiting, a)
	q.waitingBytes += len(a.record)
	q.mu.Unlock()
	return true
}

// group is the messages of one commit.
type group struct {
	q     *Queue
	taken []*appended
	fifos []*fifoGroup
	body  int // number of the next body
}

// fifoGroup is a group's part of one queue.
type fifoGroup struct {
	f      *fifo
	next   uint64 // offset after the last
	bytes  int64
	memory int // bytes of its messages
	chunks []*chunk

	items  []item // of the chunk being made
	first  uint64
	size   int
	shared int // bytes of bodies that it refers to
}

// take moves messages from waiting to the group.
func (g *group) take() {
	q := g.q
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size, bytes := 0, 0, 0
	for n < len(q.waiting) && n < groupCount && size < groupBytes {
		size += q.waiting[n].size()
		bytes += len(q.waiting[n].record)
		n++
	}
	if n == len(q.waiting) {
		g.taken, q.waiting = q.waiting, nil
	} else {
		g.taken = append(g.taken, q.waiting[:n]...)
		rest := copy(q.waiting, q.waiting[n:])
		clear(q.waiting[rest:])
		q.waiting = q.waiting[:rest]
	}
	q.waitingBytes -= bytes
	q.room.Broadcast()
}

// fill puts the messages into the frame: bodies that several queues share, then the
// chunks of each queue.
func (g *group) fill(frame *seglog.Frame) {
	g.q.fillClock(frame)
	for _, a := range g.taken {
		if a.err != nil || len(a.targets) == 0 {
			continue
		}
		if a.shared() {
			frame.Add(seglog.Part{Kind: seglog.Body, Number: g.body, Data: a.record})
			g.body++
		}
		for i := range a.targets {
			g.place(frame, a, &a.targets[i])
		}
	}
	for _, fg := range g.fifos {
		fg.finishChunk(frame)
	}
}

// place adds the message to the chunk of one target.
func (g *group) place(frame *seglog.Frame, a *appended, t *Target) {
	fg := g.fifo(frame, fifoName{t.Endpoint, t.Priority})
	it := item{enqueued: a.millis, ttl: t.TTL.Milliseconds(), message: a.record, size: len(a.record)}
	if t.TTL < 0 {
		it.ttl = -1
	}
	space := len(a.record)
	if a.shared() {
		it.shared, it.body = len(a.targets), g.body-1
		space = 0
	}
	if len(fg.items) == maxChunkCount || len(fg.items) > 0 && fg.size+space > maxChunkBytes {
		fg.finishChunk(frame)
	}
	if len(fg.items) == 0 {
		fg.first = fg.next
		fg.chunks = append(fg.chunks, &chunk{})
	}
	fg.items = append(fg.items, it)
	fg.size += space + itemSpace
	if a.shared() {
		fg.shared += len(a.record)
	}
	c := fg.chunk()
	e := &Entry{
		Message:  a.m,
		Priority: t.Priority,
		Offset:   fg.next,
		Enqueued: g.q.clock.system(it.enqueued),
		clock:    &g.q.clock,
		expires:  it.expires(),
		Size:     len(a.record),
		f:        fg.f,
		c:        c,
	}
	c.entries = append(c.entries, e)
	fg.memory += e.Size
	c.cost += it.cost()
	fg.next++
}

// chunk is the chunk being made.
func (fg *fifoGroup) chunk() *chunk { return fg.chunks[len(fg.chunks)-1] }

func (fg *fifoGroup) finishChunk(frame *seglog.Frame) {
	if len(fg.items) == 0 {
		return
	}
	base := fg.items[0].enqueued
	v := appendChunkHeader(make([]byte, 0, fg.size+32), base, len(fg.items))
	for i := range fg.items {
		v = appendItem(v, base, &fg.items[i])
	}
	c := fg.chunk()
	c.last = fg.next - 1
	c.left = len(fg.items)
	c.cost += len(v)
	fg.bytes += int64(c.cost)
	frame.Add(seglog.Part{
		Kind: seglog.Chunk, Stream: fg.f.id, First: fg.first, Count: len(fg.items),
		Cost: c.cost, Shared: fg.shared, Data: v,
	})
	fg.items, fg.size, fg.shared = fg.items[:0], 0, 0
}

// fifo returns the group's part of a queue, which it creates if need be.
func (g *group) fifo(frame *seglog.Frame, name fifoName) *fifoGroup {
	for _, fg := range g.fifos {
		if fg.f.name == name {
			return fg
		}
	}
	g.q.mu.Lock()
	defer g.q.mu.Unlock()
	f := g.q.fifos[name]
	if f == nil {
		f = &fifo{id: g.q.nextID, name: name}
		g.q.nextID++
		g.q.attach(f)
	}
	if !f.named {
		frame.Add(seglog.Part{Kind: seglog.Meta, Data: nameChange(f)})
	}
	fg := &fifoGroup{f: f, next: f.stored}
	g.fifos = append(g.fifos, fg)
	return fg
}

// done tells the result to the senders, and returns the endpoints that have something
// new. They are told later: a sender waits, and an endpoint has time.
func (g *group) done(err error) []*endpoint {
	q := g.q
	var ready []*endpoint
	if err == nil {
		ready = make([]*endpoint, 0, len(g.fifos))
		q.mu.Lock()
		for _, fg := range g.fifos {
			if e := q.storedLocked(fg); e != nil {
				ready = append(ready, e)
			}
		}
		q.mu.Unlock()
	}
	for _, a := range g.taken {
		if a.err == nil && len(a.targets) > 0 {
			a.err = err
		}
		a.done(a.err)
	}
	return ready
}

// storedLocked makes what a group has stored visible. A reader that has kept up
// gets it as it is, without a way over the disk. It returns the endpoint, nil if it is
// gone.
func (q *Queue) storedLocked(fg *fifoGroup) *endpoint {
	f := fg.f
	e := q.endpoints[f.name.endpoint]
	fits := e != nil && e.read && fg.memory <= q.roomLocked(f)
	keepsUp := fits && !f.loading && f.loaded == f.stored &&
		len(f.ahead) < aheadCount && f.aheadBytes < aheadBytes
	f.stored, f.named = fg.next, true
	f.bytes += fg.bytes
	q.bytes += fg.bytes
	if keepsUp {
		for _, c := range fg.chunks {
			for _, en := range c.entries {
				en.generation = f.generation
				f.aheadBytes += en.Size
			}
			f.ahead = append(f.ahead, c.entries...)
			c.entries = nil
		}
		f.loaded = f.stored
		q.holdLocked(f, fg.memory)
	} else if q.o.LiveFirst && fits && f.live.open(f, q.maxPassed) {
		before := f.live.bytes
		f.live.add(f.generation, fg.chunks)
		q.holdLocked(f, f.live.bytes-before)
	}
	return e
}
