package edge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// The time to live of a route counts before that of all; a negative one never ends;
// what is stored keeps the one that it was stored with (spec edgehub-routing 6.8).
func TestLifetimes(t *testing.T) {
	desired := func(version, seconds, ofRoute int) string {
		return fmt.Sprintf(`{"schemaVersion":"1.1","storeAndForwardConfiguration":{"timeToLiveSecs":%d},"$version":%d,"routes":{
			"r":{"route":"FROM /messages/* INTO BrokeredEndpoint(\"/modules/sink/inputs/in\")","timeToLiveSecs":%d}}}`, seconds, version, ofRoute)
	}
	for _, tt := range []struct {
		name         string
		all, ofRoute int // seconds
		after        time.Duration
		there        bool
	}{
		{"that of all counts", 60, 0, 61 * time.Second, false},
		{"within that of all", 60, 0, 59 * time.Second, true},
		{"that of the route is shorter", 3600, 60, 61 * time.Second, false},
		{"that of the route is longer", 60, 600, 9 * time.Minute, true},
		{"never", -1, 0, 10 * time.Minute, true},
		{"the route ends what never ends", -1, 60, 61 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			within(t, nil, func(t *testing.T, r *rig) {
				r.cloud.setDesired(desired(2, tt.all, tt.ofRoute))
				r.connect(mod).send("out", "x")
				r.cloud.setDesired(desired(3, 1, 1)) // not for what is stored
				time.Sleep(tt.after)
				d := r.connect(sink, head.Inputs)
				if there := d.list() == "in:x"; there != tt.there {
					t.Errorf("delivered %q after %v", d.list(), tt.after)
				}
				if n := r.counter("messages_dropped_total", `reason="ttl_expiry"`); (n == 0) != tt.there {
					t.Errorf("%v counted as expired", n)
				}
			})
		})
	}
}

func TestTwinChangesGoUpAsTelemetryOfTheHub(t *testing.T) {
	for source, want := range map[string]string{"/*": `{"a":1}`, "/messages/*": ""} {
		t.Run(source, func(t *testing.T) {
			within(t, routed("FROM "+source+" INTO $upstream"), func(t *testing.T, r *rig) {
				if _, err := r.connect(leaf).session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if got := r.cloud.got(self); got != want || r.cloud.got(leaf) != "" {
					t.Errorf("received %q of the hub, %q of the leaf", got, r.cloud.got(leaf))
				}
			})
		})
	}
}

func TestMessagesOfADisabledDeviceAreDroppedAndHoldUpNoOther(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		a, b := r.connect(leaf), r.connect(leaf2)
		r.cloud.set(false)
		for i := range 3 {
			a.send("", fmt.Sprint("a", i))
			b.send("", fmt.Sprint("b", i))
		}
		r.dir.put(leaf, false)
		time.Sleep(3 * time.Minute)
		r.cloud.set(true)
		time.Sleep(3 * time.Minute)
		if got := r.cloud.got(leaf2); got != "b0 b1 b2" {
			t.Errorf("of the other: %q", got)
		}
		if n := r.counter("messages_dropped_total", `reason="permanent"`, `from="leaf"`); n != 3 || r.cloud.got(leaf) != "" {
			t.Errorf("%v dropped, received %q", n, r.cloud.got(leaf))
		}
		if n := r.counter("queue_length", `endpoint="iothub"`); n != 0 {
			t.Errorf("queue length %v", n)
		}
	})
}
