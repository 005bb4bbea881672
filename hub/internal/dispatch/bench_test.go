package dispatch_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// counting takes everything at once and tells when n have come.
type counting struct {
	n    int // only Deliver's goroutine
	want int
	all  chan struct{}
}

func (*counting) Window() int { return 512 }
func (c *counting) Deliver(_ *iothub.Message, _ dispatch.Info, done func(error)) {
	done(nil)
	if c.n++; c.n == c.want {
		close(c.all)
	}
}

// BenchmarkThrough measures messages of 256 bytes from Append to settled, on disk,
// with so many waiting for their acknowledgement at a time.
func BenchmarkThrough(b *testing.B) {
	for _, flight := range []int{64, 512} {
		for _, endpoints := range []int{1, 4} {
			b.Run(fmt.Sprintf("flight=%d/endpoints=%d", flight, endpoints), func(b *testing.B) {
				through(b, flight, endpoints)
			})
		}
	}
}

func through(b *testing.B, flight, endpoints int) {
	logger := slog.New(slog.DiscardHandler)
	folder, err := seglog.Dir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	q, err := queue.Open(folder, queue.Options{Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	e := dispatch.New(q, dispatch.Options{Logger: logger})
	sinks := make(map[string]dispatch.Sink)
	var all []*counting
	var targets []queue.Target
	for i := range endpoints {
		c := &counting{want: b.N, all: make(chan struct{})}
		all = append(all, c)
		name := fmt.Sprint("e", i)
		sinks[name] = c
		targets = append(targets, queue.Target{Endpoint: name, Priority: queue.DefaultPriority, TTL: -1})
	}
	_ = e.Reconfigure(b.Context(), sinks)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) })
	slots := make(chan struct{}, flight)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		slots <- struct{}{}
		m := &iothub.Message{Body: make([]byte, 256)}
		m.System = iothub.Properties{{Name: iothub.ConnectionDeviceID, Value: "gateway-0001"}, {Name: iothub.ConnectionModuleID, Value: "sensor"}}
		q.Append(m, targets, func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
		})
	}
	for _, c := range all {
		<-c.all
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	b.StopTimer()
	cancel()
	wg.Wait()
}
