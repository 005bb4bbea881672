package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// The form on disk. Numbers of fixed width are little-endian; checksums are CRC32C.
// docs/on-disk.md has the tables.
const (
	magic     = "bwlog\x00\x00"
	version   = 2 // follows magic, in head and tail
	magicHead = magic + "\x02"
	magicTail = "bwend\x00\x00\x02"

	headSize  = 64
	tailSize  = 48
	frameHead = 24
	align     = 8

	suffix  = ".seg"
	tmpName = "new.tmp"
	// compactTmp is the segment that compaction is writing.
	compactTmp = "compact.tmp"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(seed uint32, b []byte) uint32 { return crc32.Update(seed, castagnoli, b) }

// padded is the space that n bytes take.
func padded(n int64) int64 { return (n + align - 1) &^ (align - 1) }

// number names the place of a segment in the log: its own number, or those of the
// segments that it has replaced.
type number struct{ from, to uint64 }

func (n number) name() string {
	if n.from == n.to {
		return fmt.Sprintf("%016x%s", n.from, suffix)
	}
	return fmt.Sprintf("%016x-%016x%s", n.from, n.to, suffix)
}

func parseName(name string) (number, bool) {
	text, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return number{}, false
	}
	first, second, two := strings.Cut(text, "-")
	if !two {
		second = first
	}
	from, err1 := strconv.ParseUint(first, 16, 64)
	to, err2 := strconv.ParseUint(second, 16, 64)
	n := number{from, to}
	return n, errors.Join(err1, err2) == nil && from <= to && n.name() == name
}

// head is the beginning of a segment.
type head struct {
	number
	id       uint64 // random: no other segment has it
	first    uint64 // sequence number of its first frame
	replaces bool   // written by compaction: frames may be missing
}

func (h head) encode() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, magicHead...)
	replaces := uint64(0)
	if h.replaces {
		replaces = 1
	}
	for _, v := range []uint64{h.from, h.to, h.id, h.first, replaces} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, checksum(0, b))
	return append(b, make([]byte, headSize-len(b))...)
}

// decodeHead reads a head. Every version has its checksum at the same place, so a
// wrong version is told from a damaged one.
func decodeHead(b []byte) (head, error) {
	if len(b) < headSize || string(b[:len(magic)]) != magic {
		return head{}, fmt.Errorf("%w: no segment", ErrDamaged)
	}
	if binary.LittleEndian.Uint32(b[48:]) != checksum(0, b[:48]) {
		return head{}, fmt.Errorf("%w: checksum of the head", ErrDamaged)
	}
	if v := b[len(magic)]; v != version {
		return head{}, fmt.Errorf("%w: it is of version %d, this program has version %d", ErrVersion, v, version)
	}
	u := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	return head{number{u(8), u(16)}, u(24), u(32), u(40) == 1}, nil
}

// key is what makes frames those of one segment.
type key struct {
	seed uint32 // checksums begin with it
	// mask is on the sequence numbers of frames. It comes from the segment's random
	// id, so no sender can make a message that looks like the head of a frame: a
	// search for the next frame need not look closer at what is in messages.
	mask uint64
}

func (h head) key() key {
	seed := checksum(0, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, h.id), h.from))
	// The last step of splitmix64: every bit of the id changes all of the mask.
	m := h.id + 0x9e3779b97f4a7c15
	m = (m ^ m>>30) * 0xbf58476d1ce4e5b9
	m = (m ^ m>>27) * 0x94d049bb133111eb
	return key{seed, m ^ m>>31}
}

// frameInfo is the head of a frame.
type frameInfo struct {
	sum     uint32
	length  uint32 // of the payload
	seq     uint64 // one more than that of the frame before
	durable uint64 // up to which all frames were on disk when it was written
}

func (i frameInfo) space() int64 { return padded(frameHead + int64(i.length)) }

func decodeFrameHead(b []byte, k key) frameInfo {
	return frameInfo{
		binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]),
		binary.LittleEndian.Uint64(b[8:]) ^ k.mask, binary.LittleEndian.Uint64(b[16:]),
	}
}

// finishFrame fills in the head of a frame whose payload is in place, and pads it.
func finishFrame(b []byte, k key, seq, durable uint64) []byte {
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHead))
	binary.LittleEndian.PutUint64(b[8:], seq^k.mask)
	binary.LittleEndian.PutUint64(b[16:], durable)
	binary.LittleEndian.PutUint32(b, checksum(k.seed, b[4:]))
	for len(b)%align != 0 {
		b = append(b, 0)
	}
	return b
}

// decodeFrame returns the head and payload of the frame at the front of b.
func decodeFrame(b []byte, k key) (frameInfo, []byte, error) {
	if len(b) < frameHead {
		return frameInfo{}, nil, fmt.Errorf("%w: frame ends early", ErrDamaged)
	}
	i := decodeFrameHead(b, k)
	if i.length == 0 || i.length > MaxFrame || frameHead+int(i.length) > len(b) {
		return i, nil, fmt.Errorf("%w: length of frame", ErrDamaged)
	}
	b = b[:frameHead+int(i.length)]
	if checksum(k.seed, b[4:]) != i.sum {
		return i, nil, fmt.Errorf("%w: checksum of frame", ErrDamaged)
	}
	return i, b[frameHead:], nil
}

// Kind of a part of a frame.
type Kind byte

// Kinds.
const (
	// State is a snapshot of the owner; the first part of a segment.
	State Kind = iota + 1
	// Meta is a change of the owner's state.
	Meta
	// Chunk is a run of messages of a stream.
	Chunk
	// Body is bytes that later chunks of the same frame refer to by its number.
	Body
)

// Part is a part of a frame.
type Part struct {
	Kind   Kind
	Stream uint32 // of a chunk
	First  uint64 // offset of a chunk's first message
	Count  int    // messages of a chunk
	Cost   int    // what a chunk counts for in the size of its stream, in bytes
	Shared int    // bytes of the bodies that a chunk refers to, each counted whole
	Number int    // of a body
	Data   []byte

	size int // of Data, also when that is not there any more
}

func (p Part) next() uint64 { return p.First + uint64(p.Count) }

func (p Part) append(b []byte) []byte {
	b = append(b, byte(p.Kind))
	switch p.Kind {
	case Chunk:
		b = binary.AppendUvarint(b, uint64(p.Stream))
		b = binary.AppendUvarint(b, p.First)
		b = binary.AppendUvarint(b, uint64(p.Count))
		b = binary.AppendUvarint(b, uint64(p.Cost))
		b = binary.AppendUvarint(b, uint64(p.Shared))
	case Body:
		b = binary.AppendUvarint(b, uint64(p.Number))
	case State, Meta:
	}
	b = binary.AppendUvarint(b, uint64(len(p.Data)))
	return append(b, p.Data...)
}

// maxCost is more than a chunk can cost, and fits an int on every machine.
const maxCost = 1<<31 - 1

// parts calls fn for each part of a payload. Data is valid as long as b is.
func parts(b []byte, fn func(Part) error) error {
	d := decoder{b: b}
	for len(d.b) > 0 {
		p := Part{Kind: Kind(d.byte())}
		switch p.Kind {
		case Chunk:
			stream := d.uvarint()
			p.First = d.uvarint()
			count, cost, shared := d.uvarint(), d.uvarint(), d.uvarint()
			if stream > 1<<32-1 || count == 0 || count > 1<<24 || cost > maxCost || shared > maxCost || p.First+count < p.First {
				d.fail("chunk")
			}
			p.Stream, p.Count, p.Cost, p.Shared = uint32(stream), int(count), int(cost), int(shared)
		case Body:
			n := d.uvarint()
			if n > 1<<24 {
				d.fail("body number")
			}
			p.Number = int(n)
		case State, Meta:
		default:
			d.fail("kind of part")
		}
		p.Data = d.bytes(d.uvarint())
		if d.err != nil {
			return d.err
		}
		p.size = len(p.Data)
		if err := fn(p); err != nil {
			return err
		}
	}
	return nil
}

// decoder reads fields from the front of b until the first error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrDamaged, what)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	b := d.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail("ends early")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// Frame is what one Write stores, all or nothing after a crash. The zero value is
// empty and can be used again after Reset.
type Frame struct {
	b     []byte
	parts []Part // chunks, without data
}

// Reset empties the frame and keeps its memory unless that is large.
func (f *Frame) Reset() {
	if cap(f.b) > 1<<20 {
		f.b = nil
	}
	f.b, f.parts = f.b[:0], f.parts[:0]
}

// Add appends a part. The data is copied.
func (f *Frame) Add(p Part) {
	if len(f.b) == 0 {
		f.b = append(f.b, make([]byte, frameHead)...)
	}
	f.b = p.append(f.b)
	if p.Kind == Chunk {
		p.Data, p.size = nil, len(p.Data)
		f.parts = append(f.parts, p)
	}
}

// Size is what the frame takes on disk, in bytes; 0 if it is empty.
func (f *Frame) Size() int { return len(f.b) }
