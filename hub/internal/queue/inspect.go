package queue

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// Inspection is what Inspect has found.
type Inspection struct {
	Queues   []State
	Usage    seglog.Usage
	Problems []string // what is wrong, and where
}

// State is one queue.
type State struct {
	ID       uint32
	Endpoint string
	Priority uint32
	Messages int       // that are not finished
	Expired  int       // of them; counted when every record is read
	Bytes    int64     // on disk
	Oldest   time.Time // when the first was stored; zero if there is none
}

// Inspect reads the queues in a folder that nobody writes, and closes it. When deep is
// true it reads every frame, footer and index, and compares them; else only what a
// start reads, and the first message of each queue. It returns an error only when it
// cannot go on at all.
func Inspect(folder seglog.Folder, deep bool, now time.Time) (_ *Inspection, err error) {
	q, err := load(folder, Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.log.Close()) }()
	x := &inspector{q: q, now: q.clock.time(), states: make(map[uint32]*State)}
	x.out.Usage = q.Usage()
	for id, f := range q.byID {
		s := &State{ID: id, Endpoint: f.name.endpoint, Priority: f.name.priority, Messages: f.len(), Bytes: f.bytes}
		if s.Messages > 0 {
			if err := x.oldest(f, s); err != nil {
				return nil, err
			}
		}
		x.states[id] = s
	}
	if deep {
		x.twice()
		damage, err := q.log.Verify(x.chunk)
		if err != nil {
			return nil, err
		}
		for _, d := range damage {
			x.problem("%v", d)
		}
	} else {
		for _, d := range q.log.Damage() {
			x.problem("%v", d)
		}
	}
	for _, s := range x.states {
		x.out.Queues = append(x.out.Queues, *s)
	}
	slices.SortFunc(x.out.Queues, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID))
	})
	return &x.out, nil
}

type inspector struct {
	q      *Queue
	now    int64 // by the queues' clock
	out    Inspection
	states map[uint32]*State
}

func (x *inspector) problem(format string, a ...any) {
	x.out.Problems = append(x.out.Problems, fmt.Sprintf(format, a...))
}

// oldest finds the time of the first unfinished message.
func (x *inspector) oldest(f *fifo, s *State) error {
	return x.q.log.Read(f.id, f.done.head, f.stored, func(p seglog.Part, _ seglog.Bodies) error {
		items, err := decodeChunk(p.Data)
		if err != nil {
			x.problem("queue %d (%s, priority %d): messages from %d on: %v", f.id, s.Endpoint, s.Priority, p.First, err)
			return nil
		}
		for i := range items {
			if !f.done.has(p.First + uint64(i)) {
				s.Oldest = x.q.clock.system(items[i].enqueued)
				return seglog.ErrStop
			}
		}
		return nil
	}, nil)
}

// twice looks for messages that are there more than once.
func (x *inspector) twice() {
	extents, _ := x.q.log.Streams()
	for id, list := range extents {
		last := uint64(0)
		for _, e := range list {
			if e.First < last {
				x.problem("queue %d: messages %d to %d are there twice", id, e.First, last-1)
			}
			last = max(last, e.Next)
		}
	}
}

// chunk checks a chunk and its messages.
func (x *inspector) chunk(segment string, p seglog.Part, bodies seglog.Bodies) {
	f, s := x.q.byID[p.Stream], x.states[p.Stream]
	items, err := decodeChunk(p.Data)
	if err == nil && len(items) != p.Count {
		err = fmt.Errorf("%w: %d messages instead of %d", errCorrupt, len(items), p.Count)
	}
	if err != nil {
		x.problem("segment %s, queue %d: messages from %d on: %v", segment, p.Stream, p.First, err)
		return
	}
	for i := range items {
		offset := p.First + uint64(i)
		if _, err := items[i].decode(bodies); err != nil {
			x.problem("segment %s, queue %d: message %d: %v", segment, p.Stream, offset, err)
		}
		if f == nil { // of a queue that was removed
			continue
		}
		if !f.done.has(offset) && x.now >= items[i].expires() {
			s.Expired++
		}
	}
}
