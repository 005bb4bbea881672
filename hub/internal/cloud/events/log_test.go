package events_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

func openStore(t *testing.T, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func message(device, module, body string) events.Event {
	m := &iothub.Message{Body: []byte(body)}
	m.Properties.Set("k", "v")
	m.Properties.SetNull("flag")
	m.System.Set(iothub.ContentType, "application/json")
	return events.Event{Sender: iothub.Identity{Device: device, Module: module}, Generation: "g", AuthMethod: "{}", ModelID: "dtmi:x;1", Message: m}
}

func appendWait(t *testing.T, l *events.Log, list ...events.Event) {
	t.Helper()
	done := make(chan error, len(list))
	for _, e := range list {
		l.Append(t.Context(), e, func(err error) { done <- err })
	}
	for range list {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestEventsKeepOrderNumbersAndContentOverReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	now := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	o := events.Options{Now: func() time.Time { return now }}
	func() {
		s, err := store.Open(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		l, err := events.Open(s, o)
		if err != nil {
			t.Fatal(err)
		}
		appendWait(t, l, message("device1", "m", "1"), message("edge1", "", "2"), message("device1", "", "3"))
	}()
	l, err := events.Open(openStore(t, dir, store.Options{}), o)
	if err != nil {
		t.Fatal(err)
	}
	appendWait(t, l, message("edge1", "", "4"))
	list, next, err := l.Read(0, 100)
	if err != nil || next != 4 || len(list) != 4 {
		t.Fatalf("%d events, next %d, %v", len(list), next, err)
	}
	wantPartition, wantSequence := []int{2, 0, 2, 0}, []int64{0, 0, 1, 1}
	for i, e := range list {
		if e.Position != uint64(i) || e.Partition != wantPartition[i] || e.Sequence != wantSequence[i] {
			t.Errorf("event %d: position %d partition %d sequence %d", i, e.Position, e.Partition, e.Sequence)
		}
		if string(e.Message.Body) != fmt.Sprint(i+1) || !e.Enqueued.Equal(now) {
			t.Errorf("event %d: body %q at %v", i, e.Message.Body, e.Enqueued)
		}
	}
	e := list[0]
	if e.Sender != iothub.ModuleIdentity("device1", "m") || e.Generation != "g" || e.AuthMethod != "{}" || e.ModelID != "dtmi:x;1" {
		t.Errorf("annotations %+v", e)
	}
	if p, ok := e.Message.Properties.Lookup("flag"); !ok || !p.Null || e.Message.Properties.Get("k") != "v" || e.Message.System.Get(iothub.ContentType) != "application/json" {
		t.Errorf("properties %+v, %+v", e.Message.Properties, e.Message.System)
	}
	if list[2].Offset <= list[0].Offset || list[1].Offset != 0 {
		t.Errorf("offsets %d %d %d", list[0].Offset, list[1].Offset, list[2].Offset)
	}
	part, next, err := l.Read(1, 2)
	if err != nil || len(part) != 2 || next != 3 {
		t.Errorf("partial read: %d events, next %d, %v", len(part), next, err)
	}
}

func TestPartitionCountMayNotChange(t *testing.T) {
	s := openStore(t, "", store.Options{InMemory: true})
	l, err := events.Open(s, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	appendWait(t, l, message("a", "", ""))
	if _, err := events.Open(s, events.Options{Partitions: 2}); err == nil {
		t.Fatal("opened with another number of partitions")
	}
}

func TestLogKeepsToItsBounds(t *testing.T) {
	for name, o := range map[string]events.Options{
		"events": {MaxEvents: 100},
		"bytes":  {MaxBytes: 100 * 1000},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := events.Open(openStore(t, "", store.Options{InMemory: true}), o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- l.Run(ctx) }()
			for range 20 {
				var batch []events.Event
				for range 50 {
					batch = append(batch, message("a", "", strings.Repeat("x", 1000)))
				}
				appendWait(t, l, batch...)
			}
			deadline := time.Now().Add(10 * time.Second)
			for {
				list, next, err := l.Read(0, 10000)
				if err != nil || next != 1000 {
					t.Fatalf("next %d, %v", next, err)
				}
				if len(list) <= 100 && len(list) >= 90 {
					if last := list[len(list)-1]; last.Position != 999 || last.Sequence != 999 {
						t.Errorf("newest is %d/%d", last.Position, last.Sequence)
					}
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d events left", len(list))
				}
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWaitReturnsWithTheNextEvent(t *testing.T) {
	l, err := events.Open(openStore(t, "", store.Options{InMemory: true}), events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- l.Wait(t.Context(), 0) }()
	appendWait(t, l, message("a", "", "x"))
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Wait(ctx, 1); err == nil {
		t.Fatal("waited for nothing and got it")
	}
}

func TestCancelledAppendReportsInOrder(t *testing.T) {
	l, err := events.Open(openStore(t, "", store.Options{InMemory: true}), events.Options{MaxPending: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	order := make(chan string, 2)
	l.Append(ctx, message("a", "", "1"), func(err error) { order <- fmt.Sprint("first ", err == nil) })
	cancel()
	l.Append(ctx, message("a", "", "2"), func(err error) { order <- "second" })
	if a, b := <-order, <-order; a != "first true" || b != "second" {
		t.Errorf("%s, %s", a, b)
	}
}
