package seglog_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// share stores a message that several streams share.
func (o *owner) share(size int, streams ...uint32) error {
	var f seglog.Frame
	f.Add(seglog.Part{Kind: seglog.Body, Data: bytes.Repeat([]byte{'x'}, size)})
	for _, s := range streams {
		data := binary.AppendUvarint([]byte{'b'}, o.next[s])
		f.Add(seglog.Part{
			Kind: seglog.Chunk, Stream: s, First: o.next[s], Count: 1,
			Cost: len(data) + size/len(streams), Shared: size, Data: data,
		})
	}
	if err := o.l.Write(&f, false); err != nil {
		return err
	}
	for _, s := range streams {
		o.next[s]++
	}
	return nil
}

// When one of many endpoints is dead, what the others have taken gives nothing back:
// the bodies stay for the dead one.
func TestSharedBodiesThatStayAreNotWrittenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{Folder: simdisk.New().Folder()}
		var o *owner
		for start := range 2 {
			o = newOwner()
			o.keep = func(s uint32, _ uint64) bool { return s == 4 }
			if err := o.open(w); err != nil {
				t.Fatal(err)
			}
			if start == 0 {
				for range 500 {
					if err := o.share(900, 1, 2, 3, 4); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := o.l.Usage()
			for s := range uint32(3) {
				o.l.Finish(s+1, 0, 500)
			}
			synctest.Wait()
			if _, _, n := w.counts(); n > 0 || o.l.Usage().Segments != before.Segments {
				t.Errorf("start %d: %d segments of %d were written anew", start, n, before.Segments)
			}
			if start == 1 { // the dead one has taken most, too
				o.keep = func(s uint32, first uint64) bool { return s == 4 && first >= 400 }
				o.l.Finish(4, 0, 400)
				synctest.Wait()
				if u := o.l.Usage(); u.Bytes > 200<<10 {
					t.Errorf("%d bytes are left", u.Bytes)
				}
			}
			if err := o.l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is written anew without a gain, since chunks are kept whole, is not written
// anew again after each start.
func TestWhatWasWrittenAnewIsRememberedOverAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{Folder: simdisk.New().Folder()}
		kept := func(_ uint32, first uint64) bool { return first%8 == 0 }
		for start := range 3 {
			o := newOwner()
			if err := o.open(w); err != nil {
				t.Fatal(err)
			}
			if start == 0 {
				for range 500 {
					if err := o.write(false, 900, 1); err != nil {
						t.Fatal(err)
					}
				}
			}
			// Most of each segment is finished, and yet all chunks are to be kept.
			for i := range o.next[1] {
				if !kept(1, i) {
					o.l.Finish(1, i, i+1)
				}
			}
			synctest.Wait()
			if _, _, n := w.counts(); start == 0 && n == 0 || start > 0 && n > 0 {
				t.Errorf("start %d: %d segments were written anew", start, n)
			}
			if err := o.l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Each run leaves a small segment. That they were joined before must not keep them from
// being joined again.
func TestManyRunsLeaveFewSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New()
		const runs = 600
		for range runs {
			o := newOwner()
			if err := o.open(d.Folder()); err != nil {
				t.Fatal(err)
			}
			if err := o.write(true, 10, 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := o.l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(d.Names()); n > 40 {
			t.Errorf("%d segments after %d runs", n, runs)
		}
		o := mustOpen(t, d)
		if n := len(o.read(t, 1)); n != runs {
			t.Errorf("%d messages of %d runs", n, runs)
		}
	})
}
