package edge_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestWhoIsAdmitted(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.dir.put(iothub.DeviceIdentity("off"), false)
		anonymous := head.Login{Identity: mod, Protocol: "mqtt"}
		chained := login(t, leaf, key, time.Hour)
		chained.AuthChain = "leaf;child;edge"
		tests := []struct {
			name  string
			login head.Login
			want  error
		}{
			{"module of this device", login(t, mod, key, time.Hour), nil},
			{"leaf device", login(t, leaf, key, time.Hour), nil},
			{"wrong key", login(t, mod, key2, time.Hour), head.ErrUnauthorized},
			{"expired token", login(t, mod, key, -time.Hour), head.ErrUnauthorized},
			{"nothing to show", anonymous, head.ErrUnauthorized},
			{"unknown device", login(t, iothub.DeviceIdentity("nobody"), key, time.Hour), head.ErrUnauthorized},
			{"disabled device", login(t, iothub.DeviceIdentity("off"), key, time.Hour), head.ErrUnauthorized},
			{"the hub itself", login(t, self, key, time.Hour), head.ErrUnauthorized},
			{"on behalf of another", chained, head.ErrUnauthorized},
		}
		for _, tt := range tests {
			refused := r.counter("client_connect_failed_total")
			d, err := r.try(tt.login)
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
			if err == nil {
				d.end(nil)
			} else if r.counter("client_connect_failed_total")-refused != 1 {
				t.Errorf("%s: not counted", tt.name)
			}
		}
	})
}

func TestNoMoreClientsThanAllowed(t *testing.T) {
	within(t, func(_ *rig, o *edge.Options) { o.MaxClients = 2 }, func(t *testing.T, r *rig) {
		first := r.connect(mod)
		r.connect(sink)
		if _, err := r.try(login(t, leaf, key, time.Hour)); !errors.Is(err, head.ErrUnavailable) {
			t.Errorf("third client: %v", err)
		}
		r.connect(mod) // takes the place of the older one
		if first.why() == nil {
			t.Error("the older connection stays")
		}
		if n := r.counter("connected_clients"); n != 2 {
			t.Errorf("%v clients", n)
		}
	})
}

func TestNewestConnectionOfAnIdentityWins(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		old := r.connect(leaf, head.C2D, head.Methods)
		if r.cloud.wants(leaf) != (upstream.Wants{C2D: true, Methods: true}) {
			t.Errorf("cloud: %+v", r.cloud.wants(leaf))
		}
		d := r.connect(leaf, head.Methods)
		if !errors.Is(old.why(), head.ErrReplaced) {
			t.Errorf("older connection: %v", old.why())
		}
		old.session.Subscribe(head.DesiredChanges) // it may not know yet
		time.Sleep(time.Minute)
		if got := r.cloud.wants(leaf); got != (upstream.Wants{Methods: true}) {
			t.Errorf("cloud: %+v, want what the newer connection wants", got)
		}
		if status := fmt.Sprint(clientReport(t, r, "leaf")["status"]); status != "Connected" {
			t.Errorf("reported %s", status)
		}
		d.end(nil)
		time.Sleep(time.Minute)
		if r.cloud.conn(leaf) != nil {
			t.Error("the connection to the cloud outlives the client")
		}
	})
}

func clientReport(t *testing.T, r *rig, key string) map[string]any {
	t.Helper()
	clients, _ := r.cloud.ownReport(t)["clients"].(map[string]any)
	entry, _ := clients[key].(map[string]any)
	return entry
}

func TestClientsAreDropped(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, r *rig)
		wait   time.Duration
		who    iothub.Identity
		want   error
	}{
		{"when the identity is disabled", func(_ *testing.T, r *rig) { r.dir.put(leaf, false) }, 61 * time.Minute, leaf, head.ErrExpired},
		{"when the identity is gone", func(_ *testing.T, r *rig) { r.dir.change(func() { delete(r.dir.entries, leaf) }) }, 61 * time.Minute, leaf, head.ErrExpired},
		{"when its key has changed", func(_ *testing.T, r *rig) {
			r.dir.change(func() { e := r.dir.entries[leaf]; e.Primary = key2; r.dir.entries[leaf] = e })
		}, 61 * time.Minute, leaf, head.ErrExpired},
		{"when their device is disabled", func(_ *testing.T, r *rig) { r.dir.put(iothub.DeviceIdentity("edge"), false) }, 61 * time.Minute, mod, head.ErrExpired},
		{"when the token expires", func(*testing.T, *rig) {}, 190 * time.Minute, leaf, head.ErrExpired},
		{"when the hub stops", func(_ *testing.T, r *rig) { r.stop() }, 0, leaf, head.ErrShutdown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			within(t, nil, func(t *testing.T, r *rig) {
				d := map[iothub.Identity]*device{leaf: r.connect(leaf, head.C2D), mod: r.connect(mod, head.DesiredChanges)}
				tt.change(t, r)
				time.Sleep(tt.wait)
				if err := d[tt.who].why(); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if r.cloud.conn(tt.who) != nil {
					t.Error("the cloud connection stays")
				}
			})
		})
	}
}

func TestTwinGoesWithItsIdentity(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.C2D)
		if _, err := d.session.Twin(t.Context()); err != nil {
			t.Fatal(err)
		}
		twins := r.store.Bucket("twins")
		if _, err := twins.Get(leaf.String()); err != nil {
			t.Fatalf("the twin is not stored: %v", err)
		}
		r.dir.change(func() { delete(r.dir.entries, leaf) })
		time.Sleep(61 * time.Minute)
		if _, err := twins.Get(leaf.String()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the twin of a deleted device stays: %v", err)
		}
	})
}

func TestClientsStayWhenNothingIsWrong(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf, head.C2D)
		time.Sleep(150 * time.Minute)
		if err := d.why(); err != nil {
			t.Errorf("disconnected: %v", err)
		}
	})
}

func TestNobodyIsAdmittedAfterTheEnd(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.stop()
		if _, err := r.try(login(t, mod, key, time.Hour)); !errors.Is(err, head.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// The hub's own connection is never given up, whatever the scope says.
func TestOwnConnectionStays(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		r.dir.change(func() { clear(r.dir.entries) })
		time.Sleep(2 * time.Hour)
		if r.cloud.conn(self) == nil {
			t.Error("the hub has no connection")
		}
	})
}

func TestStartWithoutTheCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.start(nil)
		r.cloud.set(true)
		r.connect(leaf).end(nil)
		r.stop()
		r.cloud.set(false)
		r.dir.change(func() { r.dir.away = true })
		r.start(nil)
		r.connect(leaf) // from what is on disk
		if _, err := r.try(login(t, iothub.DeviceIdentity("nobody"), key, time.Hour)); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("stranger: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.dir.change(func() { r.dir.away = true })
		r.start(nil)
		if _, err := r.try(login(t, leaf, key, time.Hour)); !errors.Is(err, head.ErrUnavailable) {
			t.Errorf("nothing known yet: %v", err)
		}
	})
}

var _ scope.Source = (*directory)(nil)
