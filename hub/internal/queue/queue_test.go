package queue_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const never = -time.Second

// place is where queues lie: a folder, or a disk in memory.
type place struct {
	folder func() seglog.Folder
	q      *queue.Queue
}

func (p *place) Close() error { return p.q.Close() }

func openStore(t testing.TB, dir string) *place {
	t.Helper()
	if dir == "" {
		return &place{folder: simdisk.New().Folder}
	}
	return &place{folder: func() seglog.Folder {
		f, err := seglog.Dir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}}
}

func newQueue(t testing.TB, p *place, o queue.Options) *queue.Queue {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	q, err := queue.Open(p.folder(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	p.q = q
	return q
}

// msg makes a message with a text body and one system property.
func msg(body string) *iothub.Message {
	m := &iothub.Message{Body: []byte(body)}
	m.System.Set(iothub.ConnectionDeviceID, "dev")
	return m
}

func to(endpoint string, priority uint32) queue.Target {
	return queue.Target{Endpoint: endpoint, Priority: priority, TTL: never}
}

func tryAppend(q *queue.Queue, m *iothub.Message, targets ...queue.Target) error {
	done := make(chan error, 1)
	q.Append(m, targets, func(err error) { done <- err })
	return <-done
}

func mustAppend(t testing.TB, q *queue.Queue, body string, targets ...queue.Target) {
	t.Helper()
	if err := tryAppend(q, msg(body), targets...); err != nil {
		t.Fatalf("append %.20s: %v", body, err)
	}
}

// flush waits until all settlements so far are written.
func flush(t testing.TB, p *place) {
	t.Helper()
	p.q.Flush()
}

func read(t testing.TB, r *queue.Reader, priority uint32, n int) []*queue.Entry {
	t.Helper()
	list, err := r.Read(priority, n, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func bodies(list []*queue.Entry) string {
	var out []string
	for _, e := range list {
		out = append(out, string(e.Message.Body))
	}
	return strings.Join(out, " ")
}

// sound reads all that is on disk, after the queues are closed.
func sound(t testing.TB, p *place) *queue.Inspection {
	t.Helper()
	_ = p.Close()
	x, err := queue.Inspect(p.folder(), true, time.Now())
	if err != nil || len(x.Problems) > 0 {
		t.Fatalf("what is on disk: %+v, %v", x, err)
	}
	return x
}

func TestMain(m *testing.M) {
	if runCrashChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestMessagesComeInOrderOfAppendPerPriority(t *testing.T) {
	q := newQueue(t, openStore(t, ""), queue.Options{})
	r := q.Reader("e")
	for i := range 5 {
		mustAppend(t, q, fmt.Sprintf("low%d", i), to("e", queue.DefaultPriority))
		mustAppend(t, q, fmt.Sprintf("high%d", i), to("e", 3))
	}
	if got := r.Priorities(nil); !slices.Equal(got, []uint32{3, queue.DefaultPriority}) {
		t.Errorf("priorities %v", got)
	}
	if got := bodies(read(t, r, 3, 2)) + " " + bodies(read(t, r, 3, 9)); got != "high0 high1 high2 high3 high4" {
		t.Errorf("priority 3: %s", got)
	}
	if got := bodies(read(t, r, queue.DefaultPriority, 9)); got != "low0 low1 low2 low3 low4" {
		t.Errorf("default: %s", got)
	}
	if got := r.Priorities(nil); len(got) != 0 {
		t.Errorf("priorities after all is read: %v", got)
	}
	if n := q.Len("e", 3); n != 5 {
		t.Errorf("length %d; what is read but not settled counts", n)
	}
}

func TestDoneFollowsTheOrderOfAppend(t *testing.T) {
	t.Parallel() // one of those that take long
	q := newQueue(t, openStore(t, t.TempDir()), queue.Options{MaxPending: 64})
	const n = 3000
	var got []int
	last := make(chan struct{})
	for i := range n {
		var targets []queue.Target
		m := msg(strconv.Itoa(i))
		switch i % 5 {
		case 0: // no target: in its turn all the same
		case 1:
			m.Body = make([]byte, 600<<10) // refused
			targets = []queue.Target{to("a", 0)}
		default:
			targets = []queue.Target{to("a", 0), to("b", 0)}
		}
		q.Append(m, targets, func(err error) {
			if refused := i%5 == 1; refused != errors.Is(err, queue.ErrTooLarge) || !refused && err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			if got = append(got, i); len(got) == n {
				close(last)
			}
		})
	}
	<-last
	for i, v := range got {
		if i != v {
			t.Fatalf("done %d was that of message %d", i, v)
		}
	}
	if n := q.Len("b", 0); n != 1800 {
		t.Errorf("length %d, want 1800", n)
	}
}

func TestQueuesSurviveAReopen(t *testing.T) {
	s := openStore(t, t.TempDir())
	q := newQueue(t, s, queue.Options{})
	r := q.Reader("e")
	large := strings.Repeat("x", 5000)
	for i := range 10 {
		mustAppend(t, q, fmt.Sprint(i), to("e", 0))
		mustAppend(t, q, fmt.Sprint("both", i, large), to("e", 1), to("f", queue.DefaultPriority))
	}
	list := read(t, r, 0, 6)
	r.Settle(list[0], list[1], list[4])
	flush(t, s)
	before := q.Lengths()
	bytes := q.Bytes()
	_ = s.Close()

	q = newQueue(t, s, queue.Options{})
	if got := q.Lengths(); !slices.Equal(got, before) || q.Bytes() != bytes {
		t.Errorf("lengths %v (%d), before %v (%d)", got, q.Bytes(), before, bytes)
	}
	if got := q.Endpoints(); !slices.Equal(got, []string{"e", "f"}) {
		t.Errorf("endpoints %v", got)
	}
	mustAppend(t, q, "new", to("e", 0))
	r = q.Reader("e")
	if got := bodies(read(t, r, 0, 99)); got != "2 3 5 6 7 8 9 new" {
		t.Errorf("after reopen: %s", got)
	}
	list = read(t, r, 1, 99)
	if len(list) != 10 || string(list[9].Message.Body) != "both9"+large || list[9].Message.Sender().Device != "dev" {
		t.Errorf("shared messages: %d", len(list))
	}
}

func TestSharedBodyIsStoredOnceAndCountsInParts(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		t.Run(fmt.Sprint("reopen between ", reopen), func(t *testing.T) {
			s := openStore(t, t.TempDir())
			q := newQueue(t, s, queue.Options{})
			mustAppend(t, q, strings.Repeat("x", 3000), to("a", 0), to("b", 1), to("c", 2))
			for i, name := range []string{"b", "c", "a"} {
				if n := q.Bytes(); n < int64(1000*(3-i)) || n > int64(1060*(3-i)) {
					t.Errorf("%d bytes before %s", n, name)
				}
				r := q.Reader(name)
				p := map[string]uint32{"a": 0, "b": 1, "c": 2}[name]
				list := read(t, r, p, 9)
				if len(list) != 1 || len(list[0].Message.Body) != 3000 {
					t.Fatalf("%s got %d messages", name, len(list))
				}
				r.Settle(list...)
				r.Settle(list...) // settled once only
				if reopen && i == 1 {
					_ = s.Close()
					q = newQueue(t, s, queue.Options{})
				}
			}
			if q.Bytes() != 0 {
				t.Errorf("%d bytes left", q.Bytes())
			}
			if x := sound(t, s); x.Usage.Bytes > 5000 {
				t.Errorf("%d bytes on disk", x.Usage.Bytes)
			}
		})
	}
}

func TestExpiredMessagesAreDroppedAndCounted(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	var expired []string
	s := openStore(t, "")
	q := newQueue(t, s, queue.Options{
		Now:     func() time.Time { return now },
		Expired: func(m *iothub.Message) { expired = append(expired, string(m.Body)) },
	})
	for i, ttl := range []time.Duration{time.Second, 3 * time.Second, time.Second, never} {
		mustAppend(t, q, fmt.Sprint(i), queue.Target{Endpoint: "e", TTL: ttl})
	}
	mustAppend(t, q, "zero", queue.Target{Endpoint: "z", TTL: 0})
	r := q.Reader("e")
	now = now.Add(time.Second - time.Millisecond)
	read(t, r, 0, 0)
	if len(expired) != 0 {
		t.Errorf("expired early: %v", expired)
	}
	now = now.Add(time.Millisecond)
	read(t, r, 0, 0) // clean up: only from the front
	if fmt.Sprint(expired) != "[0]" || q.Len("e", 0) != 3 {
		t.Errorf("clean-up removed %v, length %d", expired, q.Len("e", 0))
	}
	if got := bodies(read(t, r, 0, 9)); got != "1 3" {
		t.Errorf("read %s", got)
	}
	if fmt.Sprint(expired) != "[0 2]" || q.Len("e", 0) != 2 {
		t.Errorf("expired %v, length %d", expired, q.Len("e", 0))
	}
	if list := read(t, q.Reader("z"), 0, 9); len(list) != 0 {
		t.Error("a time to live of zero has not expired at once")
	}
	if age, err := q.OldestAge("e"); err != nil || age != time.Second {
		t.Errorf("oldest age %v, %v", age, err)
	}
}

func TestLimitRefusesNewMessagesAndKeepsOld(t *testing.T) {
	s := openStore(t, "")
	q := newQueue(t, s, queue.Options{MaxBytes: 10_000})
	body := strings.Repeat("x", 1000)
	n := 0
	for ; n < 100; n++ {
		if err := tryAppend(q, msg(body), to("e", 0)); err != nil {
			if !errors.Is(err, queue.ErrFull) || !errors.Is(err, seglog.ErrFull) {
				t.Fatalf("got %v", err)
			}
			break
		}
	}
	if n < 8 || n > 9 {
		t.Fatalf("%d messages of 1000 bytes in 10000", n)
	}
	r := q.Reader("e")
	list := read(t, r, 0, 99)
	if len(list) != n {
		t.Fatalf("%d of %d messages are there", len(list), n)
	}
	r.Settle(list...)
	flush(t, s)
	mustAppend(t, q, body, to("e", 0))
}

func TestRemovedEndpointLosesItsQueues(t *testing.T) {
	s := openStore(t, "")
	q := newQueue(t, s, queue.Options{})
	large := strings.Repeat("x", 2000)
	for range 300 {
		mustAppend(t, q, "a", to("gone", 0), to("kept", 0))
	}
	mustAppend(t, q, large, to("gone", queue.DefaultPriority), to("kept", 0))
	r := q.Reader("gone")
	list := read(t, r, 0, 10)
	r.Settle(list[:4]...)
	lost, err := q.RemoveEndpoint(t.Context(), "gone")
	if err != nil || lost != 297 {
		t.Fatalf("lost %d, %v", lost, err)
	}
	r.Settle(list...) // late, and without effect
	if got := q.Endpoints(); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("endpoints %v", got)
	}
	if lost, err := q.RemoveEndpoint(t.Context(), "gone"); lost != 0 || err != nil {
		t.Errorf("second removal: %d, %v", lost, err)
	}
	mustAppend(t, q, "again", to("gone", 0))
	if got := bodies(read(t, q.Reader("gone"), 0, 9)); got != "again" {
		t.Errorf("new queue has %s", got)
	}
	k := q.Reader("kept")
	kept := read(t, k, 0, 999)
	if len(kept) != 301 || string(kept[300].Message.Body) != large {
		t.Fatalf("kept endpoint has %d messages", len(kept))
	}
	k.Settle(kept...)
	flush(t, s)
	if q.Bytes() <= 0 || q.Bytes() > 200 {
		t.Errorf("%d bytes", q.Bytes())
	}
	sound(t, s)
}

func TestNewReaderGetsUnsettledMessagesAgain(t *testing.T) {
	q := newQueue(t, openStore(t, ""), queue.Options{})
	for i := range 4 {
		mustAppend(t, q, fmt.Sprint(i), to("e", 0))
	}
	first := q.Reader("e")
	list := read(t, first, 0, 3)
	first.Settle(list[1])
	second := q.Reader("e")
	first.Settle(list[0]) // too late
	again := read(t, second, 0, 9)
	if bodies(again) != "0 2 3" {
		t.Fatalf("second reader got %s", bodies(again))
	}
	second.Settle(again...)
	if n := q.Len("e", 0); n != 0 {
		t.Errorf("length %d", n)
	}
}

func TestReaderFallsBehindAndCatchesUpOverTheDisk(t *testing.T) {
	s := openStore(t, "")
	q := newQueue(t, s, queue.Options{})
	r := q.Reader("e")
	const n = 5000 // more than is kept in memory
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		q.Append(msg(strconv.Itoa(i)), []queue.Target{to("e", 0)}, func(error) { wg.Done() })
	}
	wg.Wait()
	for next := 0; next <= n; {
		list := read(t, r, 0, 70)
		if len(list) == 0 {
			t.Fatalf("nothing after %d", next)
		}
		for _, e := range list {
			if string(e.Message.Body) != strconv.Itoa(next) {
				t.Fatalf("got %s, want %d", e.Message.Body, next)
			}
			next++
		}
		slices.Reverse(list)
		r.Settle(list...)
		if next == 70*40 {
			mustAppend(t, q, strconv.Itoa(n), to("e", 0))
		}
	}
	flush(t, s)
	if q.Bytes() != 0 {
		t.Errorf("%d bytes left", q.Bytes())
	}
	sound(t, s)
}

func TestAppendAfterCloseIsRefused(t *testing.T) {
	s := openStore(t, "")
	q := newQueue(t, s, queue.Options{})
	_ = s.Close()
	if err := tryAppend(q, msg("x"), to("e", 0)); !errors.Is(err, seglog.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
