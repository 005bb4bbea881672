package queue

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// Source is a store that can be read.
type Source interface {
	Get(key []byte) ([]byte, error)
	Scan(prefix, from []byte, fn func(key, value []byte) error) error
}

// Inspection is what Inspect has found.
type Inspection struct {
	Queues   []State
	Bodies   int      // records of messages that several queues share
	Problems []string // what is wrong, and where
	Notes    []string // what a crash may leave, and does no harm
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

// Inspect reads the queues of a store that nobody writes. When deep is true it
// reads every record, and checks offsets, references and codecs; else only the
// counters and the first message of each queue. It returns an error only when it
// cannot go on at all.
func Inspect(s Source, deep bool, now time.Time) (*Inspection, error) {
	x := &inspector{s: s, now: now, queues: make(map[uint32]*inspected), refs: make(map[bodyID]*refCount)}
	if err := x.names(); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(x.queues)) {
		q := x.queues[id]
		x.counters(q)
		if err := x.chunks(q, deep); err != nil {
			return nil, err
		}
	}
	if deep {
		if err := x.strangers(); err != nil {
			return nil, err
		}
		if err := x.bodies(); err != nil {
			return nil, err
		}
	}
	for _, q := range x.queues {
		x.out.Queues = append(x.out.Queues, q.State)
	}
	slices.SortFunc(x.out.Queues, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID))
	})
	return &x.out, nil
}

type inspector struct {
	s      Source
	now    time.Time
	out    Inspection
	queues map[uint32]*inspected
	refs   map[bodyID]*refCount
}

type inspected struct {
	State
	next uint64
	done finished
}

// refCount is how often chunks refer to a body, and how often they say they do.
type refCount struct{ found, stated, size int }

func (q *inspected) String() string {
	return fmt.Sprintf("queue %d (%s, priority %d)", q.ID, q.Endpoint, q.Priority)
}

func (x *inspector) problem(format string, a ...any) {
	x.out.Problems = append(x.out.Problems, fmt.Sprintf(format, a...))
}

func (x *inspector) note(format string, a ...any) {
	x.out.Notes = append(x.out.Notes, fmt.Sprintf(format, a...))
}

// names reads which queues there are.
func (x *inspector) names() error {
	seen := make(map[fifoName]bool)
	next := uint32(0)
	if b, err := x.s.Get(keyNextID); err == nil && len(b) == 4 {
		next = binary.BigEndian.Uint32(b)
	} else if !errors.Is(err, store.ErrNotFound) {
		x.problem("next queue id: record of %d bytes, %v", len(b), err)
	}
	return x.s.Scan([]byte("qd"), nil, func(key, value []byte) error {
		if len(key) != 6 || len(value) < 4 {
			x.problem("name of queue: key %x, value of %d bytes", key, len(value))
			return nil
		}
		q := &inspected{State: State{
			ID: binary.BigEndian.Uint32(key[2:]), Priority: binary.BigEndian.Uint32(value), Endpoint: string(value[4:]),
		}}
		x.queues[q.ID] = q
		if q.ID >= next {
			x.problem("%v: the next id to be given is only %d", q, next)
		}
		name := fifoName{q.Endpoint, q.Priority}
		if seen[name] {
			x.note("%v: an earlier one of that name is still being removed", q)
		}
		seen[name] = true
		return nil
	})
}

func (x *inspector) counters(q *inspected) {
	b, err := x.s.Get(queueKey('n', q.ID))
	r := reader{b: b}
	next, appended := r.uvarint(), r.uvarint()
	if err = cmp.Or(err, r.err); err != nil {
		x.problem("%v: counters: %v", q, err)
		return
	}
	var deleted uint64
	if b, err = x.s.Get(queueKey('c', q.ID)); err == nil {
		q.done, deleted, err = decodeFinished(b)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		x.problem("%v: checkpoint: %v", q, err)
		return
	}
	if q.done.head > next || len(q.done.spans) > 0 && q.done.spans[len(q.done.spans)-1].hi > next {
		x.note("%v: the checkpoint is past the last message, as a power cut may leave it", q)
		next = max(next, q.done.head)
	}
	q.next = next
	q.Messages = int(max(next, q.done.count()) - q.done.count())
	q.Bytes = int64(max(appended, deleted) - deleted)
}

// chunks reads the messages of a queue, or only the first.
func (x *inspector) chunks(q *inspected, deep bool) error {
	from, expected := []byte(nil), uint64(0)
	if !deep {
		from = offsetKey('m', q.ID, q.done.head)
	}
	missing := uint64(0)
	skip := func(to uint64) {
		for o := max(expected, q.done.head); o < to; o++ {
			if !q.done.has(o) {
				missing++
			}
		}
	}
	err := x.s.Scan(queueKey('m', q.ID), from, func(key, value []byte) error {
		last, err := keyOffset(key)
		items, decodeErr := decodeChunk(value)
		if err = cmp.Or(err, decodeErr); err == nil && uint64(len(items)) > last+1 {
			err = fmt.Errorf("%w: %d messages", errCorrupt, len(items))
		}
		if err != nil {
			x.problem("%v: chunk that ends with message %d: %v", q, last, err)
			return nil
		}
		first := last + 1 - uint64(len(items))
		if deep {
			if first < expected {
				x.problem("%v: messages %d to %d are there twice", q, first, expected-1)
			}
			if last >= q.next {
				x.problem("%v: message %d is behind the end, %d", q, last, q.next)
			}
			skip(first)
			expected = max(expected, last+1)
		}
		for i := range items {
			if deep {
				x.message(q, first+uint64(i), &items[i])
			}
			if at := timeOf(items[i].enqueued); !q.done.has(first+uint64(i)) && (q.Oldest.IsZero() || at.Before(q.Oldest)) {
				q.Oldest = at
			}
		}
		if !deep && !q.Oldest.IsZero() {
			return store.ErrStop
		}
		return nil
	})
	if deep {
		skip(q.next)
	}
	if missing > 0 {
		x.note("%v: %d messages are gone but not in the checkpoint, as a crash during their settlement leaves it", q, missing)
	}
	return err
}

func (x *inspector) message(q *inspected, offset uint64, it *item) {
	e := it.expires()
	if !q.done.has(offset) && !e.IsZero() && !x.now.Before(e) {
		q.Expired++
	}
	if it.shared {
		c := x.refs[it.ref.id]
		if c == nil {
			c = &refCount{stated: it.ref.n, size: it.size}
			x.refs[it.ref.id] = c
		}
		c.found++
		if c.stated != it.ref.n || c.size != it.size {
			x.problem("%v: message %d: its body's size and references are %d and %d, elsewhere %d and %d", q, offset, it.size, it.ref.n, c.size, c.stated)
		}
		return
	}
	if _, err := decodeMessage(it.message); err != nil {
		x.problem("%v: message %d: %v", q, offset, err)
	}
}

// strangers looks for records of queues that have no name.
func (x *inspector) strangers() error {
	for _, kind := range []byte("ncm") {
		unknown := make(map[uint32]int)
		err := x.s.Scan([]byte{'q', kind}, nil, func(key, _ []byte) error {
			if len(key) < 6 {
				x.problem("key %x is too short", key)
			} else if id := binary.BigEndian.Uint32(key[2:]); x.queues[id] == nil {
				unknown[id]++
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(unknown)) {
			x.problem("queue %d has no name, but %d records of kind %c", id, unknown[id], kind)
		}
	}
	return nil
}

// bodies compares body records with the references to them.
func (x *inspector) bodies() error {
	err := x.s.Scan([]byte("qb"), nil, func(key, value []byte) error {
		offset, err := keyOffset(key)
		if err != nil {
			x.problem("key %x: %v", key, err)
			return nil
		}
		x.out.Bodies++
		id := bodyID{queue: binary.BigEndian.Uint32(key[2:]), offset: offset}
		if _, err := decodeMessage(value); err != nil {
			x.problem("body %d/%d: %v", id.queue, id.offset, err)
		}
		c := x.refs[id]
		delete(x.refs, id)
		if c == nil {
			x.problem("body %d/%d: no message refers to it", id.queue, id.offset)
			return nil
		}
		left := refsLeft(x.s, bodyRef{id: id, n: c.stated})
		if left != c.found {
			x.problem("body %d/%d: %d messages refer to it, its count says %d", id.queue, id.offset, c.found, left)
		}
		if c.size != len(value) {
			x.problem("body %d/%d: has %d bytes, its messages say %d", id.queue, id.offset, len(value), c.size)
		}
		return nil
	})
	for id, c := range x.refs {
		x.problem("body %d/%d is missing; %d messages refer to it", id.queue, id.offset, c.found)
	}
	return err
}
