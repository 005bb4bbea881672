package seglog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

const benchSize = 400

// bare is the least that a group commit needs: a file, and whoever waits.
type bare struct {
	f    *os.File
	at   int64
	next chan chan error
}

func newBare(b *testing.B) *bare {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 256<<20); err != nil {
		b.Fatal(err)
	}
	return &bare{f: f, next: make(chan chan error, 1024)}
}

func (l *bare) run() {
	for first := range l.next {
		group := []chan error{first}
		for more := true; more; {
			select {
			case c := <-l.next:
				group = append(group, c)
			default:
				more = false
			}
		}
		_, err := l.f.WriteAt(make([]byte, benchSize*len(group)), l.at)
		l.at += int64(benchSize * len(group))
		if err == nil {
			err = unix.Fdatasync(int(l.f.Fd()))
		}
		for _, c := range group {
			c <- err
		}
	}
}

// BenchmarkBareGroupCommit is what BenchmarkAppend of package queue is measured by:
// with one writer it is one write and fdatasync.
func BenchmarkBareGroupCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := newBare(b)
			defer l.f.Close()
			var committer, wg sync.WaitGroup
			committer.Go(l.run)
			var n atomic.Int64
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					c := make(chan error, 1)
					for n.Add(1) <= int64(b.N) {
						l.next <- c
						if err := <-c; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			close(l.next)
			committer.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
		})
	}
}

// BenchmarkWrite is one frame at a time.
func BenchmarkWrite(b *testing.B) {
	f, err := seglog.Dir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	o := newOwner()
	o.l, err = seglog.Open(f, seglog.Options{Snapshot: o.snapshot, Restore: o.restore, Replay: o.replay})
	if err != nil {
		b.Fatal(err)
	}
	defer o.l.Close()
	for b.Loop() {
		if err := o.write(true, benchSize, 1); err != nil {
			b.Fatal(err)
		}
	}
}
