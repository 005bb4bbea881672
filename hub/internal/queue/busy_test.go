package queue_test

import (
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// TestNothingIsLostWhileSpaceIsGivenBack has the store merge its tables all the
// time under writers and a reader that lags behind.
func TestNothingIsLostWhileSpaceIsGivenBack(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{
		Logger:          slog.New(slog.DiscardHandler),
		ReclaimInterval: 5 * time.Millisecond,
		ReclaimBytes:    1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := newQueue(t, s, queue.Options{})
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
	flush(t, s)
	if k := keys(t, s, "qm") + keys(t, s, "qb"); k != 0 || q.Bytes() != 0 {
		t.Errorf("%d records, %d bytes left", k, q.Bytes())
	}
}
