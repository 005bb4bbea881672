package events

import (
	"encoding/binary"
	"sort"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// markEvery is how many positions lie between two marks.
const markEvery = 1024

// mark says how things stood before the event at its position was appended. Marks
// are the index of the log by partition: whoever looks for an event reads the
// records between two of them, and passes over stretches in which the counters of
// a partition do not change.
type mark struct {
	position   uint64
	enqueued   int64 // of that event, ms
	partitions []counters
}

const markPrefix = "m\x00"

func markKey(position uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(markPrefix), position)
}

// encode writes the time and the counters; the position is the key.
func (m *mark) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(m.enqueued))
	for _, c := range m.partitions {
		b = binary.BigEndian.AppendUint64(b, uint64(c.sequence))
		b = binary.BigEndian.AppendUint64(b, uint64(c.offset))
	}
	return b
}

func decodeMark(key, b []byte, partitions int) (mark, error) {
	if len(key) != len(markPrefix)+8 || len(b) != 8+16*partitions {
		return mark{}, errRecord
	}
	at := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
	m := mark{position: binary.BigEndian.Uint64(key[len(markPrefix):]), enqueued: at(0)}
	for i := range partitions {
		m.partitions = append(m.partitions, counters{sequence: at(1 + 2*i), offset: at(2 + 2*i)})
	}
	return m, nil
}

// loadMarks reads those of the events that are there. A crash may have left one for
// an event that is not, and a log of before there were marks has none: all they do
// is to shorten the way.
func (l *Log) loadMarks() error {
	return l.s.Scan([]byte(markPrefix), markKey(l.head.first), func(k, v []byte) error {
		m, err := decodeMark(k, v, len(l.head.partitions))
		if err != nil {
			return err
		}
		if m.position >= l.head.next {
			return store.ErrStop
		}
		l.marks = append(l.marks, m)
		return nil
	})
}

// addMark adds the mark of the event that is about to get the next position, if it
// is one that has a mark. l.mu is held.
func (l *Log) addMark(b *store.Batch, enqueued int64) {
	if l.head.next%markEvery != 0 {
		return
	}
	m := mark{l.head.next, enqueued, append([]counters(nil), l.head.partitions...)}
	l.marks = append(l.marks, m)
	b.Put(markKey(m.position), m.encode())
}

// dropMarks removes marks of events that go. l.mu is held.
func (l *Log) dropMarks(b *store.Batch) {
	n := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].position >= l.head.first })
	for _, m := range l.marks[:n] {
		b.Delete(markKey(m.position), 8+16*len(m.partitions))
	}
	l.marks = append([]mark(nil), l.marks[n:]...)
}

// stretch returns where to go on reading a partition from, and up to where there is
// no mark.
func (l *Log) stretch(partition int, from uint64) (start, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	start = max(from, l.head.first)
	end = max(start, l.head.next)
	n := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].position >= start })
	if n < len(l.marks) && l.marks[n].position == start {
		sequence := l.marks[n].partitions[partition].sequence
		if l.head.partitions[partition].sequence == sequence {
			return end, end // nothing of the partition was appended since
		}
		// The first mark that has seen more of the partition; before it is the stretch.
		k := n + sort.Search(len(l.marks)-n, func(i int) bool { return l.marks[n+i].partitions[partition].sequence > sequence })
		start, n = l.marks[k-1].position, k
	}
	if n < len(l.marks) {
		end = l.marks[n].position
	}
	return start, end
}

// markBefore returns the position of the last mark for which ok holds, and that of
// the one after it. What ok says must be true up to some mark and false after it.
func (l *Log) markBefore(ok func(*mark) bool) (start, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := sort.Search(len(l.marks), func(i int) bool { return !ok(&l.marks[i]) })
	start, end = l.head.first, l.head.next
	if n > 0 {
		start = l.marks[n-1].position
	}
	if n < len(l.marks) {
		end = l.marks[n].position
	}
	return start, end
}
