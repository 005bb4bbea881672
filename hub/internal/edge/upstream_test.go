package edge_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// A cloud that answers slowly to many clients at once must not keep the hub from
// hearing of its own configuration, nor other clients from subscribing.
func TestSlowAnswersToClientsDoNotDelayTheHub(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		var crowd []*device
		for i := range 20 {
			id := iothub.DeviceIdentity(fmt.Sprint("d", i))
			r.dir.put(id, true)
			d := r.connect(id, head.DesiredChanges)
			crowd = append(crowd, d)
		}
		r.cloud.set(false)
		for _, d := range crowd {
			if _, err := d.session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); err != nil {
				t.Fatal(err)
			}
		}
		r.cloud.silence(true)
		r.cloud.set(true)
		time.Sleep(time.Second)
		r.cloud.setDesired(config(7, `"r":"`+toCloud+`"`))
		other := r.connect(leaf, head.Methods)
		time.Sleep(time.Second)
		other.send("", "routed")
		if got := r.cloud.got(leaf); got != "routed" {
			t.Errorf("the new configuration does not count yet: received %q", got)
		}
		if w := r.cloud.wants(leaf); !w.Methods {
			t.Errorf("cloud: %+v", w)
		}
		r.cloud.silence(false)
	})
}

func TestReportedPropertiesGoUpBeforeDesiredOnesComeDown(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.DesiredChanges)
		if _, err := d.session.Twin(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		r.cloud.set(false)
		if _, err := d.session.PatchReported(t.Context(), []byte(`{"while":"away"}`), 0); err != nil {
			t.Fatal(err)
		}
		r.cloud.change(func() {
			r.cloud.desired[leaf] = `{"wish":1,"$version":2}`
			r.cloud.calls = nil
		})
		r.cloud.set(true)
		time.Sleep(2 * time.Second)
		r.cloud.change(func() {
			var own []string
			for _, c := range r.cloud.calls {
				if strings.HasPrefix(c, "leaf ") {
					own = append(own, c)
				}
			}
			if fmt.Sprint(own) != "[leaf reported leaf twin]" {
				t.Errorf("calls %v", own)
			}
		})
		d.set(func() {
			if fmt.Sprint(d.patches) != `[{"$version":2,"wish":1}]` {
				t.Errorf("patches %v", d.patches)
			}
		})
	})
}

func TestConnectionOfAClientThatHasLeft(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("kept ", keep), func(t *testing.T) {
			within(t, func(_ *rig, o *edge.Options) { o.KeepConnections = keep }, func(t *testing.T, r *rig) {
				r.cloud.setDesired(config(2, `"r":"`+toCloud+`"`))
				d := r.connect(leaf)
				d.send("", "1")
				time.Sleep(time.Second)
				if r.cloud.conn(leaf) == nil {
					t.Fatal("no connection while the client is there")
				}
				d.end(nil)
				time.Sleep(time.Second)
				if there := r.cloud.conn(leaf) != nil; there != keep {
					t.Errorf("connection is there: %v", there)
				}
			})
		})
	}
}

func TestSubscriptionsThatDidNotGetThroughAreStatedAgain(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		var hidden atomic.Bool
		known := r.cloud.known
		r.cloud.known = func(id iothub.Identity) bool { return known(id) && !hidden.Load() }
		hidden.Store(true)
		r.connect(leaf, head.Methods)
		if r.cloud.conn(leaf) != nil {
			t.Fatal("a connection of an identity without a chain")
		}
		hidden.Store(false)
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if w := r.cloud.wants(leaf); w != (upstream.Wants{Methods: true}) {
			t.Errorf("cloud: %+v", w)
		}
	})
}

func TestSubscriptionsStayLocal(t *testing.T) {
	within(t, func(_ *rig, o *edge.Options) { o.LocalSubscriptions = true }, func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.Methods, head.C2D, head.DesiredChanges)
		time.Sleep(6 * time.Minute)
		r.cloud.set(false)
		r.cloud.set(true)
		time.Sleep(time.Minute)
		if w := r.cloud.wants(leaf); w != (upstream.Wants{}) {
			t.Errorf("cloud: %+v", w)
		}
		if w := r.cloud.wants(self); !w.Desired || !w.Methods {
			t.Errorf("the hub's own: %+v", w)
		}
		d.set(func() {
			d.answer = func(string) (int, json.RawMessage, bool) { return 200, nil, true }
		})
		answer, err := r.hub.Invoke(t.Context(), mod, leaf, iothub.MethodRequest{Name: "go"}, 0, time.Minute)
		if err != nil || answer.Status != 200 {
			t.Errorf("a method from here: %+v, %v", answer, err)
		}
	})
}
