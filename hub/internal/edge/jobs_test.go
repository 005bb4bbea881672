package edge

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobs(2)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- j.run(ctx) }()

		var mu sync.Mutex
		var log []string
		job := func(name, text string) {
			j.add(name, func(context.Context) {
				mu.Lock()
				log = append(log, text+" begins")
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				log = append(log, text+" ends")
				mu.Unlock()
			})
		}
		job("a", "a1")
		synctest.Wait()
		job("a", "a2") // replaced before it begins
		job("a", "a3")
		job("b", "b1")
		synctest.Wait()
		job("c", "c1") // both workers are busy
		synctest.Wait()
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		got := fmt.Sprint(log)
		if len(log) != 8 {
			t.Errorf("got %s", got)
		}
		open := map[byte]int{}
		for _, line := range log {
			if line[3:] == "begins" {
				open[line[0]]++
			} else {
				open[line[0]]--
			}
			if open[line[0]] > 1 {
				t.Errorf("two of %c at a time: %s", line[0], got)
			}
			if line[:2] == "a2" {
				t.Error("a job runs that was replaced")
			}
		}

		stopped := false
		j.add("last", func(ctx context.Context) { <-ctx.Done(); time.Sleep(time.Second); stopped = true })
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil || !stopped {
			t.Errorf("run ended with %v, job ended %v", err, stopped)
		}
	})
}
