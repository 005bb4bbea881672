package edge_test

import (
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func limited(l edge.Limits) func(*rig, *edge.Options) {
	return func(r *rig, o *edge.Options) {
		routed(toSink)(r, o)
		o.Limits = l
	}
}

// flood sends ten messages of 1 kB and returns how many were accepted.
func flood(t *testing.T, r *rig) int {
	t.Helper()
	d, accepted := r.connect(mod), 0
	for range 10 {
		m := &iothub.Message{Body: []byte(strings.Repeat("x", 1000))}
		done := make(chan error, 1)
		d.session.Telemetry(t.Context(), m, func(err error) { done <- err })
		if <-done == nil {
			accepted++
		}
	}
	return accepted
}

func TestFullQueueRefusesNewMessages(t *testing.T) {
	within(t, limited(edge.Limits{MaxBytes: 5_000}), func(t *testing.T, r *rig) {
		accepted := flood(t, r)
		if accepted == 0 || accepted > 4 {
			t.Errorf("%d accepted", accepted)
		}
		if n := r.counter("messages_unack_total", `reason="storage_failure"`); n != float64(10-accepted) {
			t.Errorf("%v counted as not acknowledged, %d were accepted", n, accepted)
		}
		if n := r.counter("messages_dropped_total"); n != 0 {
			t.Errorf("%v dropped", n)
		}
		if !strings.Contains(r.log.String(), "queue limit reached") {
			t.Error("nothing in the log")
		}
	})
}

func TestFullQueueDropsTheOldest(t *testing.T) {
	within(t, limited(edge.Limits{MaxBytes: 5_000, WhenFull: queue.DropOldest}), func(t *testing.T, r *rig) {
		if accepted := flood(t, r); accepted != 10 {
			t.Errorf("%d accepted", accepted)
		}
		n := r.counter("messages_dropped_total", `reason="queue_full"`, `from="edge/mod"`)
		if n < 6 || n > 9 {
			t.Errorf("%v dropped", n)
		}
		if !strings.Contains(r.log.String(), "queue limit reached") {
			t.Error("nothing in the log")
		}
	})
}

func TestMaxAgeShortensEveryTimeToLive(t *testing.T) {
	within(t, limited(edge.Limits{MaxAge: time.Minute}), func(t *testing.T, r *rig) {
		r.connect(mod).send("out", "old")
		time.Sleep(2 * time.Minute) // the configuration allows an hour
		if d := r.connect(sink, head.Inputs); d.list() != "" {
			t.Errorf("delivered %s", d.list())
		}
		if n := r.counter("messages_dropped_total", `reason="ttl_expiry"`); n != 1 {
			t.Errorf("%v dropped", n)
		}
	})
}
