package queue_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func benchMessage() *iothub.Message {
	m := &iothub.Message{Body: make([]byte, 256)}
	m.System.Set(iothub.ConnectionDeviceID, "gateway-0001")
	m.System.Set(iothub.ConnectionModuleID, "sensor")
	m.System.Set(iothub.OutputName, "out")
	m.System.Set(iothub.EdgeMessageID, "0c6cf5ad-90f6-4e4b-8a6a-5d6e6a1d2b10")
	return m
}

// BenchmarkDrain measures reading and settling a backlog from disk.
func BenchmarkDrain(b *testing.B) {
	q := newQueue(b, openStore(b, b.TempDir()), queue.Options{})
	fill(b, q, b.N)
	r := q.Reader("e")
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		list, err := r.Read(queue.DefaultPriority, 256, 1<<20)
		if err != nil || len(list) == 0 {
			b.Fatalf("%d messages, %v", n, err)
		}
		n += len(list)
		r.Settle(list...)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// fill appends n messages with 512 in flight.
func fill(tb testing.TB, q *queue.Queue, n int) {
	targets := []queue.Target{to("e", queue.DefaultPriority)}
	slots := make(chan struct{}, 512)
	for range n {
		slots <- struct{}{}
		q.Append(benchMessage(), targets, func(err error) {
			if err != nil {
				tb.Error(err)
			}
			<-slots
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
}

// TestBacklogCostsLittle measures memory and start with one million messages; it
// runs only when asked for, with QUEUE_BACKLOG=1000000.
func TestBacklogCostsLittle(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("QUEUE_BACKLOG"))
	if err != nil {
		n = 20_000
	}
	start := func(dir string) (*place, *queue.Queue, time.Duration) {
		begin := time.Now()
		s := openStore(t, dir)
		q := newQueue(t, s, queue.Options{})
		return s, q, time.Since(begin)
	}
	dir := t.TempDir()
	s, _, fresh := start(dir)
	_ = s.Close()
	s, q, empty := start(dir)
	before := residentKiB(t)
	fill(t, q, n)
	peak := residentKiB(t)
	after := residentKiB(t)
	closing := time.Now()
	_ = s.Close()
	closed := time.Since(closing)
	_, q, full := start(dir)
	if q.Len("e", queue.DefaultPriority) != n {
		t.Fatalf("%d messages", q.Len("e", queue.DefaultPriority))
	}
	first := time.Now()
	if list := read(t, q.Reader("e"), queue.DefaultPriority, 1); len(list) != 1 {
		t.Fatal("no first message")
	}
	t.Logf("%d messages: start %v (fresh %v, empty %v), close %v, first read %v; resident %d KiB, at first %d KiB, before %d KiB, reopened %d KiB; disk %d KiB",
		n, full, fresh, empty, closed, time.Since(first), after, peak, before, residentKiB(t), q.Usage().Bytes>>10)
	if n >= 100_000 && full > 2*empty+100*time.Millisecond {
		t.Errorf("a start takes %v, with an empty queue %v", full, empty)
	}
}

func residentKiB(t testing.TB) int {
	debug.FreeOSMemory()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var out int
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscan(v, &out)
		}
		if strings.HasPrefix(line, "Rss") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return out
}

// BenchmarkMillionQueued stores a million messages, opens them anew, and delivers
// them: what they take of disk and memory, and how long a start takes beside one with
// no messages.
func BenchmarkMillionQueued(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		p := openStore(b, b.TempDir())
		newQueue(b, p, queue.Options{})
		_ = p.Close()
		began := time.Now()
		q := newQueue(b, p, queue.Options{})
		empty := time.Since(began)
		before := residentKiB(b)
		fill(b, q, n)
		b.ReportMetric(float64(residentKiB(b)-before)/1024, "MiB-more")
		b.ReportMetric(float64(q.Usage().Bytes)/n, "disk-B/msg")
		_ = p.Close()
		began = time.Now()
		q = newQueue(b, p, queue.Options{})
		b.ReportMetric(float64(time.Since(began).Microseconds()), "µs-start")
		b.ReportMetric(float64(empty.Microseconds()), "µs-start-empty")
		r := q.Reader("e")
		began = time.Now()
		for left := n; left > 0; {
			list, err := r.Read(queue.DefaultPriority, 256, 1<<20)
			if err != nil || len(list) == 0 {
				b.Fatalf("%d messages left, %v", left, err)
			}
			left -= len(list)
			r.Settle(list...)
		}
		b.ReportMetric(n/time.Since(began).Seconds(), "drained/s")
		_ = p.Close()
	}
}
