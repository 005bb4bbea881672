package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

const diskSegments = 64 << 10

func onDisk(t *testing.T, d *simdisk.Disk, o queue.Options) *queue.Queue {
	t.Helper()
	o.SegmentSize = diskSegments
	return newQueue(t, &place{folder: d.Folder}, o)
}

// all reads and settles everything of a queue.
func all(t *testing.T, r *queue.Reader) []*queue.Entry {
	t.Helper()
	var list []*queue.Entry
	for {
		some := read(t, r, 0, 100)
		if len(some) == 0 {
			return list
		}
		r.Settle(some...)
		list = append(list, some...)
	}
}

func TestFullDiskRefusesDeliversAndGoesOn(t *testing.T) {
	for name, o := range map[string]queue.Options{
		"no more segments": {MinFree: -1},
		"little is left":   {MinFree: 2 * diskSegments},
	} {
		t.Run(name, func(t *testing.T) {
			d := simdisk.New()
			d.Limit(5 * diskSegments)
			q := onDisk(t, d, o)
			n := 0
			for ; n < 1000; n++ {
				if err := tryAppend(q, large(fmt.Sprint("m", n)), to("e", 0)); err != nil {
					if !errors.Is(err, seglog.ErrFull) || errors.Is(err, queue.ErrFull) {
						t.Fatal(err)
					}
					break
				}
			}
			if n < 100 || n == 1000 {
				t.Fatalf("refused after %d", n)
			}
			r := q.Reader("e")
			if got := len(all(t, r)); got != n {
				t.Errorf("%d of %d delivered", got, n)
			}
			d.Limit(0)
			mustAppend(t, q, "again", to("e", 0))
			if got := bodies(all(t, r)); got != "again" {
				t.Errorf("then %s", got)
			}
		})
	}
}

func TestBrokenDiskEndsEverything(t *testing.T) {
	d := simdisk.New()
	q := onDisk(t, d, queue.Options{})
	mustAppend(t, q, "first", to("e", 0))
	d.FailAfter(0, syscall.EIO)
	if err := tryAppend(q, msg("second"), to("e", 0)); !errors.Is(err, seglog.ErrFailed) {
		t.Errorf("got %v", err)
	}
	<-q.Failed()
	if err := q.Watch(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("watch: %v", err)
	}
	d.FailAfter(0, nil)
	if err := tryAppend(q, msg("third"), to("e", 0)); !errors.Is(err, seglog.ErrFailed) {
		t.Errorf("afterwards: %v", err)
	}
	if got := bodies(all(t, q.Reader("e"))); got != "first" {
		t.Errorf("read %s", got)
	}
}

func TestDamagedMessagesAreCountedAndTheOthersDelivered(t *testing.T) {
	t.Run("changed", func(t *testing.T) {
		damagedMessage(t, func(d *simdisk.Disk, name string) {
			d.Change(name, func(b []byte) []byte { b[20_000] ^= 1; return b })
		})
	})
	t.Run("unreadable", func(t *testing.T) {
		damagedMessage(t, func(d *simdisk.Disk, name string) { d.Unreadable(name, 20_000, 20_001) })
	})
}

// damagedMessage has a part of a segment damaged in which one or a few messages lie.
func damagedMessage(t *testing.T, damage func(d *simdisk.Disk, name string)) {
	t.Helper()
	d := simdisk.New()
	q := onDisk(t, d, queue.Options{})
	for i := range 300 {
		if err := tryAppend(q, large(fmt.Sprint("m", i)), to("e", 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	damage(d, d.Names()[1])
	var log bytes.Buffer
	q = onDisk(t, d, queue.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	list := all(t, q.Reader("e"))
	lost := 300 - len(list)
	if lost < 1 || lost > 7 || q.Len("e", 0) != 0 || q.Bytes() != 0 {
		t.Errorf("%d delivered, %d left, %d bytes", len(list), q.Len("e", 0), q.Bytes())
	}
	if text := log.String(); !strings.Contains(text, fmt.Sprint("messages=", lost)) || !strings.Contains(text, d.Names()[0][:4]) {
		t.Errorf("log is %s", text)
	}
}

// TestPowerCutsLoseNothingAcknowledged appends, delivers and settles, and cuts the
// power, again and again.
func TestPowerCutsLoseNothingAcknowledged(t *testing.T) {
	t.Parallel() // one of those that take long
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 3))
		d := simdisk.New()
		missing := make(map[string]bool) // acknowledged and not settled
		sent := 0
		for range 6 {
			q := onDisk(t, d, queue.Options{})
			readers := map[string]*queue.Reader{"a": q.Reader("a"), "b": q.Reader("b")}
			for range 40 {
				switch random.IntN(3) {
				case 0, 1:
					n := 1 + random.IntN(20)
					done := make(chan error, n)
					for range n {
						name := fmt.Sprint("m", sent)
						sent++
						missing["a "+name], missing["b "+name] = true, true
						q.Append(msg(name+" "+strings.Repeat("x", random.IntN(900))),
							[]queue.Target{to("a", 0), to("b", 0)}, func(err error) { done <- err })
					}
					for range n {
						if err := <-done; err != nil {
							t.Fatal(err)
						}
					}
				case 2:
					for name, r := range readers {
						list := read(t, r, 0, random.IntN(60))
						if name == "b" && random.IntN(4) > 0 { // b lags behind
							list = nil
						}
						random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
						for _, e := range list {
							delete(missing, name+" "+names([]*queue.Entry{e}))
						}
						r.Settle(list...)
					}
				}
			}
			if random.IntN(3) == 0 {
				q.Flush()
			}
			// The rest of the process must not reach the disk any more.
			d.FailAfter(0, syscall.EIO)
			_ = q.Close()
			d.PowerCut(random)
			x, err := queue.Inspect(d.Folder(), true, time.Now())
			if err != nil || len(x.Problems) > 0 {
				t.Fatalf("seed %d: %+v, %v", seed, x, err)
			}
		}
		q := onDisk(t, d, queue.Options{})
		for _, name := range []string{"a", "b"} {
			want := q.Len(name, 0)
			list := all(t, q.Reader(name))
			if len(list) != want {
				t.Fatalf("seed %d: %d delivered, the length said %d", seed, len(list), want)
			}
			for _, e := range list {
				delete(missing, name+" "+names([]*queue.Entry{e}))
			}
		}
		if len(missing) > 0 {
			t.Fatalf("seed %d: %d of %d are lost", seed, len(missing), 2*sent)
		}
		_ = q.Close()
	}
}
