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

// TestLiveFirstLosesAndRepeatsNothing appends, reads, settles in any order and starts
// anew at random, and looks that all come once, both kinds in order, and that nothing
// stays on disk.
func TestLiveFirstLosesAndRepeatsNothing(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := openStore(t, dir)
		var v evictions
		o := queue.Options{LiveFirst: true}
		if seed%3 == 0 {
			o.MaxBytes, o.WhenFull, o.Evicted = 200_000, queue.DropOldest, v.add
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
		for read(64) > 0 {
		}
		settle(0)
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
