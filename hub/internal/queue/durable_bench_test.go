package queue_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
)

// BenchmarkDurable stores messages of 256 bytes, each writer waiting until its own is
// on disk: in the queue, and in the least that a group commit needs. One writer
// stands beside a write and fdatasync without any goroutines between, too.
func BenchmarkDurable(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		name := fmt.Sprintf("writers=%d/by=", writers)
		b.Run(name+"queue", func(b *testing.B) {
			q := newQueue(b, openStore(b, b.TempDir()), queue.Options{})
			targets := []queue.Target{to("e", queue.DefaultPriority)}
			write(b, writers, func(done chan error) {
				q.Append(benchMessage(), targets, func(err error) { done <- err })
			})
		})
		b.Run(name+"bare log", func(b *testing.B) {
			l := newBareLog(b)
			var committer sync.WaitGroup
			committer.Go(l.run)
			write(b, writers, func(done chan error) { l.next <- done })
			close(l.next)
			committer.Wait()
		})
		if writers == 1 {
			b.Run(name+"fdatasync", func(b *testing.B) {
				l := newBareLog(b)
				write(b, 1, func(done chan error) { l.commit([]chan error{done}) })
			})
		}
	}
}

// write stores b.N messages; store tells done when one is on disk.
func write(b *testing.B, writers int, store func(done chan error)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			done := make(chan error, 1)
			for next.Add(1) <= int64(b.N) {
				store(done)
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
}

// bareSize is what the queue writes for a message of 256 bytes, nearly.
const bareSize = 400

// bareLog is a file of blocks that exist, and whoever waits.
type bareLog struct {
	f    *os.File
	at   int64
	next chan chan error
}

func newBareLog(b *testing.B) *bareLog {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 256<<20); err != nil {
		b.Fatal(err)
	}
	return &bareLog{f: f, next: make(chan chan error, 1024)}
}

func (l *bareLog) run() {
	for first := range l.next {
		group := []chan error{first}
		for more := true; more; {
			select {
			case c, open := <-l.next:
				if more = open; open {
					group = append(group, c)
				}
			default:
				more = false
			}
		}
		l.commit(group)
	}
}

func (l *bareLog) commit(group []chan error) {
	_, err := l.f.WriteAt(make([]byte, bareSize*len(group)), l.at)
	if l.at += int64(bareSize * len(group)); l.at > 255<<20 {
		l.at = 0
	}
	if err == nil {
		err = unix.Fdatasync(int(l.f.Fd()))
	}
	for _, c := range group {
		c <- err
	}
}
