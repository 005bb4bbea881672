package seglog_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

const benchSize = 400

// BenchmarkWrite is one frame at a time.
func BenchmarkWrite(b *testing.B) {
	f, err := seglog.Dir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	o := newOwner()
	o.l, err = seglog.Open(f, seglog.Options{Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay})
	if err != nil {
		b.Fatal(err)
	}
	o.l.Start()
	defer o.l.Close()
	for b.Loop() {
		if err := o.write(true, benchSize, 1); err != nil {
			b.Fatal(err)
		}
	}
}
