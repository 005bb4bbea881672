package seglog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// keeping guards world.done, which the log's own goroutine looks at.
var keeping sync.Mutex

// torture returns what went wrong.
func torture(t *testing.T, seed uint64) string {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 2)), d: simdisk.New(),
		synced: make(map[uint32]uint64), done: make(map[uint32]map[uint64]bool),
	}
	for s := range uint32(3) {
		w.done[s] = make(map[uint64]bool)
	}
	if err := w.open(); err != nil {
		return err.Error()
	}
	defer func() { _ = w.o.l.Close() }()
	for range 150 {
		if msg := w.step(); msg != "" {
			return msg
		}
	}
	w.d.Limit(0)
	w.d.FailAfter(0, nil)
	if msg := w.restart(w.random.IntN(2) == 0); msg != "" {
		return msg
	}
	damage, err := w.o.l.Verify(func(string, seglog.Part, seglog.Bodies) {})
	if err != nil || len(damage) > 0 {
		return fmt.Sprint("verify: ", damage, err)
	}
	return ""
}

func (w *world) step() string {
	switch n := w.random.IntN(40); {
	case n < 28:
		err := w.write()
		switch {
		case errors.Is(err, seglog.ErrFull):
			w.d.Limit(0)
		case errors.Is(err, seglog.ErrFailed):
			w.d.FailAfter(0, nil)
			return w.restart(true)
		case err != nil:
			return err.Error()
		}
	case n < 35:
		w.finish()
	case n < 36:
		w.d.Limit(w.d.Used() + int64(w.random.IntN(2*segmentSize)))
	case n < 37:
		w.d.FailAfter(w.random.IntN(20), syscall.EIO)
	case n < 38:
		return w.restart(true)
	case n < 39:
		return w.restart(false)
	default:
		return w.check()
	}
	return ""
}

// finish finishes a run of messages that are on disk.
func (w *world) finish() {
	s := uint32(w.random.IntN(3))
	if w.o.next[s] == 0 {
		return
	}
	from := w.random.Uint64N(w.o.next[s])
	keeping.Lock()
	defer keeping.Unlock()
	for o := from; o < min(from+uint64(w.random.IntN(30)), w.synced[s]); o++ {
		if !w.done[s][o] {
			w.done[s][o] = true
			w.o.l.Finish(s, o, o+1)
		}
	}
}

// restart opens the log anew, after a power cut or a kill of the process.
func (w *world) restart(cut bool) string {
	next := w.o.next
	if err := w.o.l.Close(); err != nil && w.o.l.Err() == nil {
		cut = true // its end went wrong
	}
	w.d.FailAfter(0, nil)
	if cut {
		w.d.PowerCut(w.random)
	}
	w.d.Limit(0)
	if err := w.open(); err != nil {
		return fmt.Sprint("open: ", err)
	}
	if d := w.o.l.Damage(); len(d) > 0 {
		return fmt.Sprint("taken for damage: ", d)
	}
	for s := range uint32(3) {
		if got := w.o.next[s]; got < w.synced[s] || got > next[s]+1 {
			return fmt.Sprintf("stream %d goes on at %d, %d were synced, %d written", s, got, w.synced[s], next[s])
		}
		for o := range w.done[s] {
			w.o.l.Finish(s, o, o+1)
		}
		w.synced[s] = w.o.next[s]
	}
	return w.check()
}

// check reads everything.
func (w *world) check() string {
	for s := range uint32(3) {
		seen := make(map[uint64]bool)
		last, problem := int64(-1), ""
		err := w.o.l.Read(s, 0, w.o.next[s], func(p seglog.Part, bodies seglog.Bodies) error {
			var stream uint32
			var offset uint64
			var size int
			if _, err := fmt.Sscanf(string(p.Data[1:]), "%d/%d/%d", &stream, &offset, &size); err != nil ||
				stream != s || offset != p.First || int64(offset) <= last {
				problem = fmt.Sprintf("stream %d has %q at %d after %d", s, p.Data, p.First, last)
			}
			if body, ok := bodies[int(p.Data[0])]; !ok || len(body) != size {
				problem = fmt.Sprintf("stream %d, message %d: body of %d bytes, not %d", s, p.First, len(body), size)
			}
			last = int64(p.First)
			seen[p.First] = true
			return nil
		}, func(d seglog.Damage) { problem = d.String() })
		if err != nil {
			return err.Error()
		}
		if problem != "" {
			return problem
		}
		for o := range w.synced[s] {
			if !seen[o] && !w.done[s][o] {
				return fmt.Sprintf("stream %d: message %d of %d is lost", s, o, w.synced[s])
			}
		}
	}
	return ""
}
