package queue

import (
	"encoding/binary"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Bounds of what one group commit takes of the messages that wait, and the largest
// form on disk of one message: together less than store.MaxAtomic, so that a crash
// leaves all of a group or nothing.
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
	millis  int64 // time of enqueue
	done    func(error)
	err     error
}

// shared tells whether the message gets a body record of its own.
func (a *appended) shared() bool {
	n := len(a.targets)
	return n > 1 && (len(a.record) >= shareAbove || n*len(a.record) >= maxChunkBytes)
}

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
// store.ErrFull, store.ErrFailed, store.ErrClosed. Calls of done follow the order
// of Append; they must not block, nor call Append. Without targets nothing is
// stored, and done is called in its turn.
//
// Append blocks while Options.MaxPending messages wait for the disk. The message
// and its lists must not be changed any more; targets is copied.
func (q *Queue) Append(m *iothub.Message, targets []Target, done func(error)) {
	a := &appended{m: m, done: done, millis: q.o.Now().UnixMilli()}
	if len(targets) > 0 {
		a.targets = append(make([]Target, 0, len(targets)), targets...)
		a.record = appendMessage(make([]byte, 0, messageSpace(m)), m)
		if len(a.record) > maxRecord {
			a.err, a.record = ErrTooLarge, nil
		}
	}
	q.mu.Lock()
	for len(q.waiting) >= q.o.MaxPending || q.waitingBytes >= q.o.MaxPendingBytes {
		q.room.Wait()
	}
	if a.record != nil && !q.makeRoomLocked(len(a.record)) {
		a.err, a.record = ErrFull, nil
	}
	q.waiting = append(q.waiting, a)
	q.waitingBytes += len(a.record)
	submit := !q.ticket
	q.ticket = true
	q.mu.Unlock()
	if submit {
		q.commitWaiting()
	}
}

// commitWaiting has the committer store a first part of what waits by then. One
// such commit is under way while something waits: q.ticket.
func (q *Queue) commitWaiting() {
	g := &group{q: q}
	q.s.CommitLate(g.fill, g.done)
}

// group is the messages of one commit.
type group struct {
	q      *Queue
	taken  []*appended
	filled bool
	more   bool
	fifos  []*fifoGroup
}

// fifoGroup is a group's part of one queue.
type fifoGroup struct {
	f       *fifo
	created bool
	next    uint64 // offset after the last
	bytes   uint64
	chunks  []*chunk

	items []item // of the chunk being made
	size  int
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
	g.more = len(q.waiting) > 0
	q.ticket = g.more
	q.room.Broadcast()
}

// fill makes the chunks. It runs in the committer's goroutine.
func (g *group) fill(b *store.Batch) {
	g.filled = true
	g.take()
	if g.more {
		g.q.commitWaiting()
	}
	for _, a := range g.taken {
		if a.err != nil {
			continue
		}
		var shared *bodyID
		for i := range a.targets {
			g.place(b, a, &a.targets[i], &shared)
		}
	}
	for _, fg := range g.fifos {
		g.finishChunk(b, fg)
		if fg.created {
			g.q.putName(b, fg.f)
		}
		v := binary.AppendUvarint(nil, fg.next)
		b.Put(queueKey('n', fg.f.id), binary.AppendUvarint(v, fg.f.appended+fg.bytes))
	}
}

// place adds the message to the chunk of one target, and to the batch as a body
// record if it is the first of several targets and large.
func (g *group) place(b *store.Batch, a *appended, t *Target, shared **bodyID) {
	fg := g.fifo(fifoName{t.Endpoint, t.Priority})
	it := item{enqueued: a.millis, ttl: t.TTL.Milliseconds(), message: a.record, size: len(a.record)}
	if t.TTL < 0 {
		it.ttl = -1
	}
	space := len(a.record)
	if a.shared() {
		if *shared == nil {
			id := bodyID{queue: fg.f.id, offset: fg.next}
			*shared = &id
			b.Put(id.key('b'), a.record)
		}
		it.shared, it.ref = true, bodyRef{id: **shared, n: len(a.targets)}
		space = 0
	}
	if len(fg.items) == maxChunkCount || len(fg.items) > 0 && fg.size+space > maxChunkBytes {
		g.finishChunk(b, fg)
	}
	if len(fg.items) == 0 {
		fg.chunks = append(fg.chunks, &chunk{})
	}
	fg.items = append(fg.items, it)
	fg.size += space + itemSpace
	c := fg.chunk()
	e := &Entry{
		Message:  a.m,
		Priority: t.Priority,
		Offset:   fg.next,
		Enqueued: timeOf(it.enqueued),
		Expires:  it.expires(),
		Size:     len(a.record),
		f:        fg.f,
		c:        c,
	}
	c.entries = append(c.entries, e)
	c.cost += it.cost()
	if it.shared {
		c.refs = append(c.refs, it.ref)
	}
	fg.next++
}

// chunk is the chunk being made.
func (fg *fifoGroup) chunk() *chunk { return fg.chunks[len(fg.chunks)-1] }

func (g *group) finishChunk(b *store.Batch, fg *fifoGroup) {
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
	fg.bytes += uint64(c.cost)
	b.Put(offsetKey('m', fg.f.id, c.last), v)
	fg.items, fg.size = fg.items[:0], 0
}

// fifo returns the group's part of a queue, which it creates if need be.
func (g *group) fifo(name fifoName) *fifoGroup {
	for _, fg := range g.fifos {
		if fg.f.name == name {
			return fg
		}
	}
	g.q.mu.Lock()
	defer g.q.mu.Unlock()
	f := g.q.fifos[name]
	fg := &fifoGroup{f: f}
	if f == nil {
		fg.created = true
		fg.f = &fifo{id: g.q.nextID, name: name}
		g.q.nextID++
		g.q.attach(fg.f)
	}
	fg.next = fg.f.next
	g.fifos = append(g.fifos, fg)
	return fg
}

// putName writes the name of a new queue.
func (q *Queue) putName(b *store.Batch, f *fifo) {
	v := binary.BigEndian.AppendUint32(nil, f.name.priority)
	b.Put(queueKey('d', f.id), append(v, f.name.endpoint...))
	b.Put(keyNextID, binary.BigEndian.AppendUint32(nil, f.id+1))
}

// done tells the result to readers and senders. It runs in the committer's
// goroutine.
func (g *group) done(err error) {
	q := g.q
	if !g.filled { // refused: so is what it would have taken
		g.take()
		if g.more {
			q.commitWaiting()
		}
	}
	if err == nil {
		q.mu.Lock()
		for _, fg := range g.fifos {
			q.storedLocked(fg)
		}
		q.mu.Unlock()
	}
	for _, a := range g.taken {
		if a.err == nil && len(a.targets) > 0 {
			a.err = err
		}
		a.done(a.err)
	}
}

// storedLocked makes what a group has stored visible. A reader that has kept up
// gets it as it is, without a way over the disk.
func (q *Queue) storedLocked(fg *fifoGroup) {
	f := fg.f
	e := q.endpoints[f.name.endpoint]
	keepsUp := !f.removed && e != nil && e.read && !f.loading && f.loaded == f.stored &&
		len(f.ahead) < aheadCount && f.aheadBytes < aheadBytes
	f.next, f.stored = fg.next, fg.next
	f.appended += fg.bytes
	if f.removed {
		return
	}
	q.bytes += int64(fg.bytes)
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
	} else if q.o.LiveFirst && e != nil && e.read {
		f.live.add(f.generation, fg.chunks)
	}
	if e != nil {
		e.nudge()
	}
}
