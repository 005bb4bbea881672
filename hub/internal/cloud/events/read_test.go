package events_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// names of devices whose partitions of 4 are 0, 2, 1 and 3.
var names = []string{"edge1", "device1", "a", "contoso-device-12345678"}

// fill appends events of devices, each a millisecond after the other.
func fill(t *testing.T, l *events.Log, clock *time.Time, devices []string) {
	t.Helper()
	done := make(chan error, len(devices))
	for _, d := range devices {
		*clock = clock.Add(time.Millisecond)
		l.Append(t.Context(), message(d, "", d), func(err error) { done <- err })
	}
	for range devices {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// all reads a partition to its end, in bites.
func all(t *testing.T, l *events.Log, partition int, from uint64, limit, bytes int) (list []events.Event) {
	t.Helper()
	for {
		bite, next, err := l.ReadPartition(partition, from, limit, bytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(bite) > limit {
			t.Fatalf("%d events instead of %d", len(bite), limit)
		}
		list = append(list, bite...)
		if next == from {
			return list
		}
		from = next
	}
}

func value(e *events.Event, by events.By) int64 {
	switch by {
	case events.BySequence:
		return e.Sequence
	case events.ByTime:
		return e.Enqueued.UnixMilli()
	}
	return e.Offset
}

// TestPartitionsAgreeWithTheLog compares what readers of partitions see, from any
// start, with what Read gives; the log spans marks, was trimmed and was reopened.
func TestPartitionsAgreeWithTheLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	clock := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	o := events.Options{MaxEvents: 3000, Now: func() time.Time { return clock }}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := events.Open(s, o)
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for i := range 7000 {
		d := names[0]
		switch {
		case i > 5600 && i%7 == 0:
			d = names[1]
		case i == 5500 || i == 6999 || i == 1:
			d = names[2] // rare: whole stretches have none of it
		}
		devices = append(devices, d)
	}
	fill(t, l, &clock, devices)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	for {
		list, _, err := l.Read(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if list[0].Position >= 4000 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("reopened=%v", again), func(t *testing.T) {
			if again {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if l, err = events.Open(openStore(t, dir, store.Options{}), o); err != nil {
					t.Fatal(err)
				}
			}
			comparePartitions(t, l)
		})
	}
}

func comparePartitions(t *testing.T, l *events.Log) {
	var whole []events.Event
	for from := uint64(0); ; {
		list, next, err := l.Read(from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if whole = append(whole, list...); next == from {
			break
		}
		from = next
	}
	for p := range 4 {
		var want []events.Event
		for _, e := range whole {
			if e.Partition == p {
				want = append(want, e)
			}
		}
		same(t, all(t, l, p, 0, 100, 1<<20), want)
		same(t, all(t, l, p, 0, 100, 2000), want) // a few at a time
		info, err := l.Info(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Empty != (len(want) == 0) {
			t.Fatalf("partition %d: %+v", p, info)
		}
		if len(want) == 0 {
			continue
		}
		first, last := want[0], want[len(want)-1]
		if info.Begin != first.Sequence || info.Last != last.Sequence || info.LastOffset != last.Offset || !info.LastEnqueued.Equal(last.Enqueued) {
			t.Errorf("partition %d: %+v", p, info)
		}
		for _, by := range []events.By{events.ByOffset, events.BySequence, events.ByTime} {
			for _, inclusive := range []bool{false, true} {
				for _, n := range []int{0, len(want) / 3, len(want) - 1} {
					for beside := range int64(3) {
						compareStart(t, l, p, events.Start{By: by, Value: value(&want[n], by) + beside - 1, Inclusive: inclusive}, want)
					}
				}
			}
		}
	}
}

func compareStart(t *testing.T, l *events.Log, partition int, start events.Start, want []events.Event) {
	t.Helper()
	from, err := l.Seek(partition, start)
	if err != nil {
		t.Fatal(err)
	}
	n := slices.IndexFunc(want, func(e events.Event) bool {
		v := value(&e, start.By)
		return v > start.Value || start.Inclusive && v == start.Value
	})
	got, _, err := l.ReadPartition(partition, from, 1, 1<<20)
	switch {
	case err != nil:
		t.Fatal(err)
	case n < 0 && len(got) > 0, n >= 0 && (len(got) == 0 || got[0].Sequence != want[n].Sequence):
		t.Fatalf("partition %d, %+v: %d events, want number %d", partition, start, len(got), n)
	}
}

func same(t *testing.T, got, want []events.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Position != want[i].Position || got[i].Sequence != want[i].Sequence || string(got[i].Message.Body) != string(want[i].Message.Body) {
			t.Fatalf("event %d is %d/%d, want %d/%d", i, got[i].Position, got[i].Sequence, want[i].Position, want[i].Sequence)
		}
	}
}

func TestPartitionThatNeverHadAnEvent(t *testing.T) {
	l, err := events.Open(openStore(t, "", store.Options{InMemory: true}), events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := l.Info(3)
	if want := (events.Info{Last: -1, LastOffset: -1, Empty: true}); err != nil || info != want {
		t.Errorf("%+v, %v", info, err)
	}
	select {
	case <-l.More(0):
		t.Error("more in an empty log")
	default:
	}
	more := l.More(0)
	appendWait(t, l, message("a", "", "x"))
	<-more
	<-l.More(0)
	if sequence, offset := l.NextOf(1); sequence != 1 || offset == 0 {
		t.Errorf("next %d at %d", sequence, offset)
	}
}

// TestALogWithoutMarks is one that an older program has written.
func TestALogWithoutMarks(t *testing.T) {
	s := openStore(t, "", store.Options{InMemory: true})
	clock := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	o := events.Options{Now: func() time.Time { return clock }}
	l, err := events.Open(s, o)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, &clock, slices.Repeat(names[:3], 700))
	var marks [][]byte
	if err := s.Scan([]byte("m\x00"), nil, func(k, _ []byte) error {
		marks = append(marks, slices.Clone(k))
		return nil
	}); err != nil || len(marks) != 3 {
		t.Fatalf("%d marks, %v", len(marks), err)
	}
	var b store.Batch
	for _, k := range marks {
		b.Delete(k, 0)
	}
	done := make(chan error, 1)
	s.Commit(&b, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l, err = events.Open(s, o); err != nil {
		t.Fatal(err)
	}
	fill(t, l, &clock, names)
	comparePartitions(t, l)
}
