package queue_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
)

// names are the first words of messages.
func names(list []*queue.Entry) string {
	var b []string
	for _, e := range list {
		name, _, _ := strings.Cut(string(e.Message.Body), " ")
		b = append(b, name)
	}
	return strings.Join(b, " ")
}

// behind makes a queue with 2000 old messages, more than a reader holds, of which it
// has read one.
func behind(t *testing.T, o queue.Options) (*queue.Queue, *queue.Reader) {
	t.Helper()
	q := newQueue(t, openStore(t, ""), o)
	for i := range 2000 {
		if err := tryAppend(q, msg(fmt.Sprint("old", i)), to("a", 0)); err != nil {
			t.Fatal(err)
		}
	}
	r := q.Reader("a")
	first, err := r.Read(0, 1, 1<<20)
	if err != nil || names(first) != "old0" {
		t.Fatalf("read %s, %v", names(first), err)
	}
	r.Settle(first...)
	return q, r
}

func readNames(t *testing.T, r *queue.Reader, count int) string {
	t.Helper()
	list, err := r.Read(0, count, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r.Settle(list...)
	return names(list)
}

func TestNewMessagesWaitForTheBacklogByDefault(t *testing.T) {
	q, r := behind(t, queue.Options{})
	if err := tryAppend(q, msg("new0"), to("a", 0)); err != nil {
		t.Fatal(err)
	}
	if got := readNames(t, r, 3); got != "old1 old2 old3" {
		t.Errorf("read %s", got)
	}
}

func TestNewMessagesPassTheBacklogWithLiveFirst(t *testing.T) {
	q, r := behind(t, queue.Options{LiveFirst: true})
	for i := range 3 {
		if err := tryAppend(q, msg(fmt.Sprint("new", i)), to("a", 0)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := readNames(t, r, 4), "new0 new1 old1 old2"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	if got, want := readNames(t, r, 1)+" "+readNames(t, r, 1), "new2 old3"; got != want {
		t.Errorf("one by one: %s, want %s", got, want)
	}
	if got, want := readNames(t, r, 3), "old4 old5 old6"; got != want {
		t.Errorf("without new ones: %s, want %s", got, want)
	}
}

// When more comes than is sent, for ever, what is remembered of the messages that have
// passed must not grow with the backlog: after a while all goes in order.
func TestWhatHasPassedIsForgottenUnderALastingOverload(t *testing.T) {
	const most = 8
	q := newQueue(t, openStore(t, ""), queue.Options{LiveFirst: true})
	q.SetMaxPassed(most)
	r := q.Reader("a")
	sent, passed := 0, 0
	seen := make(map[string]bool)
	take := func(n int) int {
		list := read(t, r, 0, n)
		r.Settle(list...)
		for _, e := range list {
			if name := names([]*queue.Entry{e}); seen[name] {
				t.Fatalf("%s came twice", name)
			} else {
				seen[name] = true
			}
		}
		return len(list)
	}
	for range 600 {
		stored := make(chan error, 60)
		for range cap(stored) {
			q.Append(msg(fmt.Sprint(sent, " x")), []queue.Target{to("a", 0)}, func(err error) { stored <- err })
			sent++
		}
		for range cap(stored) {
			if err := <-stored; err != nil {
				t.Fatal(err)
			}
		}
		take(30)
		spans, chunks, messages := q.Remembered("a", 0)
		passed = max(passed, spans)
		if spans > 2*most || chunks > 1024+most || messages > 0 {
			t.Fatalf("after %d messages: %d spans, %d chunks, %d messages are remembered", sent, spans, chunks, messages)
		}
	}
	if passed < most {
		t.Errorf("at most %d spans: the test shows nothing", passed)
	}
	for take(1000) > 0 {
	}
	if len(seen) != sent {
		t.Errorf("%d of %d messages came", len(seen), sent)
	}
	if spans, chunks, messages := q.Remembered("a", 0); spans+chunks+messages > 0 {
		t.Errorf("in the end %d spans, %d chunks, %d messages are remembered", spans, chunks, messages)
	}
	for i := range 2000 { // a new backlog: new messages pass again
		mustAppend(t, q, fmt.Sprint("again", i), to("a", 0))
	}
	if got := readNames(t, r, 2); !strings.HasPrefix(got, "again") || !strings.HasSuffix(got, "again0") {
		t.Errorf("then read %s", got)
	}
}

// TestLiveFirstLosesAndRepeatsNothing appends, reads, settles in any order and starts
// anew at random, and looks that all come once, both kinds in order, and that nothing
// stays on disk.
func TestLiveFirstLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel() // one of those that take long
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := openStore(t, dir)
		var v evictions
		o := queue.Options{LiveFirst: true}
		if seed%3 == 0 {
			o.MaxBytes, o.WhenFull, o.Evicted = 200_000, queue.DropOldest, v.add
		}
		if seed%4 == 0 {
			o.MaxAhead = 50_000
		}
		q := newQueue(t, s, o)
		r := q.Reader("a")
		seen := make(map[string]int)
		var held []*queue.Entry
		sent := 0
		appendSome := func() {
			n := random.IntN(300)
			done := make(chan error, n)
			for range n {
				name := fmt.Sprint("a m", sent)
				q.Append(msg(fmt.Sprint("m", sent, " ", strings.Repeat("x", random.IntN(400)))),
					[]queue.Target{to("a", 0)}, func(err error) {
						if errors.Is(err, queue.ErrFull) { // all was in the reader's hands
							v.add(msg(name[2:]), "a")
							err = nil
						}
						done <- err
					})
				sent++
			}
			for range n {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		}
		settle := func(keep int) {
			random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			for len(held) > keep {
				r.Settle(held[0])
				seen["a "+names(held[:1])]++
				held = held[1:]
			}
		}
		read := func(n int) int {
			list, err := r.Read(0, n, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, list...)
			return len(list)
		}
		for range 40 {
			switch random.IntN(8) {
			case 0, 1, 2:
				appendSome()
			case 3, 4, 5:
				read(1 + random.IntN(200))
			case 6:
				settle(random.IntN(len(held) + 1))
			case 7:
				if random.IntN(4) == 0 { // what was in its hands comes again
					r, held = q.Reader("a"), nil
				}
			}
		}
		for read(64) > 0 || len(held) > 0 {
			settle(len(held) / 2)
		}
		if n := q.Memory(); n != 0 {
			t.Errorf("seed %d: %d bytes are still counted as in memory", seed, n)
		}
		for _, name := range v.list {
			seen[name]++
		}
		for i := range sent {
			if n := seen[fmt.Sprint("a m", i)]; n != 1 {
				t.Fatalf("seed %d: message %d of %d came %d times", seed, i, sent, n)
			}
		}
		for _, q := range sound(t, s).Queues {
			if q.Messages != 0 || q.Bytes != 0 {
				t.Errorf("seed %d: left %+v", seed, q)
			}
		}
	}
}
