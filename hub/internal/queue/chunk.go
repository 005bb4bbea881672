package queue

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A chunk is a run of consecutive messages of one queue that were stored by one
// group commit: one key and one value, whatever their number. It is deleted when
// all its messages are finished. Its form on disk:
//
//	version   1
//	base      varint: milliseconds since 1970
//	count     uvarint
//	entries   per message:
//	            enqueued  varint: milliseconds after base
//	            ttl       varint: milliseconds; negative: never expires
//	            kind      uvarint: 2*length of a message that follows,
//	                      or 2*length+1 of one in a body record of its own
//	            message   its form on disk; or queue id, offset and number of
//	                      references, uvarints: the body record
const chunkVersion = 1

// Bounds of a chunk, unless a single message is larger.
const (
	maxChunkCount = 256
	maxChunkBytes = 16 << 10
)

// itemSpace is at least what an item takes beside a message of its own.
const itemSpace = 40

// shareAbove is the size of a message from which its body is stored once for all
// its queues. Below, copies are cheaper than references.
const shareAbove = 1 << 10

// bodyID names a body record: the first queue and offset it was stored for.
type bodyID struct {
	queue  uint32
	offset uint64
}

// bodyRef is one reference of a chunk to a body record.
type bodyRef struct {
	id bodyID
	n  int // references that it had at first
}

// item is one message of a chunk as it is stored.
type item struct {
	enqueued int64 // milliseconds
	ttl      int64 // milliseconds
	message  []byte
	size     int // of the message
	shared   bool
	ref      bodyRef
}

func (it *item) expires() time.Time {
	if it.ttl < 0 {
		return time.Time{}
	}
	return time.UnixMilli(it.enqueued + it.ttl)
}

// cost is what the message counts for in the size of its queue, beside the chunk.
func (it *item) cost() int {
	if !it.shared {
		return 0
	}
	return it.size / it.ref.n
}

func appendChunkHeader(b []byte, base int64, count int) []byte {
	b = append(b, chunkVersion)
	b = binary.AppendVarint(b, base)
	return binary.AppendUvarint(b, uint64(count))
}

func appendItem(b []byte, base int64, it *item) []byte {
	b = binary.AppendVarint(b, it.enqueued-base)
	b = binary.AppendVarint(b, it.ttl)
	if !it.shared {
		b = binary.AppendUvarint(b, 2*uint64(len(it.message)))
		return append(b, it.message...)
	}
	b = binary.AppendUvarint(b, 2*uint64(it.size)+1)
	b = binary.AppendUvarint(b, uint64(it.ref.id.queue))
	b = binary.AppendUvarint(b, it.ref.id.offset)
	return binary.AppendUvarint(b, uint64(it.ref.n))
}

// decodeChunk reads a chunk; messages of items share their bytes with b.
func decodeChunk(b []byte) ([]item, error) {
	r := reader{b: b}
	if v := r.byte(); r.err == nil && v != chunkVersion {
		return nil, fmt.Errorf("%w: chunk version %d", errCorrupt, v)
	}
	base := r.varint()
	n := r.uvarint()
	if n > maxChunkCount || n > uint64(len(r.b)) {
		r.fail("too many messages")
	}
	if r.err != nil {
		return nil, r.err
	}
	items := make([]item, n)
	for i := range items {
		it := &items[i]
		it.enqueued = base + r.varint()
		it.ttl = r.varint()
		kind := r.uvarint()
		if it.size = int(kind / 2 & 0x7fffffff); kind&1 == 0 {
			it.message = r.bytes(kind / 2)
			continue
		}
		it.shared = true
		queue, offset, refs := r.uvarint(), r.uvarint(), r.uvarint()
		if queue > 1<<32-1 || refs == 0 || refs > 1<<20 {
			r.fail("wrong reference")
		}
		it.ref = bodyRef{id: bodyID{queue: uint32(queue), offset: offset}, n: int(refs)}
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	if r.err != nil {
		return nil, r.err
	}
	return items, nil
}

// Keys. All begin with "q" and a letter; numbers are big-endian, so that keys sort
// as their numbers do.
//
//	qi                     next queue id (4 bytes)
//	qd queue               name of a queue: priority (4 bytes), endpoint
//	qn queue               how far it was written: next offset, bytes
//	qc queue               how far it was finished: checkpoint
//	qm queue last-offset   chunk, by the offset of its last message
//	qb queue offset        body record: a message
//	qr queue offset        references left to a body, once one is gone
var keyNextID = []byte("qi")

func queueKey(kind byte, queue uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'q', kind}, queue)
}

func offsetKey(kind byte, queue uint32, offset uint64) []byte {
	b := make([]byte, 0, 14)
	b = binary.BigEndian.AppendUint32(append(b, 'q', kind), queue)
	return binary.BigEndian.AppendUint64(b, offset)
}

func (id bodyID) key(kind byte) []byte { return offsetKey(kind, id.queue, id.offset) }

// keyOffset is the offset at the end of a key.
func keyOffset(key []byte) (uint64, error) {
	if len(key) != 14 {
		return 0, fmt.Errorf("%w: key of %d bytes", errCorrupt, len(key))
	}
	return binary.BigEndian.Uint64(key[6:]), nil
}
