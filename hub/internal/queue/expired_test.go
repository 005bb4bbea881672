package queue_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// clock is a time that tests set; queues read it from goroutines of their own.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

// More expired messages than one Read removes must not keep back what lies behind
// them until something else is stored.
func TestReaderIsToldOfWhatLiesBehindAnExpiredBacklog(t *testing.T) {
	const backlog = 5000
	var c clock
	c.at.Store(time.Unix(1_800_000_000, 0).UnixNano())
	q := newQueue(t, openStore(t, ""), queue.Options{Now: c.now})
	short := queue.Target{Endpoint: "e", TTL: time.Minute}
	stored := make(chan error, backlog)
	for range backlog {
		q.Append(msg("old"), []queue.Target{short}, func(err error) { stored <- err })
	}
	for range backlog {
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
	mustAppend(t, q, "fresh", to("e", 0))
	c.at.Add(int64(time.Hour))

	r := q.Reader("e")
	for reads := 1; ; reads++ {
		select {
		case <-r.Ready():
		case <-time.After(10 * time.Second):
			t.Fatalf("the reader was not told that there is more after %d reads", reads-1)
		}
		list, err := r.Read(0, 10, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			if got := string(list[0].Message.Body); got != "fresh" || reads < 2 {
				t.Errorf("read %q after %d reads; the backlog should take several", got, reads)
			}
			return
		}
	}
}

func TestCleaningRemovesAllThatHasExpired(t *testing.T) {
	const backlog = 5000
	var c clock
	var expired atomic.Int64
	c.at.Store(time.Unix(1_800_000_000, 0).UnixNano())
	q := newQueue(t, openStore(t, ""), queue.Options{Now: c.now, Expired: func(*iothub.Message) { expired.Add(1) }})
	stored := make(chan error, backlog)
	for range backlog {
		q.Append(msg("old"), []queue.Target{{Endpoint: "e", TTL: time.Minute}}, func(err error) { stored <- err })
	}
	for range backlog {
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
	c.at.Add(int64(time.Hour))
	if _, err := q.Reader("e").Read(0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if n := expired.Load(); n != backlog {
		t.Errorf("%d of %d expired messages are gone", n, backlog)
	}
}
