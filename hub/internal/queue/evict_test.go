package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// evictions collects what was dropped.
type evictions struct {
	mu   sync.Mutex
	list []string
}

func (v *evictions) add(m *iothub.Message, endpoint string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name, _, _ := strings.Cut(string(m.Body), " ")
	v.list = append(v.list, endpoint+" "+name)
}

// large is a message of about 1 kB whose text begins with a name.
func large(name string) *iothub.Message { return msg(name + " " + strings.Repeat("x", 900)) }

func TestFullQueueDropsTheOldestOfTheLowestPriority(t *testing.T) {
	var v evictions
	s := openStore(t, t.TempDir())
	q := newQueue(t, s, queue.Options{MaxBytes: 8_000, WhenFull: queue.DropOldest, Evicted: v.add})
	for i, target := range []queue.Target{
		to("a", queue.DefaultPriority), to("a", 0), to("b", queue.DefaultPriority), to("a", queue.DefaultPriority), to("b", 0), to("a", 9),
	} {
		if err := tryAppend(q, large(fmt.Sprint("m", i)), target); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := tryAppend(q, large(fmt.Sprint("n", i)), to("c", 0)); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	// Three are enough, all of the default priority; a's queue is longer than b's.
	if got := strings.Join(v.list, ", "); got != "a m0, a m3, b m2" && got != "a m0, b m2, a m3" {
		t.Errorf("dropped %s", got)
	}
	if q.Len("c", 0) != 5 || q.Len("a", 9) != 1 || q.Len("a", 0) != 1 || q.Len("b", 0) != 1 {
		t.Errorf("left: %v", q.Lengths())
	}
	sound(t, s)
}

func TestMessagesInAReadersHandsAreNotDropped(t *testing.T) {
	var v evictions
	q := newQueue(t, openStore(t, ""), queue.Options{MaxBytes: 4_500, WhenFull: queue.DropOldest, Evicted: v.add})
	for i := range 4 {
		if err := tryAppend(q, large(fmt.Sprint("m", i)), to("a", 0)); err != nil {
			t.Fatal(err)
		}
	}
	r := q.Reader("a")
	held, err := r.Read(0, 4, 1<<20)
	if err != nil || len(held) != 4 {
		t.Fatalf("read %d, %v", len(held), err)
	}
	if err := tryAppend(q, large("new"), to("b", 0)); !errors.Is(err, queue.ErrFull) {
		t.Errorf("with all in a reader's hands: %v, want ErrFull", err)
	}
	r.Settle(held[0]) // room at once, before its record is deleted
	if err := tryAppend(q, large("new"), to("b", 0)); err != nil {
		t.Errorf("after one was settled: %v", err)
	}
	if len(v.list) > 0 {
		t.Errorf("dropped %v", v.list)
	}
}

func TestEveryMessageIsDeliveredOrDroppedOnce(t *testing.T) {
	var v evictions
	dir := t.TempDir()
	s := openStore(t, dir)
	var first sync.Once
	dropped := make(chan struct{}) // closed when something was
	q := newQueue(t, s, queue.Options{MaxBytes: 60_000, WhenFull: queue.DropOldest, Evicted: func(m *iothub.Message, endpoint string) {
		v.add(m, endpoint)
		first.Do(func() { close(dropped) })
	}})
	const n = 3000
	seen := make(map[string]int)
	r := q.Reader("a")
	reading := make(chan struct{})
	ended := make(chan struct{})
	drain := func() {
		for {
			list, err := r.Read(0, 7, 1<<20)
			if err != nil {
				t.Error(err)
			}
			if len(list) == 0 {
				return
			}
			for _, e := range list {
				name, _, _ := strings.Cut(string(e.Message.Body), " ")
				seen["a "+name]++
			}
			r.Settle(list...)
			time.Sleep(time.Millisecond) // too slow for what comes
		}
	}
	go func() {
		defer close(ended)
		<-dropped // on a slow disk a reader is as fast as what comes
		for {
			select {
			case <-r.Ready():
				drain()
			case <-reading:
				drain()
				return
			}
		}
	}()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		wg.Add(1)
		q.Append(large(fmt.Sprint("m", i)), []queue.Target{to("a", 0)}, func(err error) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			<-slots
			wg.Done()
		})
	}
	wg.Wait()
	close(reading)
	<-ended
	if len(v.list) == 0 || len(seen) == 0 {
		t.Fatalf("%d dropped, %d delivered: the test shows nothing", len(v.list), len(seen))
	}
	for _, name := range v.list {
		seen[name]++
	}
	for i := range n {
		if c := seen[fmt.Sprint("a m", i)]; c != 1 {
			t.Fatalf("message %d was delivered or dropped %d times", i, c)
		}
	}
	sound(t, s)
}
