package queue

import (
	"reflect"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func AppendMessage(b []byte, m *iothub.Message) []byte { return appendMessage(b, m) }
func DecodeMessage(b []byte) (*iothub.Message, error)  { return decodeMessage(b) }
func MessageSpace(m *iothub.Message) int               { return messageSpace(m) }

// ChunkOf makes a chunk of messages that never expire.
func ChunkOf(base int64, messages ...[]byte) []byte {
	b := appendChunkHeader(nil, base, len(messages))
	for _, m := range messages {
		b = appendItem(b, base, &item{enqueued: base, ttl: -1, message: m, size: len(m)})
	}
	return b
}

// DecodeChunkLen returns the number of messages of a chunk.
func DecodeChunkLen(b []byte) (int, error) {
	items, err := decodeChunk(b)
	return len(items), err
}

type fataler interface{ Fatalf(string, ...any) }

// FinishedRoundTrip decodes a set of finished offsets and, if it is good, encodes and
// decodes it again.
func FinishedRoundTrip(t fataler, b []byte) error {
	r := reader{b: b}
	f := readFinished(&r)
	if r.err != nil {
		return r.err
	}
	(&Finished{f}).CheckShape(t)
	r = reader{b: f.appendTo(nil)}
	if again := readFinished(&r); r.err != nil || !reflect.DeepEqual(f, again) {
		t.Fatalf("%v became %v, %v", f, again, r.err)
	}
	return nil
}

// RestoreAndReplay gives a new set of queues a state and a change, which may be
// anything.
func RestoreAndReplay(state, change []byte) error {
	q := newQueue(Options{})
	if err := q.restore(state); err != nil {
		return err
	}
	return q.replay(seglog.Part{Kind: seglog.Meta, Data: change})
}

// Flush waits until all settlements so far are written.
func (q *Queue) Flush() {
	done := make(chan struct{})
	q.call(func() {
		(&committer{q: q}).settle()
		close(done)
	})
	select {
	case <-done:
	case <-q.done:
	}
}

// Memory is how many bytes of messages are in memory.
func (q *Queue) Memory() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.memory
}

// SetMaxPassed changes how much is remembered of messages that have passed.
func (q *Queue) SetMaxPassed(n int) { q.maxPassed = n }

// Remembered is what is remembered of a queue's messages that have passed: spans that
// are finished, chunks, messages.
func (q *Queue) Remembered(endpoint string, priority uint32) (spans, chunks, messages int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.fifos[fifoName{endpoint, priority}]
	return len(f.done.spans), len(f.live.chunks), len(f.live.taken)
}

// Finished is the set of finished offsets.
type Finished struct{ f finished }

func (f *Finished) Add(o uint64) bool      { return f.f.add(o) }
func (f *Finished) AddRange(lo, hi uint64) { f.f.addRange(lo, hi) }
func (f *Finished) Has(o uint64) bool      { return f.f.has(o) }
func (f *Finished) Count() uint64          { return f.f.count() }

// CheckShape checks that spans are sorted and apart.
func (f *Finished) CheckShape(t fataler) {
	last := f.f.head
	for _, s := range f.f.spans {
		if s.lo <= last || s.hi <= s.lo {
			t.Fatalf("head %d, spans %v", f.f.head, f.f.spans)
		}
		last = s.hi
	}
}
