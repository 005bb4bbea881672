package queue

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A chunk is a run of consecutive messages of one queue that were stored by one
// group commit: a part of a frame of the log. Its form on disk:
//
//	version   1
//	base      varint: milliseconds of the queues' clock (type clock)
//	count     uvarint
//	entries   per message:
//	            enqueued  varint: milliseconds after base
//	            ttl       varint: milliseconds; negative: never expires
//	            kind      uvarint: 2*length of a message that follows,
//	                      or 2*length+1 of one that several queues share
//	            message   its form on disk; or number of the body in the same frame
//	                      and number of queues that share it, uvarints
const chunkVersion = 1

// Bounds of a chunk, unless a single message is larger.
const (
	maxChunkCount = 256
	maxChunkBytes = 16 << 10
)

// itemSpace is at least what an item takes beside a message of its own.
const itemSpace = 40

// item is one message of a chunk as it is stored.
type item struct {
	enqueued int64 // milliseconds of the queues' clock
	ttl      int64 // milliseconds
	message  []byte
	size     int // of the message
	shared   int // how many queues share the body; 0: the message is in the chunk
	body     int // its number in the frame
}

// expires is when the time to live ends, by the queues' clock.
func (it *item) expires() int64 {
	if it.ttl < 0 {
		return math.MaxInt64
	}
	return it.enqueued + it.ttl
}

// cost is what the message counts for in the size of its queue, beside the chunk.
func (it *item) cost() int {
	if it.shared == 0 {
		return 0
	}
	return it.size / it.shared
}

func appendChunkHeader(b []byte, base int64, count int) []byte {
	b = append(b, chunkVersion)
	b = binary.AppendVarint(b, base)
	return binary.AppendUvarint(b, uint64(count))
}

func appendItem(b []byte, base int64, it *item) []byte {
	b = binary.AppendVarint(b, it.enqueued-base)
	b = binary.AppendVarint(b, it.ttl)
	if it.shared == 0 {
		b = binary.AppendUvarint(b, 2*uint64(len(it.message)))
		return append(b, it.message...)
	}
	b = binary.AppendUvarint(b, 2*uint64(it.size)+1)
	b = binary.AppendUvarint(b, uint64(it.body))
	return binary.AppendUvarint(b, uint64(it.shared))
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
		body, shared := r.uvarint(), r.uvarint()
		if body > 1<<20 || shared == 0 || shared > 1<<20 {
			r.fail("wrong reference")
		}
		it.body, it.shared = int(body), int(shared)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	if r.err != nil {
		return nil, r.err
	}
	return items, nil
}

// chunkTime is when the first message of a chunk was stored.
func chunkTime(b []byte) (int64, bool) {
	r := reader{b: b}
	version, base := r.byte(), r.varint()
	return base, version == chunkVersion && r.err == nil
}

// bodiesOf returns the numbers of the bodies that a chunk refers to.
func bodiesOf(chunk []byte) ([]int, error) {
	items, err := decodeChunk(chunk)
	if err != nil {
		return nil, err
	}
	var list []int
	for i := range items {
		if items[i].shared > 0 {
			list = append(list, items[i].body)
		}
	}
	return list, nil
}
