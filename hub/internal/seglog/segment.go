package seglog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// segment is one file of the log. What does not change after it is made needs no
// lock; the rest is guarded by Log.mu.
type segment struct {
	head
	key
	name string
	file File // nil while nobody uses it
	refs int  // who does

	size    int64 // of the file
	end     int64 // of its frames
	last    uint64
	sealed  bool
	damaged bool // not to be written anew: it is evidence
	extents map[uint32]*extent
	left    uint64 // messages that are not finished
	state   []byte // of its footer
	count   uint64 // messages
	// rewritten is left when compaction wrote the segment. Chunks are kept whole, so
	// doing it again is of use only when much less is left. It is in the footer, so
	// that a start does not forget it.
	rewritten uint64
	told      uint64 // left when the janitor was last told how little that is
	counted   int64  // the frame whose head is counted in an extent
}

// run is offsets from lo up to but not including hi.
type run struct{ lo, hi uint64 }

// entry tells where a reader may begin: the chunk with this first offset is in the
// frame at this position.
type entry struct {
	first uint64
	pos   int64
}

// maxEntries bounds the entries of an extent; a reader goes over a few frames more.
const maxEntries = 1024

// extent is what a segment holds of one stream. Guarded by Log.mu.
type extent struct {
	seg     *segment
	stream  uint32
	runs    []run // of offsets, ascending
	count   uint64
	left    uint64 // messages that are not finished
	cost    int64
	own     int64 // bytes of its chunks
	shared  int64 // bytes of the bodies that they refer to, each counted whole
	divided int64 // the same, each body divided by how many share it

	entries []entry // of a segment without footer
	skip    int     // frames that got no entry since the last that did
	every   int     // one frame in so many gets an entry

	// Where a footer has the entries.
	listAt  int64
	listLen int64
	listSum uint32
}

func (x *extent) first() uint64 { return x.runs[0].lo }
func (x *extent) next() uint64  { return x.runs[len(x.runs)-1].hi }

// live is about how many of n bytes are not finished.
func (x *extent) live(n int64) int64 {
	if x.count == 0 {
		return 0
	}
	return int64(float64(n) * float64(x.left) / float64(x.count))
}

// overlap is how many offsets from lo to hi lie in it.
func (x *extent) overlap(lo, hi uint64) uint64 {
	var n uint64
	for _, r := range x.runs {
		if a, b := max(lo, r.lo), min(hi, r.hi); a < b {
			n += b - a
		}
	}
	return n
}

// add takes in a chunk of the frame at pos.
func (s *segment) add(p Part, pos int64) *extent {
	x := s.extents[p.Stream]
	if x == nil {
		x = &extent{seg: s, stream: p.Stream, every: 1}
		s.extents[p.Stream] = x
	}
	if n := len(x.runs); n > 0 && x.runs[n-1].hi == p.First {
		x.runs[n-1].hi = p.next()
	} else {
		x.runs = append(x.runs, run{p.First, p.next()})
	}
	n := uint64(p.Count)
	x.count += n
	x.left += n
	s.left += n
	s.count += n
	x.cost += int64(p.Cost)
	x.own += int64(p.size)
	x.shared += int64(p.Shared)
	x.divided += int64(max(0, min(p.Cost-p.size, p.Shared)))
	if pos != s.counted {
		s.counted = pos
		x.own += frameHead
	}
	x.index(p.First, pos)
	return x
}

// live is about how many bytes would be left if the segment were written anew. A body
// stays until the last of those who share it has taken it. Which ones share what is
// not known: it is at least what the one with the most left refers to, and at least
// what all count for together.
func (s *segment) live() int64 {
	var own, most, all int64
	for _, x := range s.extents {
		own += x.live(x.own)
		most = max(most, x.live(x.shared))
		all += x.live(x.divided)
	}
	return own + max(most, all)
}

func (x *extent) index(first uint64, pos int64) {
	if n := len(x.entries); n > 0 {
		if x.skip++; x.entries[n-1].pos == pos || x.skip < x.every {
			return
		}
	}
	x.skip = 0
	x.entries = append(x.entries, entry{first, pos})
	if len(x.entries) < maxEntries {
		return
	}
	for i := range maxEntries / 2 {
		x.entries[i] = x.entries[2*i]
	}
	x.entries = x.entries[:maxEntries/2]
	x.every *= 2
}

// finish counts offsets as finished.
func (x *extent) finish(lo, hi uint64) {
	n := min(x.overlap(lo, hi), x.left)
	x.left -= n
	x.seg.left -= n
}

// footerSpace is at least what the footer takes, beside the state.
func (s *segment) footerSpace() int64 {
	n := int64(tailSize + 64)
	for _, x := range s.extents {
		n += 96 + int64(len(x.entries))*15 + int64(len(x.runs))*20
	}
	return n
}

// The footer: lists of entries, one a stream, then the summary, then the tail.
const footerVersion = 2

// encodeFooter makes the footer of a segment whose frames end at s.end, and notes
// where the lists will be.
func (s *segment) encodeFooter(state []byte) []byte {
	list := make([]*extent, 0, len(s.extents))
	for _, x := range s.extents {
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b *extent) int { return cmp.Compare(a.stream, b.stream) })
	var b []byte
	for _, x := range list {
		from := len(b)
		var last entry
		for _, e := range x.entries {
			b = binary.AppendUvarint(b, e.first-last.first)
			b = binary.AppendUvarint(b, uint64(e.pos-last.pos))
			last = e
		}
		x.listAt, x.listLen, x.listSum = s.end+int64(from), int64(len(b)-from), checksum(s.seed, b[from:])
	}
	at := len(b)
	b = append(b, footerVersion)
	b = binary.AppendUvarint(b, s.last)
	b = binary.AppendUvarint(b, s.rewritten)
	b = binary.AppendUvarint(b, uint64(len(state)))
	b = append(b, state...)
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, x := range list {
		b = binary.AppendUvarint(b, uint64(x.stream))
		for _, n := range []int64{x.cost, x.own, x.shared, x.divided} {
			b = binary.AppendUvarint(b, uint64(n))
		}
		b = binary.AppendUvarint(b, uint64(len(x.runs)))
		last := uint64(0)
		for _, r := range x.runs {
			b = binary.AppendUvarint(b, r.lo-last)
			b = binary.AppendUvarint(b, r.hi-r.lo)
			last = r.hi
		}
		b = binary.AppendUvarint(b, uint64(x.every))
		b = binary.AppendUvarint(b, uint64(x.listLen))
		b = binary.LittleEndian.AppendUint32(b, x.listSum)
	}
	length, sum := len(b)-at, checksum(s.seed, b[at:])
	tail := len(b)
	b = append(b, magicTail...)
	for _, v := range []uint64{s.id, uint64(s.end), uint64(s.end) + uint64(at)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(length))
	b = binary.LittleEndian.AppendUint32(b, sum)
	b = binary.LittleEndian.AppendUint32(b, checksum(s.seed, b[tail:]))
	return append(b, make([]byte, tailSize-(len(b)-tail))...)
}

// tail is the end of a segment that has a footer.
type tail struct {
	end, summary int64
	length       int64
	sum          uint32
}

func (s *segment) decodeTail(b []byte) (tail, error) {
	if len(b) != tailSize || string(b[:len(magicTail)]) != magicTail {
		return tail{}, fmt.Errorf("%w: no footer", ErrDamaged)
	}
	if binary.LittleEndian.Uint32(b[40:]) != checksum(s.seed, b[:40]) || binary.LittleEndian.Uint64(b[8:]) != s.id {
		return tail{}, fmt.Errorf("%w: checksum of the end", ErrDamaged)
	}
	t := tail{
		int64(binary.LittleEndian.Uint64(b[16:])), int64(binary.LittleEndian.Uint64(b[24:])),
		int64(binary.LittleEndian.Uint32(b[32:])), binary.LittleEndian.Uint32(b[36:]),
	}
	if t.end < headSize || t.summary < t.end || t.summary+t.length != s.size-tailSize {
		return tail{}, fmt.Errorf("%w: places in the footer", ErrDamaged)
	}
	return t, nil
}

// readFooter makes the segment one that has a footer, if it has.
func (s *segment) readFooter() error {
	b := make([]byte, tailSize)
	if s.size < headSize+tailSize {
		return fmt.Errorf("%w: no footer", ErrDamaged)
	}
	if _, err := s.file.ReadAt(b, s.size-tailSize); err != nil {
		return err
	}
	t, err := s.decodeTail(b)
	if err != nil {
		return err
	}
	b = make([]byte, t.length)
	if _, err := s.file.ReadAt(b, t.summary); err != nil {
		return err
	}
	if checksum(s.seed, b) != t.sum {
		return fmt.Errorf("%w: checksum of the footer", ErrDamaged)
	}
	if err := s.decodeSummary(b, t); err != nil {
		s.extents, s.left, s.count = make(map[uint32]*extent), 0, 0
		return err
	}
	s.end, s.sealed = t.end, true
	return nil
}

func (s *segment) decodeSummary(b []byte, t tail) error {
	d := decoder{b: b}
	if d.byte() != footerVersion {
		d.fail("version of the footer")
	}
	last, rewritten := d.uvarint(), d.uvarint()
	state := d.bytes(d.uvarint())
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("too many streams")
		n = 0
	}
	at := t.end
	s.extents, s.left, s.count = make(map[uint32]*extent, n), 0, 0
	for range n {
		stream := d.uvarint()
		x := &extent{seg: s, stream: uint32(stream)}
		for _, n := range []*int64{&x.cost, &x.own, &x.shared, &x.divided} {
			*n = int64(d.uvarint() & (1<<62 - 1))
		}
		runs, lo := d.uvarint(), uint64(0)
		if runs == 0 || runs > uint64(len(d.b)) || stream > 1<<32-1 || s.extents[x.stream] != nil {
			d.fail("extent")
			break
		}
		for range runs {
			lo += d.uvarint()
			length := d.uvarint()
			x.runs = append(x.runs, run{lo, lo + length})
			x.count += length
			lo += length
		}
		x.left = x.count
		s.left += x.count
		x.every = int(d.uvarint())
		x.listAt, x.listLen = at, int64(d.uvarint())
		if x.listLen < 0 || x.listLen > t.summary-at {
			d.fail("extent")
			break
		}
		at += x.listLen
		if sum := d.bytes(4); len(sum) == 4 {
			x.listSum = binary.LittleEndian.Uint32(sum)
		}
		if d.err != nil {
			break
		}
		s.extents[x.stream] = x
	}
	if d.err != nil {
		return d.err
	}
	s.last, s.rewritten = last, rewritten
	if len(state) > 0 {
		s.state = append([]byte(nil), state...)
	}
	return nil
}

// readEntries returns the entries that the footer has. It reads from the file.
func (x *extent) readEntries() ([]entry, error) {
	b := make([]byte, x.listLen)
	if _, err := x.seg.file.ReadAt(b, x.listAt); err != nil {
		return nil, err
	}
	if checksum(x.seg.seed, b) != x.listSum {
		return nil, fmt.Errorf("%w: checksum of the index of stream %d", ErrDamaged, x.stream)
	}
	return decodeEntries(b, x.seg.end)
}

func decodeEntries(b []byte, end int64) ([]entry, error) {
	d := decoder{b: b}
	list := make([]entry, 0, min(len(b)/2, maxEntries))
	var e entry
	for len(d.b) > 0 {
		e.first += d.uvarint()
		e.pos += int64(d.uvarint())
		if d.err == nil && (e.pos < headSize || e.pos >= end) {
			d.fail("position in the index")
		}
		if d.err != nil {
			return nil, d.err
		}
		list = append(list, e)
	}
	return list, nil
}
