package queue

import (
	"reflect"

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

// CheckpointRoundTrip decodes a checkpoint and, if it is good, encodes and decodes
// it again.
func CheckpointRoundTrip(t fataler, b []byte) error {
	f, deleted, err := decodeFinished(b)
	if err != nil {
		return err
	}
	(&Finished{f}).CheckShape(t)
	again, d, err := decodeFinished(f.appendTo(nil, deleted))
	if err != nil || d != deleted || !reflect.DeepEqual(f, again) {
		t.Fatalf("%v became %v, %v", f, again, err)
	}
	return nil
}

// Finished is the set of finished offsets.
type Finished struct{ f finished }

func (f *Finished) Add(o uint64) bool { return f.f.add(o) }
func (f *Finished) Has(o uint64) bool { return f.f.has(o) }
func (f *Finished) Count() uint64     { return f.f.count() }

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
