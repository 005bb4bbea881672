package queue_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
)

// TestNothingIsLostWhileSpaceIsGivenBack has the log delete and rewrite segments all
// the time under writers and a reader that lags behind.
func TestNothingIsLostWhileSpaceIsGivenBack(t *testing.T) {
	t.Parallel() // one of those that take long
	s := openStore(t, t.TempDir())
	q := newQueue(t, s, queue.Options{SegmentSize: 512 << 10})
	const n = 15_000
	var wg sync.WaitGroup
	wg.Go(func() {
		slots := make(chan struct{}, 128)
		for i := range n {
			slots <- struct{}{}
			body := strconv.Itoa(i) + " " + strings.Repeat("x", i%2000)
			q.Append(msg(body), []queue.Target{to("e", 0), to("f", 0)}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				<-slots
			})
		}
	})
	for _, name := range []string{"e", "f"} {
		wg.Go(func() {
			r := q.Reader(name)
			for next := 0; next < n; {
				<-r.Ready()
				for {
					list, err := r.Read(0, 100, 1<<20)
					if err != nil {
						t.Errorf("%s after %d: %v", name, next, err)
						return
					}
					if len(list) == 0 {
						break
					}
					for _, e := range list {
						text, _, _ := strings.Cut(string(e.Message.Body), " ")
						if text != strconv.Itoa(next) {
							t.Errorf("%s: got %s, want %d", name, text, next)
							return
						}
						next++
					}
					if name == "f" && next < n/2 {
						time.Sleep(5 * time.Millisecond) // over the disk
					}
					r.Settle(list...)
				}
			}
		})
	}
	wg.Wait()
	if q.Bytes() != 0 {
		t.Errorf("%d bytes left", q.Bytes())
	}
	if x := sound(t, s); x.Usage.Segments > 2 {
		t.Errorf("%d segments left", x.Usage.Segments)
	}
}
