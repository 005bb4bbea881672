package twin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

var dev = iothub.DeviceIdentity("d")

// fakeCloud is a cloud that can be away.
type fakeCloud struct {
	mu      sync.Mutex
	away    bool
	twin    iothub.TwinProperties
	patches []string
	slow    map[iothub.Identity]bool // never answered
}

var errAway = errors.New("cloud is away")

func (c *fakeCloud) Twin(context.Context, iothub.Identity) (iothub.TwinProperties, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return iothub.TwinProperties{}, errAway
	}
	return c.twin, nil
}

func (c *fakeCloud) PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error {
	if c.slow[id] {
		<-ctx.Done()
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errAway
	}
	c.patches = append(c.patches, string(patch))
	return nil
}

func (c *fakeCloud) set(away bool, desired, reported string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
	c.twin = iothub.TwinProperties{Desired: json.RawMessage(desired), Reported: json.RawMessage(reported)}
}

func (c *fakeCloud) sent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.patches...)
}

// records is a disk that is a map.
type records struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail error
}

func (r *records) Get(key string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.m[key]; ok {
		return v, nil
	}
	return nil, store.ErrNotFound
}

func (r *records) Put(_ context.Context, key string, value []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.m[key] = value
	return nil
}

func (r *records) Delete(_ context.Context, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	delete(r.m, key)
	return nil
}

// world is a manager with what is around it, in virtual time.
type world struct {
	cloud    fakeCloud
	disk     records
	m        *twin.Manager
	mu       sync.Mutex
	notified []string
	stop     func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{disk: records{m: make(map[string][]byte)}}
	w.cloud.set(false, `{"a":1,"$version":3}`, `{"$version":1}`)
	w.start(t)
	return w
}

// start is a start of the hub; what is on disk stays.
func (w *world) start(t *testing.T) {
	t.Helper()
	if w.stop != nil {
		w.stop()
	}
	w.m = twin.New(&w.cloud, &w.disk, func(_ iothub.Identity, patch json.RawMessage, _ int64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.notified = append(w.notified, string(patch))
	}, twin.Options{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := w.m
	go func() { done <- m.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
}

func same(t *testing.T, what string, got json.RawMessage, want string) {
	t.Helper()
	var g, x any
	if json.Unmarshal(got, &g) != nil || json.Unmarshal([]byte(want), &x) != nil || !reflect.DeepEqual(g, x) {
		t.Errorf("%s is %s, want %s", what, got, want)
	}
}

func TestTwinComesFromTheCloudThenFromDiskThenIsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.cloud.set(true, "", "")
		got, err := w.m.Get(t.Context(), dev)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "desired of a twin never seen", got.Desired, `{"$version":0}`)
		w.cloud.set(false, `{"a":1,"$version":3}`, `{"r":2,"$version":1}`)
		if got, err = w.m.Get(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		same(t, "desired from the cloud", got.Desired, `{"a":1,"$version":3}`)
		w.cloud.set(true, "", "")
		w.start(t)
		if got, err = w.m.Get(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		same(t, "desired from disk", got.Desired, `{"a":1,"$version":3}`)
		same(t, "reported from disk", got.Reported, `{"r":2,"$version":1}`)
	})
}

func TestReportedPatchesAreCollectedAndSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.cloud.set(true, "", "")
		for _, p := range []string{`{"x":1,"o":{"a":1}}`, `{"x":2,"o":{"b":null}}`, `{"y":null}`} {
			if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(p)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if got := w.cloud.sent(); len(got) != 0 {
			t.Fatalf("sent %v to a cloud that is away", got)
		}
		w.start(t)
		w.cloud.set(false, `{"$version":1}`, `{"$version":1}`)
		w.m.Reconnected(t.Context(), dev)
		got := w.cloud.sent()
		if len(got) != 1 {
			t.Fatalf("sent %v", got)
		}
		same(t, "patch", json.RawMessage(got[0]), `{"x":2,"o":{"a":1,"b":null},"y":null}`)
		time.Sleep(time.Minute)
		if got := w.cloud.sent(); len(got) != 1 {
			t.Errorf("sent again: %v", got)
		}
	})
}

func TestReportedPatchesGoUpAtMostEveryFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		for i := range 20 {
			patch, _ := json.Marshal(map[string]int{"n": i})
			if err := w.m.PatchReported(t.Context(), dev, patch); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := len(w.cloud.sent()); n < 3 || n > 4 {
			t.Errorf("%d patches in 20 seconds", n)
		}
		time.Sleep(10 * time.Second)
		sent := w.cloud.sent()
		same(t, "last patch", json.RawMessage(sent[len(sent)-1]), `{"n":19}`)
	})
}

func TestSlowIdentityHoldsBackNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.slow = make(map[iothub.Identity]bool)
		for i := range 20 {
			id := iothub.DeviceIdentity(fmt.Sprint("slow", i))
			w.cloud.slow[id] = true
			if err := w.m.PatchReported(t.Context(), id, json.RawMessage(`{"a":1}`)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * time.Second)
		for i := range 3 {
			if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(fmt.Sprintf(`{"a":%d}`, i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if got := fmt.Sprint(w.cloud.sent()); got != `[{"a":0} {"a":1} {"a":2}]` {
			t.Errorf("pushed %s", got)
		}
		w.stop()
	})
}

func TestInvalidPatchChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		if _, err := w.m.Get(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{`[]`, `{"a.b":1}`, `{"a":9007199254740993}`, `not json`, ``} {
			if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(p)); err == nil {
				t.Errorf("patch %q was taken", p)
			}
		}
		time.Sleep(time.Minute)
		if got := w.cloud.sent(); len(got) != 0 {
			t.Errorf("sent %v", got)
		}
	})
}

func TestPatchThatCannotBeStoredIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.disk.fail = errors.New("disk is full")
		if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(`{"a":1}`)); !errors.Is(err, w.disk.fail) {
			t.Errorf("error %v", err)
		}
		w.disk.fail = nil
		same(t, "reported", w.m.Stored(dev).Reported, `{"$version":0}`)
	})
}

func TestDesiredPatches(t *testing.T) {
	tests := []struct {
		name    string
		seen    bool // the twin is on disk
		version int64
		fresh   string // what the cloud's twin says by then
		patch   string
		want    []string
	}{
		{"next version is passed on", true, 4, ``, `{"b":2}`, []string{`{"b":2}`}},
		{"unknown twin: passed on", false, 9, ``, `{"b":2}`, []string{`{"b":2}`}},
		{"gap: difference of the whole twin", true, 7, `{"c":1,"$version":7}`, `{"b":2}`, []string{`{"a":null,"c":1,"$version":7}`}},
		{"gap without difference: nothing", true, 7, `{"a":1,"$version":7}`, `{"a":1}`, nil},
		{"old version: nothing", true, 3, ``, `{"b":2}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer func() { w.stop() }()
				if tt.seen {
					if _, err := w.m.Get(t.Context(), dev); err != nil {
						t.Fatal(err)
					}
				}
				if tt.fresh != "" {
					w.cloud.set(false, tt.fresh, `{"$version":1}`)
				}
				w.m.DesiredChanged(t.Context(), dev, json.RawMessage(tt.patch), tt.version)
				if len(w.notified) != len(tt.want) {
					t.Fatalf("notified %v, want %v", w.notified, tt.want)
				}
				for i := range tt.want {
					same(t, "patch", json.RawMessage(w.notified[i]), tt.want[i])
				}
			})
		})
	}
}

func TestPendingPropertiesOfOneWhoDoesNotComeBackGoUpAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.cloud.set(true, "", "")
		if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(`{"r":1}`)); err != nil {
			t.Fatal(err)
		}
		w.start(t)
		w.cloud.set(false, `{"$version":1}`, `{"$version":1}`)
		w.m.Resume([]iothub.Identity{dev, iothub.DeviceIdentity("other")})
		time.Sleep(6 * time.Second)
		if got := w.cloud.sent(); len(got) != 1 || got[0] != `{"r":1}` {
			t.Errorf("the cloud got %q, want what was pending", got)
		}
	})
}

func TestTwinOfOneWhoIsGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.cloud.set(true, "", "")
		if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(`{"r":1}`)); err != nil {
			t.Fatal(err)
		}
		w.disk.fail = errors.New("disk is full")
		if err := w.m.Forget(t.Context(), dev); !errors.Is(err, w.disk.fail) {
			t.Errorf("Forget on a full disk: %v", err)
		}
		same(t, "reported of a twin that could not be forgotten", w.m.Stored(dev).Reported, `{"r":1,"$version":0}`)
		w.disk.fail = nil
		if err := w.m.Forget(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		same(t, "reported of a forgotten twin", w.m.Stored(dev).Reported, `{"$version":0}`)
		w.cloud.set(false, `{"$version":1}`, `{"$version":1}`)
		time.Sleep(20 * time.Second)
		if got := w.cloud.sent(); len(got) != 0 {
			t.Errorf("the cloud got %q for an identity that is gone", got)
		}
	})
}

func TestPushUnderWayDoesNotBringAForgottenTwinBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.cloud.slow = map[iothub.Identity]bool{dev: true}
		if err := w.m.PatchReported(t.Context(), dev, json.RawMessage(`{"r":1}`)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second) // the push has begun
		if err := w.m.Forget(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second) // it has failed
		if _, err := w.disk.Get(dev.String()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a record is on disk again: %v", err)
		}
		same(t, "reported of a forgotten twin", w.m.Stored(dev).Reported, `{"$version":0}`)
	})
}
