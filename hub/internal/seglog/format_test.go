package seglog_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

var exampleParts = []seglog.Part{
	{Kind: seglog.State, Data: []byte("state")},
	{Kind: seglog.Meta, Data: []byte("change")},
	{Kind: seglog.Body, Number: 3, Data: []byte("body")},
	{Kind: seglog.Chunk, Stream: 4, First: 1 << 40, Count: 2, Cost: 300, Shared: 600, Data: []byte("chunk")},
}

func TestEveryChangedBitOfAFrameIsNoticed(t *testing.T) {
	good := seglog.FrameOf(9, exampleParts...)
	if err := seglog.DecodeFrame(good, 9); err != nil {
		t.Fatal(err)
	}
	if err := seglog.DecodeFrame(good, 8); !errors.Is(err, seglog.ErrDamaged) {
		t.Errorf("frame of another segment: %v", err)
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if err := seglog.DecodeFrame(b, 9); err == nil && i/8 < len(bytes.TrimRight(good, "\x00")) {
			t.Fatalf("bit %d", i)
		}
	}
}

func TestEveryChangedBitOfAFooterIsNoticed(t *testing.T) {
	good := seglog.FooterOf()
	if err := seglog.DecodeFooter(good); err != nil {
		t.Fatal(err)
	}
	for i := range (len(good) - 4) * 8 { // the last bytes are not used
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if err := seglog.DecodeFooter(b); err == nil {
			t.Fatalf("bit %d", i)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(seglog.FrameOf(0, exampleParts...), uint32(0))
	f.Add(seglog.FrameOf(7, exampleParts[3]), uint32(7))
	f.Add(seglog.FrameOf(7, exampleParts[2])[:24], uint32(7))
	f.Fuzz(func(_ *testing.T, b []byte, seed uint32) { _ = seglog.DecodeFrame(b, seed) })
}

func FuzzDecodeParts(f *testing.F) {
	f.Add(seglog.FrameOf(0, exampleParts...)[24:])
	for _, p := range exampleParts {
		f.Add(seglog.FrameOf(0, p)[24:])
	}
	f.Add(seglog.FrameOf(0, seglog.Part{Kind: seglog.Chunk, Stream: 1<<32 - 1, First: 1<<64 - 2, Count: 1, Cost: 1<<31 - 1, Shared: 1<<31 - 1})[24:])
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := seglog.Parts(b)
		if err != nil {
			return
		}
		third, err := seglog.Parts(again)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x became %x, %v", again, third, err)
		}
	})
}

func FuzzDecodeHead(f *testing.F) {
	f.Add(seglog.HeadOf(1, 1, 7, 9))
	f.Add(seglog.HeadOf(1, 4, 7, 9))
	f.Add(seglog.OtherVersion(1, 1, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := seglog.DecodeHead(b)
		if err == nil && !bytes.Equal(again[:40], b[:40]) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzDecodeFooter(f *testing.F) {
	f.Add(seglog.FooterOf())
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = seglog.DecodeFooter(b)
		_ = seglog.DecodeSummary(b)
		if n, err := seglog.DecodeEntries(b); err == nil && n > len(b) {
			panic("more entries than bytes")
		}
	})
}

// The form on disk must not change without a new version: a device that is updated
// has segments of the old program.
func TestFormOnDiskIsThatOfItsVersion(t *testing.T) {
	want, err := os.ReadFile("testdata/segment-2.hex")
	if err != nil {
		t.Fatal(err)
	}
	got := hex.Dump(seglog.SegmentOf(0x1122334455667788, exampleParts...))
	if got != string(want) {
		t.Errorf("the form is now\n%s", got)
	}
}

// FuzzOpen reads a segment that may be anything.
func FuzzOpen(f *testing.F) {
	good := seglog.SegmentOf(9, exampleParts...)
	f.Add(good)
	f.Add(good[:len(good)-48])                      // without its tail
	f.Add(append(bytes.Clone(good[:150]), good...)) // torn
	for _, at := range []int{3, 7, 30, 70, 100, 150, 200} {
		b := bytes.Clone(good)
		b[at] ^= 4
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := simdisk.New()
		put(t, d, "0000000000000003.seg", b)
		l, err := seglog.Open(d.Folder(), seglog.Options{
			Logger: slog.New(slog.DiscardHandler), ReadOnly: true,
			Restore: func([]byte) error { return nil }, Replay: func(seglog.Part) error { return nil },
		})
		if err != nil {
			if !errors.Is(err, seglog.ErrVersion) && !errors.Is(err, seglog.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if _, err := l.Verify(func(string, seglog.Part, seglog.Bodies) {}); err != nil {
			t.Fatal(err)
		}
		if err := l.Read(4, 0, 1<<63, func(seglog.Part, seglog.Bodies) error { return nil }, nil); err != nil && !errors.Is(err, seglog.ErrDamaged) {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
