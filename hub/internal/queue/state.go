package queue

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// What the log keeps of the queues beside their messages. Numbers are uvarints.
//
// The state, at the beginning of each segment and at the end of the last when the hub
// ends in good order:
//
//	version 2, time (varint) and how far it is ahead of the system's clock (varint;
//	see type clock), next queue id, number of queues; per queue:
//	  id, priority, length of endpoint, endpoint, offset after the last message,
//	  bytes, finished offsets (finished.appendTo)
//
// A change of it begins with a byte:
//
//	N  a queue gets its name: id, priority, endpoint
//	S  messages are finished: id, bytes that are left, number of spans, spans
//	   (distance from the end of the one before, length)
//	R  a queue is removed: id
//	T  the clock is ahead by so much from now on: time, ahead (varints)
const stateVersion = 2

const (
	changeName    = 'N'
	changeSettled = 'S'
	changeRemoved = 'R'
	changeClock   = 'T'
)

// snapshot is the state as of what is written. It runs in the committer's goroutine.
func (q *Queue) snapshot() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := []byte{stateVersion}
	last, ahead, changes := q.clock.state()
	b = binary.AppendVarint(binary.AppendVarint(b, last), ahead)
	q.clockTold = changes
	b = binary.AppendUvarint(b, uint64(q.nextID))
	b = binary.AppendUvarint(b, uint64(len(q.byID)))
	for id, f := range q.byID {
		b = binary.AppendUvarint(b, uint64(id))
		b = binary.AppendUvarint(b, uint64(f.name.priority))
		b = binary.AppendUvarint(b, uint64(len(f.name.endpoint)))
		b = append(b, f.name.endpoint...)
		b = binary.AppendUvarint(b, f.stored)
		b = binary.AppendUvarint(b, uint64(f.bytes))
		b = f.done.appendTo(b)
	}
	return b
}

// restore takes a snapshot.
func (q *Queue) restore(state []byte) error {
	r := reader{b: state}
	if v := r.byte(); r.err == nil && v != stateVersion {
		return fmt.Errorf("%w: state version %d", errCorrupt, v)
	}
	q.resumed = &resumed{r.varint(), r.varint()}
	q.nextID = r.uvarint32()
	n := r.uvarint()
	for range n {
		f := &fifo{id: r.uvarint32(), named: true}
		f.name.priority = r.uvarint32()
		f.name.endpoint = string(r.bytes(r.uvarint()))
		f.stored, f.bytes = r.uvarint(), int64(r.uvarint())
		f.done = readFinished(&r)
		if r.err != nil {
			break
		}
		q.attach(f)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	if r.err != nil {
		return fmt.Errorf("state of the queues: %w", r.err)
	}
	return nil
}

// replay takes what was written after the snapshot.
func (q *Queue) replay(p seglog.Part) error {
	if p.Kind == seglog.Chunk {
		if f := q.byID[p.Stream]; f != nil {
			f.stored = max(f.stored, p.First+uint64(p.Count))
			f.bytes += int64(p.Cost)
		}
		if at, ok := chunkTime(p.Data); ok && q.resumed != nil {
			q.resumed.last = max(q.resumed.last, at)
		}
		return nil
	}
	if p.Kind != seglog.Meta {
		return nil
	}
	r := reader{b: p.Data}
	kind := r.byte()
	if kind == changeClock {
		q.resumed = &resumed{r.varint(), r.varint()}
		return r.err
	}
	id := r.uvarint32()
	f := q.byID[id]
	switch kind {
	case changeName:
		priority := r.uvarint32()
		if f == nil && r.err == nil {
			q.nextID = max(q.nextID, id+1)
			q.attach(&fifo{id: id, name: fifoName{string(r.b), priority}, named: true})
		}
	case changeSettled:
		bytes := r.uvarint()
		last := uint64(0)
		for n := r.uvarint(); n > 0 && r.err == nil; n-- {
			lo := last + r.uvarint()
			last = lo + r.uvarint()
			if f != nil && r.err == nil {
				f.done.addRange(lo, last)
			}
		}
		if f != nil {
			f.bytes = int64(bytes)
		}
	case changeRemoved:
		if f != nil {
			q.forget(f)
		}
	default:
		r.fail("unknown change")
	}
	if r.err != nil {
		return fmt.Errorf("change of the queues: %w", r.err)
	}
	return nil
}

// forget takes a fifo away. q.mu is held, or q is not shared yet.
func (q *Queue) forget(f *fifo) {
	f.removed = true
	delete(q.byID, f.id)
	if q.fifos[f.name] != f {
		return
	}
	delete(q.fifos, f.name)
	e := q.endpoints[f.name.endpoint]
	for i := range e.fifos {
		if e.fifos[i] == f {
			e.fifos = append(e.fifos[:i:i], e.fifos[i+1:]...)
			break
		}
	}
}

func nameChange(f *fifo) []byte {
	b := binary.AppendUvarint([]byte{changeName}, uint64(f.id))
	b = binary.AppendUvarint(b, uint64(f.name.priority))
	return append(b, f.name.endpoint...)
}

func settledChange(f *fifo, spans []span) []byte {
	b := binary.AppendUvarint([]byte{changeSettled}, uint64(f.id))
	b = binary.AppendUvarint(b, uint64(f.bytes))
	b = binary.AppendUvarint(b, uint64(len(spans)))
	last := uint64(0)
	for _, s := range spans {
		b = binary.AppendUvarint(b, s.lo-last)
		b = binary.AppendUvarint(b, s.hi-s.lo)
		last = s.hi
	}
	return b
}

func removedChange(f *fifo) []byte {
	return binary.AppendUvarint([]byte{changeRemoved}, uint64(f.id))
}

// load opens the log, and the queues that are in it.
func load(folder seglog.Folder, o Options, readOnly bool) (*Queue, error) {
	q := newQueue(o)
	var err error
	q.log, err = seglog.Open(folder, seglog.Options{
		Logger: q.o.Logger, SegmentSize: o.SegmentSize, UnsafeNoSync: o.UnsafeNoSync, ReadOnly: readOnly,
		Snapshot: q.snapshot, Restore: q.restore, Replay: q.replay, Keep: q.keep, Bodies: bodiesOf,
	})
	if err != nil {
		return nil, fmt.Errorf("load queues: %w", err)
	}
	q.compare(readOnly)
	if q.resumed != nil && q.clock.resume(*q.resumed) {
		q.o.Logger.Warn("the system's clock was set while this program did not run; that time does not count in the age of messages")
	}
	if !readOnly {
		q.log.Start()
	}
	return q, nil
}

// jumped tells that the system's clock was set. The committer notes it soon.
func (q *Queue) jumped(by time.Duration) {
	q.o.Logger.Warn("the system's clock was set; the age of messages does not change by that", "by", by)
	q.remind()
}

// fillClock puts it into the frame when the clock has changed. If the frame finds no
// room, it is in the state that the next segment begins with.
func (q *Queue) fillClock(frame *seglog.Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	last, ahead, changes := q.clock.state()
	if changes == q.clockTold {
		return
	}
	q.clockTold = changes
	b := binary.AppendVarint([]byte{changeClock}, last)
	frame.Add(seglog.Part{Kind: seglog.Meta, Data: binary.AppendVarint(b, ahead)})
}

// compare brings what the state says together with the messages that are there.
func (q *Queue) compare(readOnly bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	extents, cost := q.log.Streams()
	for id, f := range q.byID {
		list := extents[id]
		if n := len(list); n > 0 {
			f.stored = max(f.stored, list[n-1].Next)
		}
		// A power cut may keep a settlement without the messages it speaks of only if
		// those were never acknowledged: their offsets must not be used again.
		f.stored = max(f.stored, f.done.bound())
		// What is not there was deleted, so it was finished, although the crash has
		// kept no word of it; or it is damaged, which the log has said.
		at := uint64(0)
		for _, x := range list {
			f.done.addRange(at, x.First)
			at = x.Next
		}
		f.done.addRange(at, f.stored)
		q.log.Finish(id, 0, f.done.head)
		for _, s := range f.done.spans {
			q.log.Finish(id, s.lo, s.hi)
		}
		if f.bytes = min(f.bytes, cost[id]); f.len() == 0 {
			f.bytes = 0
		}
		f.handed, f.loaded = f.done.head, f.done.head
		q.bytes += f.bytes
	}
	for id := range extents {
		if q.byID[id] != nil || readOnly {
			continue
		}
		if len(q.log.Damage()) > 0 {
			// The name may be what is damaged.
			q.o.Logger.Error("messages of a queue whose name is not known are kept on disk", "queue", id)
			q.nextID = max(q.nextID, id+1)
			continue
		}
		q.log.Drop(id) // was removed
	}
}

// keep tells the log whether anything of a chunk is not finished.
func (q *Queue) keep(stream uint32, first uint64, count int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.byID[stream]
	if f == nil {
		return len(q.log.Damage()) > 0 && stream < q.nextID
	}
	for o := first; o < first+uint64(count); o++ {
		if !f.done.has(o) {
			return true
		}
	}
	return false
}
