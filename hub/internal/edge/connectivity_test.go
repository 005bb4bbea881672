package edge_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// own is what the cloud has seen of the hub's own connection: how many there were,
// and how often one was tried.
func (c *cloud) own() (made, tried int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.dialed {
		if id == self {
			made++
		}
	}
	for _, p := range c.reported[self] {
		if p == "{}" {
			tried++
		}
	}
	return made, tried
}

func (c *cloud) silence(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = on
}

func TestQuietConnectionIsTriedAndASilentOneMadeAnew(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		time.Sleep(17 * time.Minute)
		if made, tried := r.cloud.own(); made != 1 || tried != 3 {
			t.Errorf("%d connections, tried %d times in 17 minutes", made, tried)
		}
		r.cloud.silence(true)
		time.Sleep(6 * time.Minute)
		r.cloud.silence(false)
		synctest.Wait()
		if made, _ := r.cloud.own(); made < 2 || r.counter("offline_count_total") == 0 {
			t.Errorf("%d connections after silence of the cloud", made)
		}
		time.Sleep(time.Minute)
		before, _ := r.cloud.own()
		time.Sleep(time.Hour)
		if made, _ := r.cloud.own(); made != before {
			t.Error("connections are made anew although the cloud answers")
		}
	})
}

func TestCallThatTimesOutTriesTheConnectionAtOnce(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf)
		r.cloud.silence(true)
		if _, err := d.session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); err != nil {
			t.Fatal(err)
		}
		// 5 s to the push, 20 s to its end, 20 s to that of the try.
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if made, _ := r.cloud.own(); made != 2 {
			t.Errorf("%d connections", made)
		}
	})
}

func TestConnectivityCheckCanBeSwitchedOff(t *testing.T) {
	within(t, func(_ *rig, o *edge.Options) { o.Connectivity = -1 }, func(t *testing.T, r *rig) {
		time.Sleep(time.Hour)
		if _, tried := r.cloud.own(); tried != 0 {
			t.Errorf("tried %d times", tried)
		}
	})
}

func TestMessageThatTheDeviceHasIsNotDeliveredTwice(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.C2D)
		d.set(func() { d.fall = "*" })
		message := func(lock string) *iothub.Message {
			m := &iothub.Message{Body: []byte(lock)}
			m.System.Set(iothub.LockToken, lock)
			return m
		}
		first := make(chan error, 1)
		go func() { first <- r.hub.CloudMessage(t.Context(), leaf, message("a")) }()
		synctest.Wait()
		if err := r.hub.CloudMessage(t.Context(), leaf, message("a")); !errors.Is(err, client.ErrKeep) {
			t.Errorf("the second: %v", err)
		}
		d.mu.Lock()
		settle := slices.Clone(d.open)
		d.mu.Unlock()
		settle[0](head.Complete)
		if err := <-first; err != nil {
			t.Error(err)
		}
		d.set(func() { d.fall = "" })
		if err := r.hub.CloudMessage(t.Context(), leaf, message("a")); err != nil {
			t.Errorf("when the first is settled: %v", err)
		}
		if d.list() != ":a :a" {
			t.Errorf("delivered %s", d.list())
		}
	})
}
