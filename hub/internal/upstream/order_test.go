package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// poolSink brings a queue's messages to a pool, as the edge hub does.
type poolSink struct{ pool *upstream.Pool }

func (poolSink) OrderedBySender() {}
func (poolSink) Window() int      { return 64 }
func (k poolSink) Deliver(m *iothub.Message, info dispatch.Info, done func(error)) {
	k.pool.Send(m, upstream.Lane{Priority: info.Priority, First: info.First}, done)
}

// line is a whole way from a queue to the cloud.
type line struct {
	t     *testing.T
	q     *queue.Queue
	e     *dispatch.Engine
	pool  *upstream.Pool
	acked sync.WaitGroup
	stop  func()
}

func newLine(t *testing.T, dial upstream.Dialer) *line {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	q, err := queue.Open(simdisk.New().Folder(), queue.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, q: q, pool: upstream.New(dial, &listener{}, upstream.Options{Logger: quiet})}
	l.e = dispatch.New(q, dispatch.Options{Logger: quiet, Hooks: dispatch.Hooks{
		Sent:    func(*iothub.Message, dispatch.Info, time.Duration) { l.acked.Done() },
		Dropped: func(*iothub.Message, dispatch.Info, string) { t.Error("dropped"); l.acked.Done() },
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.pool.Run(ctx) })
	wg.Go(func() { _ = l.e.Run(ctx) })
	synctest.Wait()
	if err := l.e.Reconfigure(ctx, map[string]dispatch.Sink{"up": poolSink{l.pool}}); err != nil {
		t.Fatal(err)
	}
	l.stop = func() {
		cancel()
		wg.Wait()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	return l
}

// send stores a message of a sender.
func (l *line) send(sender iothub.Identity, body string, priority uint32) {
	m := &iothub.Message{Body: []byte(body)}
	m.System.Set(iothub.ConnectionDeviceID, sender.Device)
	if sender.IsModule() {
		m.System.Set(iothub.ConnectionModuleID, sender.Module)
	}
	l.acked.Add(1)
	l.q.Append(m, []queue.Target{{Endpoint: "up", Priority: priority, TTL: -1}}, func(err error) {
		if err != nil {
			l.t.Errorf("append: %v", err)
			l.acked.Done()
		}
	})
}

// noneOvertook checks that every message 0..n-1 is there, and that none came before
// an earlier one had come.
func noneOvertook(t *testing.T, sender string, got []string, n int) {
	t.Helper()
	next := 0
	for i, body := range got {
		k, err := strconv.Atoi(body)
		switch {
		case err != nil:
			t.Fatalf("%s: body %q", sender, body)
		case k > next:
			t.Fatalf("%s: message %d came at %d, before %d had come: %v", sender, k, i, next, got[max(0, i-20):i+1])
		case k == next:
			next++
		}
	}
	if next != n {
		t.Fatalf("%s: %d messages of %d have come", sender, next, n)
	}
}

func TestNoMessageOvertakesAnother(t *testing.T) {
	const senders, each = 3, 400
	tests := []struct {
		name    string
		options func(*client.Options)
		trouble func(ctx context.Context, c *cloud, p *upstream.Pool)
	}{
		{"when connections break", nil, func(ctx context.Context, c *cloud, _ *upstream.Pool) {
			for pause(ctx, 7*time.Second) {
				c.set(func() { c.deaf = true })
				pause(ctx, time.Duration(rand.N(40))*time.Millisecond)
				c.cut()
				c.set(func() { c.deaf = false })
			}
		}},
		{"when acknowledgements are lost", nil, func(ctx context.Context, c *cloud, _ *upstream.Pool) {
			for pause(ctx, 7*time.Second) {
				c.set(func() { c.mute = true })
				pause(ctx, time.Duration(rand.N(40))*time.Millisecond)
				c.cut()
				c.set(func() { c.mute = false })
			}
		}},
		{"when tokens are renewed while the cloud is deaf", func(o *client.Options) { o.TokenLifetime = 20 * time.Second },
			func(ctx context.Context, c *cloud, _ *upstream.Pool) {
				for pause(ctx, 5*time.Second) {
					c.set(func() { c.deaf = true })
					pause(ctx, 4*time.Second)
					c.set(func() { c.deaf = false })
				}
			}},
		{"when connections are closed", nil, func(ctx context.Context, c *cloud, p *upstream.Pool) {
			for pause(ctx, 6*time.Second) {
				c.set(func() { c.deaf = true })
				pause(ctx, time.Duration(rand.N(30))*time.Millisecond)
				p.CloseOthers(self)
				pause(ctx, time.Duration(rand.N(4))*time.Second)
				c.set(func() { c.deaf = false })
			}
		}},
		{"when the cloud is away", nil, func(ctx context.Context, c *cloud, _ *upstream.Pool) {
			for pause(ctx, 20*time.Second) {
				c.set(func() { c.away = true })
				c.cut()
				pause(ctx, 25*time.Second)
				c.set(func() { c.away = false })
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, p client.Protocol) {
				c := newCloud(t, p)
				l := newLine(t, c.dialer(tt.options))
				defer l.stop()
				ctx, calm := context.WithCancel(t.Context())
				var trouble sync.WaitGroup
				trouble.Go(func() { tt.trouble(ctx, c, l.pool) })
				for i := range each {
					for s := range senders {
						l.send(iothub.DeviceIdentity(fmt.Sprint("d", s)), strconv.Itoa(i), 0)
					}
					if i%10 == 9 {
						pause(ctx, time.Duration(rand.N(4000))*time.Millisecond)
					}
				}
				calm()
				trouble.Wait()
				c.set(func() { c.deaf, c.mute, c.away = false, false, false })
				l.acked.Wait()
				for s := range senders {
					id := fmt.Sprint("d", s)
					noneOvertook(t, id, c.bodies(id), each)
				}
			})
		})
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// The engine may hand over more of a lane before it has seen that an earlier
// message has failed.
func TestMessageAfterAFailureWaitsForTheFirst(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		pool := runPool(t, c.dialer(nil), &listener{}, upstream.Options{})
		var results []string
		var mu sync.Mutex
		send := func(body string, lane upstream.Lane) {
			m := &iothub.Message{Body: []byte(body)}
			m.System.Set(iothub.ConnectionDeviceID, "d")
			pool.Send(m, lane, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				results = append(results, fmt.Sprint(body, " ", err == nil))
				if err != nil && !errors.Is(err, upstream.ErrDown) {
					t.Errorf("%s: %v", body, err)
				}
			})
		}
		first, later := upstream.Lane{First: true}, upstream.Lane{}
		send("0", first)
		synctest.Wait()
		c.set(func() { c.deaf = true })
		send("1", later)
		send("2", later)
		synctest.Wait()
		c.cut()
		c.set(func() { c.deaf = false })
		synctest.Wait() // 1 and 2 have failed
		send("3", later)
		send("other lane", upstream.Lane{Priority: 7, First: true})
		time.Sleep(time.Minute)
		send("4", later)
		synctest.Wait()
		send("1", first)
		send("2", later)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := "[0 true 1 false 2 false 3 false other lane true 4 false 1 true 2 true]"
		if got := fmt.Sprint(results); got != want {
			t.Errorf("results %s\nwant    %s", got, want)
		}
	})
}
