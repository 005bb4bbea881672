package seglog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const segmentSize = 32 << 10

// owner is a user of the log that counts messages: its state is the next offset of
// each stream.
type owner struct {
	l    *seglog.Log
	next map[uint32]uint64
	done map[uint32]map[uint64]bool // finished, in memory only
	keep func(stream uint32, first uint64) bool
}

func newOwner() *owner {
	return &owner{
		next: make(map[uint32]uint64), done: make(map[uint32]map[uint64]bool),
		keep: func(uint32, uint64) bool { return true },
	}
}

func (o *owner) snapshot() []byte {
	b := []byte{1}
	for s, n := range o.next {
		b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(b, s), n)
	}
	return b
}

func (o *owner) restore(b []byte) error {
	for b = b[1:]; len(b) > 0; b = b[12:] {
		o.next[binary.LittleEndian.Uint32(b)] = binary.LittleEndian.Uint64(b[4:])
	}
	return nil
}

func (o *owner) replay(p seglog.Part) error {
	if p.Kind == seglog.Chunk {
		o.next[p.Stream] = max(o.next[p.Stream], p.First+uint64(p.Count))
	}
	return nil
}

func (o *owner) open(f seglog.Folder) error {
	err := o.openOnly(f)
	if err == nil {
		o.l.Start()
	}
	return err
}

// openOnly leaves it to the caller to begin giving space back.
func (o *owner) openOnly(f seglog.Folder) error {
	var err error
	o.l, err = seglog.Open(f, seglog.Options{
		Logger: slog.New(slog.DiscardHandler), SegmentSize: segmentSize,
		Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay,
		Keep: func(s uint32, first uint64, _ int) bool { return o.keep(s, first) },
		Bodies: func(chunk []byte) ([]int, error) {
			if chunk[0] == 'b' {
				return []int{0}, nil
			}
			return nil, nil
		},
	})
	return err
}

func mustOpen(t testing.TB, d *simdisk.Disk) *owner {
	t.Helper()
	o := newOwner()
	if err := o.open(d.Folder()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.l.Close() })
	return o
}

// text is the content of a message.
func text(stream uint32, offset uint64, size int) string {
	return fmt.Sprintf("%d/%d %s", stream, offset, strings.Repeat("x", size))
}

// write stores count messages of each stream in one frame.
func (o *owner) write(sync bool, size int, streams ...uint32) error {
	var f seglog.Frame
	for _, s := range streams {
		f.Add(seglog.Part{Kind: seglog.Chunk, Stream: s, First: o.next[s], Count: 1, Cost: size, Data: []byte(text(s, o.next[s], size))})
	}
	err := o.l.Write(&f, sync)
	if err == nil {
		for _, s := range streams {
			o.next[s]++
		}
	}
	return err
}

// read returns the messages of a stream, by offset.
func (o *owner) read(t testing.TB, stream uint32) map[uint64]string {
	t.Helper()
	got := make(map[uint64]string)
	last := -1
	err := o.l.Read(stream, 0, 1<<60, func(p seglog.Part, _ seglog.Bodies) error {
		if int(p.First) <= last {
			t.Errorf("stream %d: %d after %d", stream, p.First, last)
		}
		last = int(p.First)
		got[p.First] = string(p.Data)
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatWasWrittenIsReadAfterAnOrderlyEndAndAfterAKill(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		t.Run(fmt.Sprint("orderly ", orderly), func(t *testing.T) {
			d := simdisk.New()
			o := mustOpen(t, d)
			for range 200 {
				if err := o.write(true, 700, 1, 5); err != nil {
					t.Fatal(err)
				}
			}
			if orderly {
				if err := o.l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			p := mustOpen(t, d)
			if p.next[1] != 200 || p.next[5] != 200 {
				t.Errorf("state is %v", p.next)
			}
			for _, s := range []uint32{1, 5} {
				got := p.read(t, s)
				for n := range uint64(200) {
					if got[n] != text(s, n, 700) {
						t.Fatalf("stream %d, message %d: %.20q", s, n, got[n])
					}
				}
			}
		})
	}
}

func TestReadBeginsAtAnOffsetAndPassesOverOthers(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	for i := range 3000 { // more than there are entries in an index
		streams := []uint32{2}
		if i%100 == 0 {
			streams = append(streams, 1)
		}
		if err := o.write(false, 1, streams...); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []uint64{0, 1, 7, 29} {
		var first seglog.Part
		err := o.l.Read(1, from, 30, func(p seglog.Part, _ seglog.Bodies) error { first = p; return seglog.ErrStop }, nil)
		if err != nil || first.First != from {
			t.Errorf("from %d: %d, %v", from, first.First, err)
		}
	}
	for _, from := range []uint64{0, 1023, 1024, 2500, 2999} {
		var first seglog.Part
		err := o.l.Read(2, from, 3000, func(p seglog.Part, _ seglog.Bodies) error { first = p; return seglog.ErrStop }, nil)
		if err != nil || first.First != from {
			t.Errorf("from %d: %d, %v", from, first.First, err)
		}
	}
	n := 0
	err := o.l.Read(2, 100, 110, func(seglog.Part, seglog.Bodies) error { n++; return nil }, nil)
	if err != nil || n != 10 {
		t.Errorf("%d of 10, %v", n, err)
	}
}

func TestFullDiskRefusesAndGoesOnLater(t *testing.T) {
	d := simdisk.New()
	d.Limit(3 * segmentSize)
	o := mustOpen(t, d)
	n := uint64(0)
	for ; ; n++ {
		if err := o.write(true, 900, 1); err != nil {
			if !errors.Is(err, seglog.ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 60 {
		t.Errorf("only %d messages found room", n)
	}
	if err := o.write(true, 900, 1); !errors.Is(err, seglog.ErrFull) {
		t.Errorf("a second time: %v", err)
	}
	if got := o.read(t, 1); len(got) != int(n) {
		t.Errorf("%d of %d can be read on a full disk", len(got), n)
	}
	d.Limit(0)
	if err := o.write(true, 900, 1); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if got := o.read(t, 1); len(got) != int(n)+1 {
		t.Errorf("%d of %d", len(got), n+1)
	}
}

func TestAfterAFailureNothingIsWritten(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	if err := o.write(true, 10, 1); err != nil {
		t.Fatal(err)
	}
	d.FailAfter(1, syscall.EIO) // the sync
	if err := o.write(true, 10, 1); !errors.Is(err, seglog.ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	<-o.l.Failed()
	d.FailAfter(0, nil)
	if err := o.write(true, 10, 1); !errors.Is(err, seglog.ErrFailed) {
		t.Errorf("afterwards: %v", err)
	}
	if got := o.read(t, 1); len(got) < 1 {
		t.Error("nothing can be read any more")
	}
}

func TestSpaceComesBackWhenAllIsFinished(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	for range 500 {
		if err := o.write(false, 900, 1, 2); err != nil {
			t.Fatal(err)
		}
	}
	o.l.Finish(1, 0, 500)
	o.l.Drop(2)
	if err := o.l.Close(); err != nil {
		t.Fatal(err)
	}
	if names := d.Names(); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

func TestDamageIsToldAndTheRestIsRead(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	for range 100 {
		if err := o.write(true, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.l.Close(); err != nil {
		t.Fatal(err)
	}
	first := d.Names()[0]
	d.Change(first, func(b []byte) []byte { b[5000] ^= 4; return b })
	p := mustOpen(t, d)
	var damage []seglog.Damage
	n := 0
	err := p.l.Read(1, 0, 100, func(seglog.Part, seglog.Bodies) error { n++; return nil },
		func(x seglog.Damage) { damage = append(damage, x) })
	if err != nil || n != 99 || len(damage) != 1 || damage[0].Segment != first || damage[0].Offset > 5000 || damage[0].Offset+damage[0].Length < 5000 {
		t.Errorf("%d read, %v, %v", n, damage, err)
	}
	all, err := p.l.Verify(func(string, seglog.Part, seglog.Bodies) {})
	if err != nil || len(all) != 1 || all[0] != damage[0] {
		t.Errorf("verify: %v, %v", all, err)
	}
}

// TestDamageBeforeTheEndOfTheLastSegmentIsNoTornWrite shows that a place that went
// bad after it was synced is not taken for the end of the log.
func TestDamageBeforeTheEndOfTheLastSegmentIsNoTornWrite(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	for range 10 {
		if err := o.write(true, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	d.Change(d.Names()[0], func(b []byte) []byte { b[5000] ^= 4; return b })
	p := mustOpen(t, d) // without an orderly end
	if got := p.read(t, 1); len(got) != 9 || len(p.l.Damage()) != 1 {
		t.Errorf("%d messages, damage %v", len(got), p.l.Damage())
	}
}

func TestContentOfAnEarlierFileIsNoFrame(t *testing.T) {
	d := simdisk.New()
	o := mustOpen(t, d)
	for range 10 {
		if err := o.write(true, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	name := d.Names()[0]
	var old []byte
	d.Change(name, func(b []byte) []byte { old = bytes.Clone(b); return b })
	e := simdisk.New()
	p := mustOpen(t, e)
	for range 4 {
		if err := p.write(true, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	// The same place on the disk, where the frames after the fourth are those of the
	// other file.
	end := bytes.LastIndex(old, []byte(text(1, 4, 900)))
	e.Change(name, func(b []byte) []byte { copy(b[end-100:], old[end-100:]); return b })
	r := mustOpen(t, e)
	if got := r.read(t, 1); len(got) != 4 {
		t.Errorf("%d messages of 4: %v", len(got), r.l.Damage())
	}
}

// TestNothingSyncedIsLost writes, reads, finishes, cuts the power, fills and breaks the
// disk at random, and compares with a plain map.
func TestNothingSyncedIsLost(t *testing.T) {
	for seed := range uint64(400) {
		if msg := torture(t, seed); msg != "" {
			t.Fatalf("seed %d: %s", seed, msg)
		}
	}
}

// world is what a torture run knows.
type world struct {
	t      *testing.T
	random *rand.Rand
	d      *simdisk.Disk
	o      *owner
	synced map[uint32]uint64 // offsets below were synced
	done   map[uint32]map[uint64]bool
}

func (w *world) open() error {
	o := newOwner()
	o.done = w.done
	var err error
	o.l, err = seglog.Open(w.d.Folder(), seglog.Options{
		Logger: slog.New(slog.DiscardHandler), SegmentSize: segmentSize,
		Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay,
		Keep: func(s uint32, first uint64, _ int) bool {
			keeping.Lock()
			defer keeping.Unlock()
			return !w.done[s][first]
		},
		Bodies: func(chunk []byte) ([]int, error) { return []int{int(chunk[0])}, nil },
	})
	if err == nil {
		o.l.Start()
	}
	w.o = o
	return err
}

// write stores one frame with a body that its chunks share.
func (w *world) write() error {
	var f seglog.Frame
	sync := w.random.IntN(3) > 0
	body := []byte(strings.Repeat("b", w.random.IntN(3000)))
	number := w.random.IntN(200)
	f.Add(seglog.Part{Kind: seglog.Body, Number: number, Data: body})
	var streams []uint32
	for s := range uint32(3) {
		if w.random.IntN(2) == 0 {
			continue
		}
		streams = append(streams, s)
		data := append([]byte{byte(number)}, fmt.Sprintf("%d/%d/%d", s, w.o.next[s], len(body))...)
		f.Add(seglog.Part{Kind: seglog.Chunk, Stream: s, First: w.o.next[s], Count: 1, Cost: len(body), Data: data})
	}
	if len(streams) == 0 {
		return nil
	}
	err := w.o.l.Write(&f, sync)
	if err != nil {
		return err
	}
	for _, s := range streams {
		w.o.next[s]++
	}
	if sync {
		for s := range uint32(3) {
			w.synced[s] = w.o.next[s]
		}
	}
	return nil
}
