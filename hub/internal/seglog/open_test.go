package seglog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// put makes a file.
func put(t *testing.T, d *simdisk.Disk, name string, content []byte) {
	t.Helper()
	f, err := d.Folder().Create(name, int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	d.Change(name, func([]byte) []byte { return bytes.Clone(content) })
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func contents(d *simdisk.Disk) map[string]string {
	all := make(map[string]string)
	for _, name := range d.Names() {
		d.Change(name, func(b []byte) []byte { all[name] = string(b); return b })
	}
	return all
}

// A log in a form that is not known must neither be read as if it were damaged, nor be
// written to, nor lose what a start would otherwise remove.
func TestLogOfAnotherVersionIsRefusedAndLeftAlone(t *testing.T) {
	for _, version := range []byte{1, 3} {
		d := simdisk.New()
		o := mustOpen(t, d)
		if err := o.write(true, 10, 1); err != nil {
			t.Fatal(err)
		}
		if err := o.l.Close(); err != nil {
			t.Fatal(err)
		}
		put(t, d, "0000000000000002.seg", seglog.OtherVersion(version, 2, 2))
		put(t, d, "0000000000000002-0000000000000005.seg", seglog.OtherVersion(version, 2, 5))
		put(t, d, "new.tmp", []byte("begun"))
		before := contents(d)
		for _, readOnly := range []bool{false, true} {
			_, err := seglog.Open(d.Folder(), seglog.Options{
				Restore: o.restore, Replay: o.replay, Snapshot: o.snapshot, ReadOnly: readOnly,
			})
			if !errors.Is(err, seglog.ErrVersion) || errors.Is(err, seglog.ErrDamaged) {
				t.Errorf("version %d, read only %v: %v", version, readOnly, err)
			}
		}
		if after := contents(d); !maps.Equal(before, after) {
			t.Errorf("version %d: files were %v, are %v", version,
				slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
		}
	}
}

// A changed version byte alone is damage: the head's checksum does not fit.
func TestHeadWithADamagedVersionIsDamaged(t *testing.T) {
	b := seglog.HeadOf(1, 1, 7, 9)
	b[7]++
	if _, err := seglog.DecodeHead(b); !errors.Is(err, seglog.ErrDamaged) || errors.Is(err, seglog.ErrVersion) {
		t.Errorf("got %v", err)
	}
}

// imitation is a body full of what looks like the heads of frames with any sequence
// number that the segment may have, each as long as a frame can be.
func imitation(size int) []byte {
	var b []byte
	for n := uint64(0); len(b) < size; n++ {
		if n%500 == 0 {
			b = append(b, 0) // for each alignment
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(n)) // checksum
		b = binary.LittleEndian.AppendUint32(b, 100<<10)   // length
		b = binary.LittleEndian.AppendUint64(b, 1+n%200)   // sequence number
	}
	return b
}

// After a damaged place the search for the next frame must not look closer at what
// senders have put into messages.
func TestSearchForTheNextFrameIsLinear(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		const size = 1 << 20
		d := simdisk.New()
		o := newOwner()
		w := &watched{Folder: d.Folder()}
		var err error
		o.l, err = seglog.Open(w, seglog.Options{Logger: slog.New(slog.DiscardHandler), SegmentSize: size, Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay})
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(6) {
			var f seglog.Frame
			f.Add(seglog.Part{Kind: seglog.Chunk, Stream: 1, First: n, Count: 1, Cost: 1, Data: imitation(100 << 10)})
			if err := o.l.Write(&f, n != 3); err != nil {
				t.Fatal(err)
			}
		}
		if orderly {
			if err := o.l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		// The heads of three frames, one after the other.
		d.Change(d.Names()[0], func(b []byte) []byte {
			for _, at := range []int{1, 2, 3} {
				b[at*(100<<10)+1024]++
			}
			return b
		})
		w.counts()
		o.l, err = seglog.Open(w, seglog.Options{Logger: slog.New(slog.DiscardHandler), SegmentSize: size, Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(o.read(t, 1)); got != 3 {
			t.Errorf("orderly %v: %d of 3 messages can be read", orderly, got)
		}
		if _, read, _ := w.counts(); read > 12*size {
			t.Errorf("orderly %v: %d bytes were read, of a segment of %d", orderly, read, size)
		}
		if err := o.l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// However many segments there are, few files are open: at a start, while all is
// verified, and when many segments are written anew.
func TestFewFilesAreOpenAtATime(t *testing.T) {
	const n = 25_000
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New()
		o := mustOpen(t, d)
		for range n {
			if err := o.write(false, 100, 1); err != nil {
				t.Fatal(err)
			}
		}
		if segments := o.l.Usage().Segments; segments < 100 {
			t.Fatalf("only %d segments", segments)
		}
		d.PowerCut(rand.New(rand.NewPCG(1, 1))) // the last has no footer
		w := &watched{Folder: d.Folder()}
		o = newOwner()
		o.keep = func(_ uint32, first uint64) bool { return first%100 == 0 }
		if err := o.openOnly(w); err != nil {
			t.Fatal(err)
		}
		defer o.l.Close()
		if most, _, _ := w.counts(); most > 1 {
			t.Errorf("a start has had %d files open", most)
		}
		damage, err := o.l.Verify(func(string, seglog.Part, seglog.Bodies) {})
		if err != nil || len(damage) > 0 {
			t.Errorf("verify: %v, %v", damage, err)
		}
		if most, _, _ := w.counts(); most > 1 {
			t.Errorf("verifying has had %d files open", most)
		}
		for i := range o.next[1] {
			if i%100 > 0 {
				o.l.Finish(1, i, i+1)
			}
		}
		o.l.Start()
		synctest.Wait()
		most, _, rewritten := w.counts()
		if segments := o.l.Usage().Segments; segments > 20 || rewritten == 0 {
			t.Errorf("%d segments are left after %d were written anew", segments, rewritten)
		}
		if most > 40 {
			t.Errorf("giving space back has had %d files open", most)
		}
	})
}
