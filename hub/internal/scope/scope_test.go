package scope_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// registry is a cloud whose scope can be changed and that can be away.
type registry struct {
	mu    sync.Mutex
	all   map[iothub.Identity]scope.Entry
	away  error
	lists int
	gets  int
	hides map[iothub.Identity]bool // are not listed
	after func()                   // called once, when a listing was made and before it arrives
}

func (r *registry) List(context.Context) ([]scope.Entry, error) {
	r.mu.Lock()
	r.lists++
	var list []scope.Entry
	for id, e := range r.all {
		if !r.hides[id] {
			list = append(list, e)
		}
	}
	away, after := r.away, r.after
	r.after = nil
	r.mu.Unlock()
	if after != nil {
		after()
	}
	return list, away
}

func (r *registry) Get(_ context.Context, id iothub.Identity, _ string) (scope.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gets++
	if r.away != nil {
		return scope.Entry{}, r.away
	}
	e, ok := r.all[id]
	if !ok {
		return e, scope.ErrUnknown
	}
	return e, nil
}

func (r *registry) set(e scope.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[e.ID] = e
}

func (r *registry) drop(id iothub.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, id)
}

func (r *registry) counts() (lists, gets int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lists, r.gets
}

func device(id string) scope.Entry {
	return scope.Entry{ID: iothub.DeviceIdentity(id), GenerationID: "1", Enabled: true, Auth: scope.SAS, Primary: sas.Key("key of " + id)}
}

// disk is a disk that is a map; a value "damaged" cannot be read.
type disk struct {
	mu   sync.Mutex
	m    map[string][]byte
	full error // of Put
}

func (d *disk) Put(_ context.Context, key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return d.full
	}
	d.m[key] = value
	return nil
}

func (d *disk) Delete(_ context.Context, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.m, key)
	return nil
}

func (d *disk) Scan(_ string, fn func(string, []byte) error, bad func(string, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, v := range d.m {
		if string(v) == "damaged" {
			bad(k, errors.New("damaged"))
			continue
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

type world struct {
	registry registry
	disk     disk
	cache    *scope.Cache
	mu       sync.Mutex
	changed  []iothub.Identity
}

func newWorld(t *testing.T, entries ...scope.Entry) *world {
	t.Helper()
	w := &world{registry: registry{all: make(map[iothub.Identity]scope.Entry)}, disk: disk{m: make(map[string][]byte)}}
	for _, e := range entries {
		w.registry.set(e)
	}
	w.open(t)
	return w
}

// open is a start of the hub.
func (w *world) open(t *testing.T) {
	t.Helper()
	var err error
	w.cache, err = scope.New(&w.registry, &w.disk, scope.Options{
		Logger: slog.New(slog.DiscardHandler),
		Changed: func(id iothub.Identity) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.changed = append(w.changed, id)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecordsDoNotHideTheOthers(t *testing.T) {
	w := newWorld(t, device("a"), device("b"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.disk.m["a"] = []byte("damaged")
	w.disk.m["x"] = []byte("no JSON")
	w.open(t)
	if _, ok := w.cache.Lookup(iothub.DeviceIdentity("b")); !ok || w.cache.Len() != 1 {
		t.Errorf("%d entries are known", w.cache.Len())
	}
}

func TestScopeIsKnownAfterARestartWithoutACloud(t *testing.T) {
	w := newWorld(t, device("a"), device("b"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.registry.away = errors.New("away")
	w.open(t)
	e, ok := w.cache.Lookup(iothub.DeviceIdentity("a"))
	if !ok || !bytes.Equal(e.Primary, sas.Key("key of a")) || !e.Enabled {
		t.Errorf("entry %v, %v", e, ok)
	}
	if err := w.cache.RefreshAll(t.Context()); err == nil || w.cache.Len() != 2 {
		t.Errorf("error %v, %d entries", err, w.cache.Len())
	}
}

func TestChangedAndVanishedIdentitiesAreTold(t *testing.T) {
	w := newWorld(t, device("a"), device("b"), device("c"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.changed) != 0 {
		t.Fatalf("new identities were told as changed: %v", w.changed)
	}
	b := device("b")
	b.Enabled = false
	w.registry.set(b)
	w.registry.drop(iothub.DeviceIdentity("c"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, id := range w.changed {
		got[id.String()] = true
	}
	if len(got) != 2 || !got["b"] || !got["c"] {
		t.Errorf("changed: %v", w.changed)
	}
	w.open(t)
	if _, ok := w.cache.Lookup(iothub.DeviceIdentity("c")); ok {
		t.Error("a vanished identity came back from disk")
	}
}

// A disk without room must not keep a disabled device connected, nor leave what it
// did not take behind for good.
func TestFullDiskHidesNoChange(t *testing.T) {
	w := newWorld(t, device("a"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := device("a")
	a.Enabled = false
	w.registry.set(a)
	w.disk.full = errors.New("no room")
	if err := w.cache.RefreshAll(t.Context()); !errors.Is(err, w.disk.full) {
		t.Errorf("error %v", err)
	}
	if len(w.changed) != 1 {
		t.Errorf("changed: %v", w.changed)
	}
	w.disk.full = nil
	if err := w.cache.RefreshAll(t.Context()); err != nil || len(w.changed) != 1 {
		t.Errorf("error %v, changed: %v", err, w.changed)
	}
	w.open(t)
	if e, ok := w.cache.Lookup(a.ID); !ok || e.Enabled {
		t.Errorf("after a restart: known %v, enabled %v", ok, e.Enabled)
	}
}

// A listing takes long, and what was asked for meanwhile is newer.
func TestListingDoesNotUndoWhatWasFetchedMeanwhile(t *testing.T) {
	w := newWorld(t, device("a"), device("b"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh, gone := device("new"), iothub.DeviceIdentity("a")
	changed := device("b")
	changed.Primary = sas.Key("new key")
	w.registry.after = func() {
		w.registry.set(fresh)
		w.registry.set(changed)
		w.registry.drop(gone)
		for _, id := range []iothub.Identity{fresh.ID, changed.ID, gone} {
			if err := w.cache.Fetch(t.Context(), id, ""); err != nil {
				t.Error(err)
			}
		}
	}
	check := func(when string) {
		_, known := w.cache.Lookup(fresh.ID)
		b, _ := w.cache.Lookup(changed.ID)
		_, back := w.cache.Lookup(gone)
		if !known || !bytes.Equal(b.Primary, changed.Primary) || back {
			t.Errorf("%s: new known %v, key %q, the one that is gone is back %v", when, known, b.Primary, back)
		}
	}
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after the listing")
	w.registry.drop(fresh.ID)
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.cache.Lookup(fresh.ID); ok {
		t.Error("the next listing does not count")
	}
}

// Listings of some clouds leave out the modules of leaf devices.
func TestModulesOfLeavesAreAskedForBeforeTheyAreForgotten(t *testing.T) {
	edge := device("edge")
	edge.Edge = true
	leafModule := scope.Entry{ID: iothub.ModuleIdentity("leaf", "m"), GenerationID: "1", Enabled: true, Auth: scope.SAS, Primary: sas.Key("k")}
	edgeModule := scope.Entry{ID: iothub.ModuleIdentity("edge", "m"), GenerationID: "1", Enabled: true}
	w := newWorld(t, edge, device("leaf"), leafModule, edgeModule)
	for _, id := range []iothub.Identity{leafModule.ID, edgeModule.ID} {
		if err := w.cache.Fetch(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.registry.hides = map[iothub.Identity]bool{leafModule.ID: true, edgeModule.ID: true}
	refresh := func() (leaf, edge bool) {
		t.Helper()
		if err := w.cache.RefreshAll(t.Context()); err != nil {
			t.Error(err)
		}
		_, leaf = w.cache.Lookup(leafModule.ID)
		_, edge = w.cache.Lookup(edgeModule.ID)
		return leaf, edge
	}
	if leaf, edge := refresh(); !leaf || edge {
		t.Errorf("module of the leaf known: %v, of the edge device: %v", leaf, edge)
	}
	w.registry.drop(leafModule.ID)
	if leaf, _ := refresh(); leaf {
		t.Error("a module that is gone is known")
	}
}

// Each failing login asks for a listing; a cloud that refuses must not get one each.
func TestListingsThatFailKeepADistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, device("a"))
		w.registry.away = fmt.Errorf("%w: 401", scope.ErrForbidden)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.cache.Run(ctx) }()
		for range 600 {
			w.cache.RefreshSoon()
			time.Sleep(100 * time.Millisecond)
		}
		if lists, _ := w.registry.counts(); lists < 2 || lists > 8 {
			t.Errorf("%d tries in a minute", lists)
		}
		w.registry.mu.Lock()
		w.registry.away = nil
		w.registry.mu.Unlock()
		w.cache.RefreshSoon()
		time.Sleep(11 * time.Second)
		if w.cache.Len() != 1 {
			t.Error("not listed within ten seconds of the cloud's return")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSingleRefreshKeepsItsDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, device("a"))
		id := iothub.DeviceIdentity("a")
		for range 10 {
			if _, err := w.cache.Refresh(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if _, gets := w.registry.counts(); gets != 1 {
			t.Errorf("asked %d times at once", gets)
		}
		time.Sleep(2 * time.Minute)
		if asked, err := w.cache.Refresh(t.Context(), id); err != nil || !asked {
			t.Errorf("asked %v, %v after two minutes", asked, err)
		}
	})
}

func TestUnknownIdentityIsForgotten(t *testing.T) {
	w := newWorld(t, device("a"))
	id := iothub.DeviceIdentity("a")
	if _, err := w.cache.Refresh(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w.registry.drop(id)
	w.open(t)
	if _, err := w.cache.Refresh(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.cache.Lookup(id); ok {
		t.Error("still known")
	}
}

// A 401 may be about the hub itself, whose clock is wrong for example: nobody is
// forgotten for it, but the whole scope is listed.
func TestForbiddenIdentityStaysUntilTheScopeIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, device("a"), device("b"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.cache.Run(ctx) }()
		time.Sleep(3 * time.Minute)
		id := iothub.DeviceIdentity("a")
		w.registry.mu.Lock()
		w.registry.away = fmt.Errorf("%w: 401", scope.ErrForbidden)
		w.registry.mu.Unlock()
		if _, err := w.cache.Refresh(t.Context(), id); !errors.Is(err, scope.ErrForbidden) {
			t.Error(err)
		}
		synctest.Wait()
		if _, ok := w.cache.Lookup(id); !ok {
			t.Error("forgotten although the scope could not be listed")
		}
		w.registry.drop(id)
		w.registry.mu.Lock()
		w.registry.away = nil
		w.registry.mu.Unlock()
		time.Sleep(2 * time.Minute)
		_, gone := w.cache.Lookup(id)
		if _, ok := w.cache.Lookup(iothub.DeviceIdentity("b")); gone || !ok {
			t.Errorf("a known: %v, b known: %v after the scope was listed", gone, ok)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMembers(t *testing.T) {
	edge := func(id, parent string) scope.Entry {
		e := device(id)
		e.Edge, e.DeviceScope = true, "scope-"+id
		if parent != "" {
			e.ParentScopes = []string{"scope-" + parent}
		}
		return e
	}
	module := func(d, m string) scope.Entry {
		return scope.Entry{ID: iothub.ModuleIdentity(d, m), Enabled: true}
	}
	leaf := device("leaf")
	leaf.DeviceScope = "scope-e2"
	w := newWorld(t, edge("e1", ""), edge("e2", "e1"), edge("e3", "e2"), leaf, device("orphan"),
		module("e1", "m"), module("e2", "m"), module("e3", "m"), module("leaf", "m"), module("orphan", "m"))
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for top, want := range map[string]string{
		"e1": "e1 e1/m e2", "e2": "e2 e2/m e3 leaf leaf/m", "e3": "e3 e3/m", "leaf": "", "nobody": "",
	} {
		var got []string
		for _, e := range w.cache.Members(top) {
			got = append(got, e.ID.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("members of %s: %v, want %s", top, got, want)
		}
	}
}

func TestRunRefreshesAtTheStartThenHourlyAndRetriesEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, device("a"))
		w.registry.away = errors.New("away")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.cache.Run(ctx) }()
		time.Sleep(3*time.Minute + time.Second)
		if lists, _ := w.registry.counts(); lists != 4 {
			t.Errorf("%d tries in three minutes without a cloud", lists)
		}
		w.registry.mu.Lock()
		w.registry.away = nil
		w.registry.mu.Unlock()
		time.Sleep(time.Minute)
		before, _ := w.registry.counts()
		time.Sleep(time.Hour)
		if after, _ := w.registry.counts(); after != before+1 {
			t.Errorf("%d refreshes in an hour", after-before)
		}
		time.Sleep(3 * time.Minute)
		before, _ = w.registry.counts()
		for range 5 {
			w.cache.RefreshSoon()
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Minute)
		if after, _ := w.registry.counts(); after != before+2 {
			t.Errorf("%d refreshes for requests that came together", after-before)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestChain(t *testing.T) {
	edge := func(id, parent string) scope.Entry {
		e := device(id)
		e.Edge, e.DeviceScope = true, "scope-"+id
		if parent != "" {
			e.ParentScopes = []string{"scope-" + parent}
		}
		return e
	}
	leaf := device("leaf")
	leaf.DeviceScope = "scope-e2"
	orphan := device("orphan")
	off := edge("off", "e1")
	off.Enabled = false
	under := device("under")
	under.DeviceScope = "scope-off"
	deep, deeper := device("deep"), device("deeper")
	deep.DeviceScope, deeper.DeviceScope = "scope-e5", "scope-e6"
	module := scope.Entry{ID: iothub.ModuleIdentity("e1", "m"), Enabled: true}
	w := newWorld(t, edge("e1", ""), edge("e2", "e1"), edge("e3", "e2"), edge("e4", "e3"), edge("e5", "e4"),
		edge("e6", "e5"), edge("e7", "e6"), leaf, orphan, off, under, module, deep, deeper)
	if err := w.cache.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ target, want string }{
		{"e1", "e1"},
		{"e1/m", "e1/m;e1"},
		{"leaf", "leaf;e2;e1"},
		{"e5", "e5;e4;e3;e2;e1"},
		{"deep", "deep;e5;e4;e3;e2;e1"},
		{"e6", ""},
		{"e7", ""},
		{"deeper", ""},
		{"orphan", ""},
		{"under", ""},
		{"off", ""},
		{"nobody", ""},
		{"e1/nobody", ""},
	}
	for _, tt := range tests {
		id, err := iothub.ParseIdentity(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := w.cache.Chain(id, "e1")
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("Chain(%s) = %q, %v; want %q", tt.target, got, ok, tt.want)
		}
	}
}
