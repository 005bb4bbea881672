package seglog

import "encoding/binary"

// DecodeFrame decodes a frame and its parts.
func DecodeFrame(b []byte, seed uint32) error {
	_, payload, err := decodeFrame(b, key{seed, uint64(seed) << 40})
	if err != nil {
		return err
	}
	return parts(payload, func(Part) error { return nil })
}

// Parts decodes a payload and returns it encoded again.
func Parts(b []byte) ([]byte, error) {
	var again []byte
	err := parts(b, func(p Part) error { again = p.append(again); return nil })
	return again, err
}

// FrameOf makes a frame.
func FrameOf(seed uint32, list ...Part) []byte {
	var f Frame
	for _, p := range list {
		f.Add(p)
	}
	return finishFrame(f.b, key{seed, uint64(seed) << 40}, 7, 6)
}

// DecodeHead decodes the head of a segment and, if it is good, encodes it again.
func DecodeHead(b []byte) ([]byte, error) {
	h, err := decodeHead(b)
	return h.encode(), err
}

// HeadOf makes the head of a segment.
func HeadOf(from, to, id, first uint64) []byte {
	return head{number{from, to}, id, first, from != to}.encode()
}

// FooterOf makes the footer of a segment with two streams.
func FooterOf() []byte {
	s := newSegment(head{number: number{1, 1}}, nil)
	s.end = 4096
	for i := range uint64(20) {
		s.add(Part{Kind: Chunk, Stream: uint32(i % 2), First: i / 2 * 3, Count: 2, Cost: 9}, headSize+int64(i)*100)
	}
	return s.encodeFooter([]byte("state"))
}

// SegmentOf makes a segment with one frame of these parts, and a footer.
func SegmentOf(id uint64, list ...Part) []byte {
	s := newSegment(head{number{3, 3}, id, 41, false}, nil)
	var f Frame
	for _, p := range list {
		f.Add(p)
	}
	b := append(s.encode(), finishFrame(f.b, s.key, s.first, 40)...)
	for _, p := range f.parts {
		s.add(p, headSize)
	}
	s.end, s.last = int64(len(b)), s.first
	return append(b, s.encodeFooter([]byte("state"))...)
}

// OtherVersion makes the head of a segment that another version has written.
func OtherVersion(v byte, from, to uint64) []byte {
	b := head{number{from, to}, 1, 1, false}.encode()
	b[len(magic)] = v
	binary.LittleEndian.PutUint32(b[48:], checksum(0, b[:48]))
	return b
}

// DecodeFooter decodes the footer of a segment, and its indexes.
func DecodeFooter(b []byte) error {
	s := newSegment(head{number: number{1, 1}}, memory(append(make([]byte, 4096), b...)))
	s.size = 4096 + int64(len(b))
	if err := s.readFooter(); err != nil {
		return err
	}
	for _, x := range s.extents {
		if _, err := x.readEntries(); err != nil {
			return err
		}
		x.live(x.cost)
		x.overlap(0, 1<<63)
	}
	return nil
}

// DecodeSummary decodes the part of a footer that a checksum protects.
func DecodeSummary(b []byte) error {
	s := newSegment(head{number: number{1, 1}}, nil)
	return s.decodeSummary(b, tail{end: 4096, summary: 1 << 20})
}

// DecodeEntries decodes an index.
func DecodeEntries(b []byte) (int, error) {
	list, err := decodeEntries(b, 1<<20)
	return len(list), err
}

type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) { return copy(b, m[at:]), nil }
func (m memory) WriteAt([]byte, int64) (int, error)     { return 0, ErrClosed }
func (m memory) Close() error                           { return nil }
func (m memory) Sync() error                            { return nil }
func (m memory) Truncate(int64) error                   { return nil }
func (m memory) Size() (int64, error)                   { return int64(len(m)), nil }
