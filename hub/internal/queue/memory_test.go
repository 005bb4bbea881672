package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
)

// backlogs stores messages of 10 kB for some endpoints.
func backlogs(t *testing.T, q *queue.Queue, endpoints, messages int) {
	t.Helper()
	stored := make(chan error, endpoints*messages)
	for i := range messages {
		for e := range endpoints {
			q.Append(msg(fmt.Sprint(i, " ", strings.Repeat("x", 10_000))),
				[]queue.Target{to(fmt.Sprint("e", e), 0)}, func(err error) { stored <- err })
		}
	}
	for range cap(stored) {
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
}

func TestMessagesInMemoryAreBoundedOverAllEndpoints(t *testing.T) {
	t.Parallel() // one of those that take long
	const endpoints, messages, bound = 30, 40, 1 << 20
	for _, first := range []string{"stored", "read"} {
		t.Run("first "+first, func(t *testing.T) {
			q := newQueue(t, openStore(t, ""), queue.Options{MaxAhead: bound})
			if first == "stored" {
				backlogs(t, q, endpoints, messages)
			}
			var readers []*queue.Reader
			for e := range endpoints {
				readers = append(readers, q.Reader(fmt.Sprint("e", e)))
			}
			if first == "read" {
				backlogs(t, q, endpoints, messages)
			}
			held := make([][]*queue.Entry, endpoints)
			for e, r := range readers {
				if held[e] = read(t, r, 0, messages); len(held[e]) == 0 {
					t.Errorf("reader %d has got nothing", e)
				}
			}
			if n := q.Memory(); n > bound+endpoints*20_000 {
				t.Errorf("%d bytes are in memory", n)
			}
			for e, r := range readers {
				next := 0
				for {
					for _, m := range held[e] {
						if got := names([]*queue.Entry{m}); got != fmt.Sprint(next) {
							t.Fatalf("reader %d: got %s, want %d", e, got, next)
						}
						next++
					}
					r.Settle(held[e]...)
					if next == messages {
						break
					}
					held[e] = read(t, r, 0, messages)
				}
			}
			if n := q.Memory(); n != 0 {
				t.Errorf("in the end %d bytes are in memory", n)
			}
		})
	}
}

// A reader that has met the bound is told when it may go on, and gets at least one
// message however small the bound.
func TestReaderIsToldWhenThereIsRoomInMemory(t *testing.T) {
	const messages = 30
	q := newQueue(t, openStore(t, ""), queue.Options{MaxAhead: 1})
	backlogs(t, q, 1, messages)
	r := q.Reader("e0")
	for got := 0; got < messages; {
		select {
		case <-r.Ready():
		case <-time.After(10 * time.Second):
			t.Fatalf("the reader was not told that there is room, after %d messages", got)
		}
		list := read(t, r, 0, messages)
		if more := read(t, r, 0, messages); len(list) > 0 && len(more) > 0 {
			t.Fatalf("%d messages more than one chunk, with a bound of one byte", len(more))
		}
		got += len(list)
		r.Settle(list...)
	}
}

// What may pass the backlog must not keep a reader with empty hands from reading on,
// when its share has become smaller since.
func TestReaderWithEmptyHandsAlwaysGetsAMessage(t *testing.T) {
	for reads := 200; reads < 320; reads += 20 {
		q := newQueue(t, openStore(t, ""), queue.Options{LiveFirst: true, MaxAhead: 4000})
		for i := range 600 {
			mustAppend(t, q, fmt.Sprint("old", i), to("e", 0))
		}
		r := q.Reader("e")
		next := func() {
			list := read(t, r, 0, 1)
			if len(list) != 1 {
				t.Fatalf("read %d messages, after %d reads before; %d bytes are in memory", len(list), reads, q.Memory())
			}
			r.Settle(list...)
		}
		for i := range reads {
			next()
			mustAppend(t, q, fmt.Sprint("new", i), to("e", 0))
			mustAppend(t, q, fmt.Sprint("newer", i), to("e", 0))
		}
		for i := range 20 { // others, which hold what they have read
			name := fmt.Sprint("f", i)
			mustAppend(t, q, name+strings.Repeat("x", 200), to(name, 0))
			read(t, q.Reader(name), 0, 1)
		}
		for range 200 {
			next()
		}
	}
}
