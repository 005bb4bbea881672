package events

import (
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// By says what a Start compares.
type By uint8

// What a Start compares.
const (
	ByOffset By = iota
	BySequence
	ByTime // milliseconds since 1970
)

// Start is where a reader of a partition begins: behind a value, or at it.
type Start struct {
	By        By
	Value     int64
	Inclusive bool
}

// begins tells whether a reader may begin with an event that has the value v, as
// long as values grow.
func (s Start) begins(v int64) bool { return v > s.Value || s.Inclusive && v == s.Value }

func (s Start) of(h *header) int64 {
	switch s.By {
	case BySequence:
		return h.sequence
	case ByTime:
		return h.enqueued
	}
	return h.offset
}

// before tells whether the event looked for is not before a mark: then it is at the
// mark or behind.
func (s Start) before(m *mark, partition int) bool {
	switch s.By {
	case BySequence:
		return !s.begins(m.partitions[partition].sequence - 1)
	case ByTime:
		return !s.begins(m.enqueued)
	}
	// Where the last event before the mark begins is not known; its end is.
	return !s.begins(m.partitions[partition].offset - 1)
}

// Seek returns a position from which reading a partition gives the event of start
// and all that follow.
func (l *Log) Seek(partition int, start Start) (uint64, error) {
	from, to := l.markBefore(func(m *mark) bool { return start.before(m, partition) })
	to = min(to, l.Next())
	found := to
	err := l.s.Scan([]byte(keyPrefix), key(from), func(k, v []byte) error {
		position, h, err := headerOf(k, v)
		switch {
		case err != nil:
			return err
		case position >= to:
			return store.ErrStop
		case h.partition == partition && start.begins(start.of(&h)):
			found = position
			return store.ErrStop
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("seek in events: %w", err)
	}
	return found, nil
}

// ReadPartition returns events of one partition at from or later, in order, and the
// position where to go on: at most limit, and no more after bytes of records. Events
// that were removed are passed over in silence.
func (l *Log) ReadPartition(partition int, from uint64, limit, bytes int) ([]Event, uint64, error) {
	var list []Event
	end := l.Next()
	for from < end && len(list) < limit && bytes > 0 {
		start, stop := l.stretch(partition, from)
		stop = min(stop, end)
		from = max(from, stop)
		err := l.s.Scan([]byte(keyPrefix), key(start), func(k, v []byte) error {
			position, h, err := headerOf(k, v)
			switch {
			case err != nil:
				return err
			case position >= stop:
				return store.ErrStop
			case h.partition != partition:
				return nil
			case len(list) == limit || bytes <= 0:
				from = position
				return store.ErrStop
			}
			e, err := decodeEvent(position, v)
			if err != nil {
				return fmt.Errorf("event %d: %w", position, err)
			}
			list, bytes = append(list, e), bytes-len(v)
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read partition %d: %w", partition, err)
		}
	}
	return list, from, nil
}

// More returns a channel that is closed when there may be events at from or later.
func (l *Log) More(from uint64) <-chan struct{} {
	l.read.Lock()
	defer l.read.Unlock()
	if l.durable > from {
		return closed
	}
	return l.more
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Info describes a partition.
type Info struct {
	// Begin is the sequence number of the oldest event, or the next one to be given
	// when there is none.
	Begin int64
	// Last, LastOffset and LastEnqueued are those of the newest event; -1, -1 and the
	// zero time when there never was one. When it is gone, offset and time are so too.
	Last, LastOffset int64
	LastEnqueued     time.Time
	Empty            bool
}

// Partitions returns how many there are.
func (l *Log) Partitions() int { return l.o.Partitions }

// Info describes a partition.
func (l *Log) Info(partition int) (Info, error) {
	l.mu.Lock()
	next, first := l.head.partitions[partition].sequence, l.head.first
	l.mu.Unlock()
	info := Info{Begin: next, Last: next - 1, LastOffset: -1, Empty: true}
	oldest, _, err := l.ReadPartition(partition, first, 1, readBytes)
	if err != nil || len(oldest) == 0 {
		return info, err
	}
	info.Begin, info.Empty = oldest[0].Sequence, false
	l.read.Lock()
	last := l.newest[partition]
	l.read.Unlock()
	if last == nil {
		if last, err = l.lastHeader(partition, next); err != nil {
			return info, err
		}
	}
	info.Last, info.LastOffset, info.LastEnqueued = last.sequence, last.offset, time.UnixMilli(last.enqueued).UTC()
	return info, nil
}

// lastHeader finds the newest event of a partition, which has one, when it was
// appended before the start; next is the sequence number behind it.
func (l *Log) lastHeader(partition int, next int64) (*header, error) {
	last := &header{sequence: next - 1, offset: -1}
	from, _ := l.markBefore(func(m *mark) bool { return m.partitions[partition].sequence < next })
	end := l.Next()
	for from < end {
		start, stop := l.stretch(partition, from)
		stop = min(stop, end)
		err := l.s.Scan([]byte(keyPrefix), key(start), func(k, v []byte) error {
			position, h, err := headerOf(k, v)
			switch {
			case err != nil:
				return err
			case position >= stop:
				return store.ErrStop
			case h.partition == partition:
				last = &h
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("newest event of partition %d: %w", partition, err)
		}
		from = stop
	}
	return last, nil
}

// NextOf returns the sequence number and the offset that the next event of a
// partition will get.
func (l *Log) NextOf(partition int) (sequence, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.head.partitions[partition]
	return c.sequence, c.offset
}

// Begins tells whether a reader may begin with an event.
func (s Start) Begins(e *Event) bool {
	return s.begins(s.of(&header{e.Partition, e.Sequence, e.Offset, e.Enqueued.UnixMilli()}))
}
