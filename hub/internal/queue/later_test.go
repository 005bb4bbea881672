package queue_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// later appends a message for Commit, and returns what tells when it is stored.
func later(q *queue.Queue, body string) <-chan error {
	done := make(chan error, 1)
	q.AppendLater(msg(body), []queue.Target{to("e", 0)}, func(err error) { done <- err })
	return done
}

func pendingDone(t *testing.T, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Errorf("%s is stored already: %v", what, err)
	default:
	}
}

func stored(t *testing.T, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	default:
		t.Errorf("%s is not stored", what)
	}
}

func TestCommitStoresInTheGoroutineOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New()
		q := newQueue(t, &place{folder: d.Folder}, queue.Options{})
		mustAppend(t, q, "first", to("e", 0)) // which makes the log's first segment
		done := later(q, "1")
		time.Sleep(time.Hour)
		pendingDone(t, "a message left for later", done)
		syncs, calls := d.Syncs(), 0
		r := q.Reader("e")
		<-r.Ready()
		q.Commit(func() {
			calls++
			stored(t, "the message", done)
			if n := d.Syncs(); n != syncs+1 {
				t.Errorf("%d syncs", n-syncs)
			}
		})
		if calls != 1 {
			t.Fatalf("told %d times", calls)
		}
		select {
		case <-r.Ready():
		default:
			t.Error("the reader was not told")
		}
		if got := bodies(read(t, r, 0, 9)); got != "first 1" {
			t.Errorf("read %s", got)
		}
		q.Commit(func() { t.Error("told of nothing") })
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		q.Commit(func() { t.Error("told after the end") })
		if err := <-later(q, "2"); !errors.Is(err, seglog.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestWhatWasLeftForLaterIsStoredWithOthers(t *testing.T) {
	for name, step := range map[string]func(q *queue.Queue) error{
		"by a commit elsewhere": func(q *queue.Queue) error { q.Commit(nil); return nil },
		"with another message":  func(q *queue.Queue) error { return tryAppend(q, msg("2"), to("e", 0)) },
		"at the end":            func(q *queue.Queue) error { return q.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, &place{folder: simdisk.New().Folder}, queue.Options{})
				done := later(q, "1")
				synctest.Wait()
				pendingDone(t, "it", done)
				if err := step(q); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				stored(t, "it", done)
				_ = q.Close()
			})
		})
	}
}

// A caller that fills the queue without a commit does not wait for ever.
func TestMessagesLeftForLaterMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &place{folder: simdisk.New().Folder}, queue.Options{MaxPending: 4})
		var list []<-chan error
		for i := range 10 {
			list = append(list, later(q, fmt.Sprint(i)))
		}
		q.Commit(nil)
		synctest.Wait()
		for i, done := range list {
			stored(t, fmt.Sprint("message ", i), done)
		}
		_ = q.Close()
	})
}

// Where there is traffic for groups the committer makes them: who would commit a
// single message himself holds up the others.
func TestCommitLeavesGroupsToTheCommitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &place{folder: simdisk.New().Folder}, queue.Options{})
		one, two := later(q, "1"), later(q, "2")
		here := 0
		q.Commit(func() { here++ })
		stored(t, "the first", one)
		stored(t, "the second", two)
		three := later(q, "3")
		q.Commit(func() { t.Error("committed here after a group of two") })
		synctest.Wait()
		stored(t, "the third", three)
		later(q, "4")
		if q.Commit(func() { here++ }); here != 2 {
			t.Errorf("committed here %d times, want 2", here)
		}
		_ = q.Close()
	})
}

// Whoever stores, done follows the order of Append, nothing is forgotten, and what was
// reported is on disk after a power cut.
func TestManyCommitAtOnce(t *testing.T) {
	d := simdisk.New()
	q := onDisk(t, d, queue.Options{MaxPending: 16})
	const senders, each = 8, 400
	var order sync.Mutex // held over Append, so that the order is known
	var appended, got []int
	var all sync.WaitGroup
	all.Add(senders * each)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				n := s*each + i
				store, plain := q.AppendLater, rand.N(3) == 0
				if plain {
					store = q.Append
				}
				order.Lock()
				appended = append(appended, n)
				store(msg(fmt.Sprint(n)), []queue.Target{to("e", 0)}, func(err error) {
					if err != nil {
						t.Error(err)
					}
					got = append(got, n)
					all.Done()
				})
				order.Unlock()
				switch {
				case rand.N(4) == 0:
					q.Commit(nil)
				case !plain:
					q.Commit(func() {})
				}
			}
		})
	}
	wg.Wait()
	all.Wait()
	d.PowerCut(rand.New(rand.NewPCG(1, 2)))
	for i, n := range appended {
		if got[i] != n {
			t.Fatalf("done %d is of message %d, want %d", i, got[i], n)
		}
	}
	after := onDisk(t, d, queue.Options{})
	list := read(t, after.Reader("e"), 0, senders*each+1)
	if len(list) != senders*each {
		t.Fatalf("%d of %d are on disk", len(list), senders*each)
	}
	for i, e := range list {
		if string(e.Message.Body) != fmt.Sprint(appended[i]) {
			t.Fatalf("message %d is %s, want %d", i, e.Message.Body, appended[i])
		}
	}
}
