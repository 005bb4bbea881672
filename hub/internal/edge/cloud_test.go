package edge_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

var leaf2 = iothub.DeviceIdentity("leaf2")

func TestMessagesWaitForTheCloud(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		a, b := r.connect(leaf), r.connect(leaf2)
		a.send("", "0")
		r.cloud.set(false)
		for i := 1; i < 5; i++ {
			a.send("", fmt.Sprint(i))
			b.send("", fmt.Sprint(i))
		}
		time.Sleep(10 * time.Minute)
		if got := r.cloud.got(leaf) + r.cloud.got(leaf2); got != "0" {
			t.Errorf("received %s while away", got)
		}
		if n := r.counter("queue_length", `endpoint="iothub"`); n != 8 {
			t.Errorf("queue length %v", n)
		}
		if r.counter("offline_count_total") != 1 {
			t.Errorf("offline count %v", r.counter("offline_count_total"))
		}
		r.cloud.set(true)
		time.Sleep(5 * time.Second)
		if r.cloud.got(leaf) != "0 1 2 3 4" || r.cloud.got(leaf2) != "1 2 3 4" {
			t.Errorf("received %s and %s", r.cloud.got(leaf), r.cloud.got(leaf2))
		}
	})
}

func TestOneSendersTroubleDoesNotHoldUpOthers(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		a, b := r.connect(leaf), r.connect(leaf2)
		r.cloud.change(func() { r.cloud.broken[leaf] = true })
		for i := range 4 {
			a.send("", fmt.Sprint(i))
			b.send("", fmt.Sprint(i))
		}
		if r.cloud.got(leaf2) != "0 1 2 3" {
			t.Errorf("the good one: %s", r.cloud.got(leaf2))
		}
		time.Sleep(time.Minute)
		r.cloud.change(func() { r.cloud.broken[leaf] = false })
		time.Sleep(3 * time.Minute)
		if r.cloud.got(leaf) != "0 1 2 3" {
			t.Errorf("the other: %s", r.cloud.got(leaf))
		}
	})
}

func TestMessagesOfAnIdentityThatIsGoneAreDropped(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		a := r.connect(leaf)
		r.cloud.set(false)
		a.send("", "1", "2")
		a.end(nil)
		r.dir.change(func() { delete(r.dir.entries, leaf) })
		time.Sleep(3 * time.Minute)
		r.cloud.set(true)
		time.Sleep(5 * time.Minute)
		if n := r.counter("messages_dropped_total", `reason="permanent"`, `from="leaf"`); n != 2 || r.cloud.got(leaf) != "" {
			t.Errorf("%v dropped, received %q", n, r.cloud.got(leaf))
		}
	})
}

// A hub that has lost what it knew of identities must not take that for the truth.
func TestNothingIsDroppedBeforeTheScopeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.start(routed(toCloud))
		r.cloud.set(true)
		a := r.connect(leaf)
		r.cloud.set(false)
		a.send("", "1", "2")
		r.stop()
		bucket := r.store.Bucket("scope")
		for id := range r.dir.entries {
			if err := bucket.Delete(t.Context(), id.String()); err != nil {
				t.Fatal(err)
			}
		}
		r.dir.change(func() { r.dir.away = true })
		r.start(routed(toCloud))
		r.cloud.set(true)
		time.Sleep(10 * time.Minute)
		if n := r.counter("messages_dropped_total"); n != 0 {
			t.Fatalf("%v dropped", n)
		}
		r.dir.change(func() { r.dir.away = false })
		time.Sleep(5 * time.Minute)
		if r.cloud.got(leaf) != "1 2" {
			t.Errorf("received %q", r.cloud.got(leaf))
		}
	})
}

func TestRefusedIdentityIsLookedUp(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.C2D)
		time.Sleep(5 * time.Minute)
		r.dir.put(leaf, false)
		r.cloud.conn(leaf).cb.State(false, fmt.Errorf("%w: refused", upstream.ErrNoIdentity))
		if err := d.why(); !errors.Is(err, head.ErrExpired) {
			t.Errorf("client stays: %v", err)
		}
	})
}

func TestCloudToDevice(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf)
		if r.cloud.conn(leaf) != nil {
			t.Error("a connection that nobody needs")
		}
		deliver := func(body string) error {
			return r.hub.CloudMessage(t.Context(), leaf, &iothub.Message{Body: []byte(body)})
		}
		if deliver("0") == nil || d.list() != "" {
			t.Error("delivered without a subscription")
		}
		d.session.Subscribe(head.C2D)
		synctest.Wait()
		if r.cloud.wants(leaf) != (upstream.Wants{C2D: true}) {
			t.Errorf("cloud: %+v", r.cloud.wants(leaf))
		}
		tests := []struct {
			body    string
			outcome head.Outcome
			silent  bool
			told    string // to the cloud
		}{
			{"1", head.Complete, false, "complete"},
			{"2", head.Abandon, false, "abandon"},
			{"3", head.Reject, false, "reject"},
			{"4", head.Complete, true, "nothing"},
			{"5", head.Lost, false, "nothing"},
		}
		for _, tt := range tests {
			d.set(func() {
				d.outcome, d.fall = tt.outcome, ""
				if tt.silent {
					d.fall = "*"
				}
			})
			told := "abandon"
			switch err := deliver(tt.body); {
			case err == nil:
				told = "complete"
			case errors.Is(err, client.ErrReject):
				told = "reject"
			case errors.Is(err, client.ErrKeep):
				told = "nothing"
			}
			if told != tt.told {
				t.Errorf("message %s: %s, want %s", tt.body, told, tt.told)
			}
		}
		if d.list() != ":1 :2 :3 :4 :5" {
			t.Errorf("delivered %s", d.list())
		}
		d.session.Unsubscribe(head.C2D)
		synctest.Wait()
		if deliver("6") == nil || r.cloud.wants(leaf).C2D {
			t.Error("delivered after the subscription")
		}
		r.connect(mod, head.C2D)
		if r.cloud.wants(mod).C2D {
			t.Error("modules get no messages from the cloud")
		}
	})
}

func TestMethodFromTheCloud(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		call := func() (iothub.MethodResponse, time.Duration) {
			start := time.Now()
			return r.hub.CloudMethod(t.Context(), leaf, iothub.MethodRequest{Name: "go", Payload: json.RawMessage(`{"x":1}`)}), time.Since(start)
		}
		if a, took := call(); a.Status != 404 || took != 0 {
			t.Errorf("nobody there: %+v after %v", a, took)
		}
		d := r.connect(leaf)
		if a, took := call(); a.Status != 404 || took != 0 {
			t.Errorf("not subscribed: %+v after %v", a, took)
		}
		d.session.Subscribe(head.Methods)
		synctest.Wait()
		if !r.cloud.wants(leaf).Methods {
			t.Error("the cloud is not asked for methods")
		}
		if a, took := call(); a.Status != 504 || took != 330*time.Second {
			t.Errorf("silent: %+v after %v", a, took)
		}
		d.set(func() {
			d.answer = func(string) (int, json.RawMessage, bool) { return 201, json.RawMessage(`"ok"`), true }
		})
		if a, took := call(); a.Status != 201 || string(a.Payload) != `"ok"` || took != 0 {
			t.Errorf("answer: %+v after %v", a, took)
		}
		if d.calls[1] != `go {"x":1}` {
			t.Errorf("calls %v", d.calls)
		}
		d.set(func() { d.answer = nil })
		time.AfterFunc(time.Second, func() { d.end(errors.New("broken")) })
		if a, took := call(); a.Status != 404 || took != time.Second {
			t.Errorf("gone: %+v after %v", a, took)
		}
		if n := r.counter("direct_methods_total", `from="upstream"`, `to="leaf"`); n != 3 {
			t.Errorf("%v counted", n)
		}
	})
}

func TestMethodBetweenClientsWaitsForTheTarget(t *testing.T) {
	tests := []struct {
		name    string
		comes   time.Duration // when the target subscribes; 0: never
		connect time.Duration
		want    error
		took    time.Duration
	}{
		{"no wait", 0, 0, head.ErrNotConnected, 0},
		{"too late", 0, 10 * time.Second, head.ErrNotConnected, 10 * time.Second},
		{"in time, and gets a moment", 4 * time.Second, 10 * time.Second, nil, 7 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			within(t, nil, func(t *testing.T, r *rig) {
				d := r.connect(leaf)
				d.set(func() {
					d.answer = func(string) (int, json.RawMessage, bool) { return 200, nil, true }
				})
				if tt.comes > 0 {
					time.AfterFunc(tt.comes, func() { d.session.Subscribe(head.Methods) })
				}
				start := time.Now()
				a, err := r.hub.Invoke(t.Context(), mod, leaf, iothub.MethodRequest{Name: "go"}, tt.connect, 30*time.Second)
				if !errors.Is(err, tt.want) || time.Since(start) != tt.took || err == nil && a.Status != 200 {
					t.Errorf("%+v, %v after %v", a, err, time.Since(start))
				}
			})
		})
	}
}

func TestMethodsOfTheHubItself(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		tests := []struct {
			name, payload string
			away          bool
			status        int
			gets          int
		}{
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":["leaf","edge/mod"]}`, false, 200, 2},
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":["leaf"]}`, false, 200, 0}, // too soon
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":["nobody"]}`, false, 200, 1},
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":["leaf2"]}`, true, 500, 1},
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":"leaf"}`, false, 400, 0},
			{"RefreshDeviceScopeIdentityCache", `{"deviceIds":["a b"]}`, false, 400, 0},
			{"RefreshDeviceScopeIdentityCache", ``, false, 400, 0},
			{"Other", `{}`, false, 404, 0},
		}
		for _, tt := range tests {
			before := r.dir.gets
			r.dir.change(func() { r.dir.away = tt.away })
			a := r.hub.CloudMethod(t.Context(), self, iothub.MethodRequest{Name: tt.name, Payload: json.RawMessage(tt.payload)})
			if a.Status != tt.status || r.dir.gets-before != tt.gets {
				t.Errorf("%s %s: status %d after %d look-ups, want %d after %d", tt.name, tt.payload, a.Status, r.dir.gets-before, tt.status, tt.gets)
			}
		}
	})
}

func TestTwinThroughASession(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.cloud.change(func() { r.cloud.desired[leaf] = `{"a":1,"$version":7}` })
		d := r.connect(leaf, head.DesiredChanges)
		twin, err := d.session.Twin(t.Context())
		if err != nil || string(twin.Desired) != `{"a":1,"$version":7}` {
			t.Errorf("twin %s: %v", twin.Desired, err)
		}
		r.hub.CloudDesired(t.Context(), leaf, json.RawMessage(`{"a":2,"$version":8}`), 8)
		if got := fmt.Sprint(d.patchList()); got != `[{"a":2,"$version":8}]` {
			t.Errorf("patches %s", got)
		}
		r.cloud.set(false)
		if r.cloud.conn(leaf) != nil {
			t.Error("connections stay while the cloud is away")
		}
		start := time.Now()
		twin, err = d.session.Twin(t.Context())
		if err != nil || !strings.Contains(string(twin.Desired), `"a":2`) || time.Since(start) != 0 {
			t.Errorf("offline: %s: %v after %v", twin.Desired, err, time.Since(start))
		}
		if _, err := d.session.PatchReported(t.Context(), json.RawMessage(`{"r":1}`), 0); err != nil {
			t.Fatal(err)
		}
		unseen, err := r.connect(leaf2).session.Twin(t.Context())
		if err != nil || string(unseen.Desired) != `{"$version":0}` {
			t.Errorf("never seen: %s: %v", unseen.Desired, err)
		}
		time.Sleep(3 * time.Minute) // reconnects are not followed by a fetch more often than every 2
		r.cloud.change(func() { r.cloud.desired[leaf] = `{"b":1,"$version":9}` })
		r.cloud.set(true)
		time.Sleep(10 * time.Second)
		if got := fmt.Sprint(r.cloud.reports(leaf)); got != `[{"r":1}]` {
			t.Errorf("reported %s", got)
		}
		var patch map[string]any
		patches := d.patchList()
		if len(patches) != 2 || json.Unmarshal([]byte(patches[1]), &patch) != nil || fmt.Sprint(patch) != `map[$version:9 a:<nil> b:1]` {
			t.Errorf("after the reconnect: %v", patches)
		}
		if r.counter("gettwin_total", `source="edge_hub"`) != 2 || r.counter("gettwin_total", `source="upstream"`) != 1 {
			t.Errorf("counted: %s", r.page())
		}
	})
}

func TestSubscriptionsComeBackWithTheCloud(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.cloud.set(false)
		d := r.connect(leaf, head.C2D)
		time.Sleep(time.Minute)
		if r.cloud.conn(leaf) != nil {
			t.Error("a connection is tried while there is no cloud")
		}
		r.cloud.set(true)
		if r.cloud.wants(leaf) != (upstream.Wants{C2D: true}) {
			t.Errorf("cloud: %+v", r.cloud.wants(leaf))
		}
		r.cloud.set(false)
		d.end(nil)
		r.cloud.set(true)
		if r.cloud.conn(leaf) != nil {
			t.Error("a connection for a client that is gone")
		}
	})
}

func (c *cloud) reports(id iothub.Identity) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reported[id])
}

func (d *device) patchList() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.patches)
}

// change does something under the cloud's lock.
func (c *cloud) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func TestReportedPropertiesAreBounded(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf)
		patch := func(name, value string) error {
			_, err := d.session.PatchReported(t.Context(), json.RawMessage(fmt.Sprintf("{%q:%q}", name, value)), 0)
			return err
		}
		for i := range 7 {
			if err := patch(fmt.Sprint("k", i), strings.Repeat("x", 4096)); err != nil {
				t.Errorf("patch %d: %v", i, err)
			}
		}
		if err := patch("k7", strings.Repeat("x", 4096)); !errors.Is(err, head.ErrInvalid) {
			t.Errorf("over the limit of the whole: %v", err)
		}
		if err := patch("k6", "short"); err != nil {
			t.Errorf("replacing: %v", err)
		}
	})
}

func TestPatchThatTheCloudRefusesDoesNotBlockLaterOnes(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf)
		for _, patch := range []string{`{"a":"refuse me"}`, `{"b":1}`} {
			if _, err := d.session.PatchReported(t.Context(), json.RawMessage(patch), 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
		}
		if got := fmt.Sprint(r.cloud.reports(leaf)); got != `[{"b":1}]` {
			t.Errorf("reported %s", got)
		}
	})
}
