package edge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func lastStatus(t *testing.T, r *rig) string {
	t.Helper()
	time.Sleep(10 * time.Second)
	report := r.cloud.ownReport(t)
	status, _ := report["lastDesiredStatus"].(map[string]any)
	return fmt.Sprint(report["lastDesiredVersion"], " ", status["code"], " ", status["description"])
}

func TestBadConfigurationIsRefusedAndTheGoodOneStays(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		if got := lastStatus(t, r); got != "2 200 " {
			t.Errorf("good: %s", got)
		}
		bad := `"good":"FROM /messages/* INTO $upstream","bad":"FROM nowhere"`
		r.cloud.setDesired(config(3, bad))
		if got := lastStatus(t, r); !strings.HasPrefix(got, "3 400 Error while parsing desired properties: routes.bad") {
			t.Errorf("bad: %s", got)
		}
		r.connect(leaf).send("", "x")
		if r.cloud.got(leaf) != "x" {
			t.Error("the good one is not in force")
		}
		r.cloud.setDesired(config(4, strings.Repeat(`"bad`+strings.Repeat("x", 3000)+`":"FROM nowhere",`, 3)+`"b":"FROM y"`))
		if got := lastStatus(t, r); !strings.HasPrefix(got, "4 400 Error") {
			t.Errorf("faults that fill pages: %s", got)
		}
		r.cloud.setDesired(config(5, ""))
		if got := lastStatus(t, r); got != "5 200 " {
			t.Errorf("good again: %s", got)
		}
	})
}

// counted counts writes.
type counted struct {
	edge.Config
	puts int
}

func (c *counted) Put(ctx context.Context, key string, value []byte) error {
	c.puts++
	return c.Config.Put(ctx, key, value)
}

func TestSameConfigurationIsAppliedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		c := &counted{}
		with := func(r *rig, o *edge.Options) {
			routed(toCloud)(r, o)
			c.Config = o.Config
			o.Config = c
		}
		r.start(with)
		r.cloud.set(true)
		for range 3 {
			r.cloud.set(false)
			r.cloud.set(true)
			time.Sleep(2 * time.Hour) // fetched again
		}
		if c.puts != 1 || strings.Count(r.log.String(), "configuration applied") != 1 {
			t.Errorf("%d writes, log %s", c.puts, r.log.String())
		}
		r.stop()
		r.cloud.change(func() { r.cloud.reported[self] = nil })
		r.start(with)
		if got := lastStatus(t, r); got != "2 200 " {
			t.Errorf("after a new start: %s", got)
		}
		if c.puts != 1 {
			t.Errorf("%d writes", c.puts)
		}
	})
}

func TestOfflineStartUsesTheLastGoodConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		configured := func() bool {
			select {
			case <-r.hub.Configured():
				return true
			default:
				return false
			}
		}
		r.start(routed(toSink))
		if configured() {
			t.Error("configured by nobody")
		}
		r.cloud.set(true)
		if !configured() {
			t.Error("not configured by the cloud")
		}
		r.cloud.setDesired(config(3, `"bad":"FROM nowhere"`))
		r.stop()
		r.cloud.set(false)
		r.start(nil)
		if !configured() {
			t.Fatal("not configured from disk")
		}
		d := r.connect(sink, head.Inputs)
		r.connect(mod).send("out", "x")
		if d.list() != "in:x" {
			t.Errorf("delivered %q", d.list())
		}
	})
}

func TestRemovedEndpointLosesItsMessages(t *testing.T) {
	within(t, routed(toSink, toCloud), func(t *testing.T, r *rig) {
		r.connect(mod).send("out", "1")
		r.cloud.setDesired(config(3, `"a":"`+toCloud+`"`))
		r.cloud.setDesired(config(4, `"a":"`+strings.ReplaceAll(toSink, `"`, `\"`)+`"`))
		d := r.connect(sink, head.Inputs)
		r.connect(mod).send("out", "2")
		if d.list() != "in:2" {
			t.Errorf("delivered %q", d.list())
		}
		if !strings.Contains(r.log.String(), "endpoint removed with its messages") {
			t.Error("nobody says that messages were lost")
		}
	})
}

func TestConfigurationIsFetchedAgainWhenThatFails(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.cloud.change(func() { r.cloud.up = false }) // without the hub being told
		r.cloud.setDesired(config(9, `"a":"`+toCloud+`"`))
		r.cloud.change(func() { r.cloud.up = true })
		time.Sleep(time.Minute)
		if got := lastStatus(t, r); got != "9 200 " {
			t.Errorf("got %s", got)
		}
	})
}

func TestOwnReportedProperties(t *testing.T) {
	within(t, func(_ *rig, o *edge.Options) { o.Twin = twin.Options{PushEvery: time.Second, Logger: o.Logger} }, func(t *testing.T, r *rig) {
		r.dir.put(iothub.DeviceIdentity("d.o$t#"), true)
		m, l := r.connect(mod), r.connect(leaf)
		time.Sleep(2 * time.Minute)
		r.connect(iothub.DeviceIdentity("d.o$t#"))
		time.Sleep(5 * time.Second)
		report := r.cloud.ownReport(t)
		version, _ := report["version"].(map[string]any)
		if report["schemaVersion"] != "1.0" || version["version"] != "1.2.3" {
			t.Errorf("report %v", report)
		}
		for _, key := range []string{"edge/mod", "leaf", "d%2Eo%24t%23"} {
			e := clientReport(t, r, key)
			if when, err := time.Parse(time.RFC3339Nano, fmt.Sprint(e["lastConnectedTimeUtc"])); e["status"] != "Connected" || err != nil || when.IsZero() {
				t.Errorf("%s: %v", key, e)
			}
		}
		m.end(nil)
		l.end(nil)
		time.Sleep(5 * time.Second)
		if e := clientReport(t, r, "edge/mod"); e["status"] != "Disconnected" || e["lastDisconnectedTimeUtc"] == nil || e["lastConnectedTimeUtc"] == nil {
			t.Errorf("module that has gone: %v", e)
		}
		if e := clientReport(t, r, "leaf"); e != nil {
			t.Errorf("leaf device that has gone: %v", e)
		}
		r.stop()
		r.start(nil)
		time.Sleep(10 * time.Second)
		if e := clientReport(t, r, "edge/mod"); e != nil {
			t.Errorf("what an earlier life said stays: %v", e)
		}
	})
}

// fullDisk are records that cannot be written at times.
type fullDisk struct {
	twin.Records
	full atomic.Bool
}

func (f *fullDisk) Put(ctx context.Context, key string, value []byte) error {
	if f.full.Load() {
		return store.ErrFull
	}
	return f.Records.Put(ctx, key, value)
}

func TestOwnReportIsNotLostWhenItCannotBeStored(t *testing.T) {
	disk := &fullDisk{}
	disk.full.Store(true)
	within(t, func(_ *rig, o *edge.Options) { disk.Records = o.Records; o.Records = disk }, func(t *testing.T, r *rig) {
		d := r.connect(mod)
		if _, err := d.session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); !errors.Is(err, store.ErrFull) {
			t.Errorf("patch on a full disk: %v", err)
		}
		time.Sleep(3 * time.Second)
		r.connect(leaf)
		time.Sleep(2 * time.Minute)
		disk.full.Store(false)
		time.Sleep(2 * time.Minute)
		report := r.cloud.ownReport(t)
		if report["schemaVersion"] != "1.0" || clientReport(t, r, "edge/mod")["status"] != "Connected" || clientReport(t, r, "leaf")["status"] != "Connected" {
			t.Errorf("report %v", report)
		}
	})
}

func TestConfigurationOfTheSettingsCountsInPlaceOfTheTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.start(func(_ *rig, o *edge.Options) {
			o.Fixed = []byte(`{"schemaVersion":"1.0","routes":{"r1":"FROM /* INTO $upstream"},"storeAndForwardConfiguration":{"timeToLiveSecs":-1}}`)
		})
		select {
		case <-r.hub.Configured():
		default:
			t.Fatal("not configured without a cloud")
		}
		r.cloud.set(true)
		r.cloud.setDesired(config(3, `"none":"FROM /twinChangeNotifications INTO $upstream"`))
		r.connect(leaf).send("", "x")
		if r.cloud.got(leaf) != "x" {
			t.Error("the twin's configuration is in force")
		}
	})
}

func TestBadConfigurationOfTheSettingsEndsTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.start(func(_ *rig, o *edge.Options) { o.Fixed = []byte(`{"schemaVersion":"1.0","routes":{"r1":"FORM"}}`) })
		r.cancel = nil
		if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "routes.r1") {
			t.Errorf("Run: %v", err)
		}
	})
}
