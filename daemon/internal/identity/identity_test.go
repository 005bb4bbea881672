package identity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry speaks the registry's REST shapes (spec iothub-service 4).
type registry struct {
	mu      sync.Mutex
	modules map[string]map[string]any
	next    int
	fail    int // answer this status to everything
	calls   []string
	// recreate makes the next update happen on a module that was created anew.
	recreate bool
	auths    []string // of each PUT
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, q.Method+" "+q.URL.EscapedPath()+" "+q.Header.Get("If-Match"))
	if q.URL.Query().Get("api-version") == "" || !strings.HasPrefix(q.Header.Get("Authorization"), "SharedAccessSignature ") {
		refuse(w, 401, "IotHubUnauthorizedAccess")
		return
	}
	if r.fail != 0 {
		refuse(w, r.fail, "Failing")
		return
	}
	name, ok := strings.CutPrefix(q.URL.Path, "/devices/edge1/modules")
	if !ok {
		refuse(w, 404, "DeviceNotFound")
		return
	}
	name = strings.TrimPrefix(name, "/")
	old := r.modules[name]
	switch {
	case q.Method == "GET" && name == "":
		all := []any{}
		for _, m := range r.modules {
			all = append(all, m)
		}
		write(w, all)
	case q.Method == "PUT" && old != nil && q.Header.Get("If-Match") == "":
		refuse(w, 409, "ModuleAlreadyExistsOnDevice")
	case q.Method == "PUT" && old == nil && q.Header.Get("If-Match") != "", q.Method != "PUT" && old == nil:
		refuse(w, 404, "ModuleNotFound")
	case q.Method == "GET":
		write(w, old)
	case q.Method == "DELETE":
		delete(r.modules, name)
		w.WriteHeader(204)
	case q.Method == "PUT":
		r.put(w, q, name, old)
	}
}

func (r *registry) put(w http.ResponseWriter, q *http.Request, name string, old map[string]any) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		refuse(w, 400, "ArgumentInvalid")
		return
	}
	var doc map[string]any
	if json.Unmarshal(body, &doc) != nil || doc["moduleId"] != name || doc["deviceId"] != "edge1" {
		refuse(w, 400, "ArgumentInvalid")
		return
	}
	r.next++
	doc["generationId"] = fmt.Sprintf("6370000000000000%02d", r.next)
	if old != nil && !r.recreate {
		doc["generationId"] = old["generationId"]
		if doc["managedBy"] == nil {
			doc["managedBy"] = old["managedBy"]
		}
	}
	r.recreate = false
	auth, _ := doc["authentication"].(map[string]any)
	r.auths = append(r.auths, fmt.Sprint(auth["type"]))
	r.modules[name] = doc
	write(w, doc)
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, name string) {
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"Message":"ErrorCode:%s;text","ExceptionMessage":""}`, name)
}

// keyText derives readable keys.
type keyText struct{}

func (keyText) ModuleKeys(module, generation string) (string, string) {
	return module + "/" + generation + "/1", module + "/" + generation + "/2"
}

type fixture struct {
	*registry
	server  *httptest.Server
	cache   string
	now     time.Time
	prefer  bool // the cache
	manager *identity.Manager
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{registry: &registry{modules: map[string]map[string]any{}}, now: time.Unix(1_800_000_000, 0), cache: filepath.Join(t.TempDir(), "identities.json")}
	f.server = httptest.NewTLSServer(f.registry)
	t.Cleanup(f.server.Close)
	f.open(t, "edge1")
	return f
}

// open makes a manager as a start of the daemon does.
func (f *fixture) open(t *testing.T, device string) {
	t.Helper()
	client, err := rest.New(rest.Options{
		HubName: "hub", Host: strings.TrimPrefix(f.server.URL, "https://"),
		Authorize: func(context.Context) (string, error) { return "SharedAccessSignature sr=x", nil },
		RootCAs:   f.server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
		Attempts:  1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	f.manager, err = identity.New(identity.Options{
		Registry: client, Keys: keyText{}, Hub: "hub", Device: device, CacheFile: f.cache,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return f.now }, PreferCache: f.prefer,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) primary(module string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	auth, _ := f.modules[module]["authentication"].(map[string]any)
	keys, _ := auth["symmetricKey"].(map[string]any)
	return fmt.Sprint(auth["type"], " ", keys["primaryKey"], " ", keys["secondaryKey"])
}

func TestCreateRegistersKeysOfTheGivenGeneration(t *testing.T) {
	f := start(t)
	got, err := f.manager.Create(t.Context(), "temp", "")
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Identity{ModuleID: "temp", GenerationID: "637000000000000001", ManagedBy: "IotEdge"}
	if got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if k := f.primary("temp"); k != "sas temp/637000000000000001/1 temp/637000000000000001/2" {
		t.Errorf("registered %v", k)
	}
	if calls := []string{"PUT /devices/edge1/modules/temp ", "PUT /devices/edge1/modules/temp *"}; !slices.Equal(f.calls, calls) {
		t.Errorf("calls %q", f.calls)
	}
	// Keys that the registry makes up meanwhile would be taken for the module's.
	if !slices.Equal(f.auths, []string{"none", "sas"}) {
		t.Errorf("authentication was %q", f.auths)
	}
}

func TestCreateOfAnExistingModuleAdoptsIt(t *testing.T) {
	f := start(t)
	f.modules["temp"] = map[string]any{"deviceId": "edge1", "moduleId": "temp", "generationId": "42", "managedBy": ""}
	got, err := f.manager.Create(t.Context(), "temp", "Me")
	if err != nil || got.GenerationID != "42" || got.ManagedBy != "Me" {
		t.Fatalf("%+v, %v", got, err)
	}
	if k := f.primary("temp"); k != "sas temp/42/1 temp/42/2" {
		t.Errorf("registered %v", k)
	}
}

func TestUpdateFollowsTheRegistrysGeneration(t *testing.T) {
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "temp", ""); err != nil {
		t.Fatal(err)
	}
	f.recreate = true
	got, err := f.manager.Update(t.Context(), "temp", "637000000000000001", "")
	if err != nil {
		t.Fatal(err)
	}
	if got.GenerationID == "637000000000000001" {
		t.Fatal("old generation kept")
	}
	if k, want := f.primary("temp"), fmt.Sprintf("sas temp/%s/1 temp/%[1]s/2", got.GenerationID); k != want {
		t.Errorf("registered %v, want %v", k, want)
	}
	if known, err := f.manager.Lookup(t.Context(), "temp"); err != nil || known != got {
		t.Errorf("looked up %+v, %v", known, err)
	}
}

func TestUpdateWithoutGenerationAsksTheRegistry(t *testing.T) {
	f := start(t)
	f.modules["$edgeAgent"] = map[string]any{"deviceId": "edge1", "moduleId": "$edgeAgent", "generationId": "7", "managedBy": "iotEdge"}
	got, err := f.manager.Update(t.Context(), "$edgeAgent", "", "")
	if err != nil || got != (identity.Identity{ModuleID: "$edgeAgent", GenerationID: "7", ManagedBy: "iotEdge"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if k := f.primary("$edgeAgent"); k != "sas $edgeAgent/7/1 $edgeAgent/7/2" {
		t.Errorf("registered %v", k)
	}
}

func TestUpdateOfAMissingModule(t *testing.T) {
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "temp", ""); err != nil {
		t.Fatal(err)
	}
	delete(f.modules, "temp")
	if _, err := f.manager.Update(t.Context(), "temp", "1", ""); !errors.Is(err, identity.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if _, err := f.manager.Lookup(t.Context(), "temp"); !errors.Is(err, identity.ErrNotFound) {
		t.Fatalf("still remembered: %v", err)
	}
}

func TestDeleteForgets(t *testing.T) {
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "temp", ""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is gone already is fine
		if err := f.manager.Delete(t.Context(), "temp"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.manager.Lookup(t.Context(), "temp"); !errors.Is(err, identity.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestCacheServesWithoutTheCloud(t *testing.T) {
	f := start(t)
	for _, m := range []string{"b", "a", "$edgeHub"} {
		if _, err := f.manager.Create(t.Context(), m, ""); err != nil {
			t.Fatal(err)
		}
	}
	online, err := f.manager.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(f.cache)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("cache: %v, %v", st, err)
	}
	if text, _ := os.ReadFile(f.cache); strings.Contains(string(text), "/1\"") {
		t.Fatal("cache holds keys")
	}
	f.server.Close()
	f.open(t, "edge1") // a start without the cloud
	offline, err := f.manager.List(t.Context())
	if err != nil || !slices.Equal(online, offline) || len(offline) != 3 || offline[0].ModuleID != "$edgeHub" {
		t.Fatalf("%+v, %v", offline, err)
	}
	if got, err := f.manager.Lookup(t.Context(), "a"); err != nil || got.GenerationID == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := f.manager.Lookup(t.Context(), "unknown"); !errors.Is(err, identity.ErrUnavailable) {
		t.Fatalf("unknown: %v", err)
	}
	if _, err := f.manager.Create(t.Context(), "new", ""); !errors.Is(err, identity.ErrUnavailable) {
		t.Fatalf("create: %v", err)
	}
	f.open(t, "edge2") // another device must not see it
	if _, err := f.manager.List(t.Context()); !errors.Is(err, identity.ErrUnavailable) {
		t.Fatalf("another device: %v", err)
	}
}

func TestCacheThatIsPreferredIsListedWithoutTheCloud(t *testing.T) {
	f := start(t)
	f.prefer = true
	f.open(t, "edge1")
	f.modules["old"] = map[string]any{"moduleId": "old", "deviceId": "edge1", "generationId": "7"}
	if all, err := f.manager.List(t.Context()); err != nil || len(all) != 1 || all[0].ModuleID != "old" {
		t.Fatalf("nothing is remembered: %v, %v", all, err)
	}
	f.modules["other"] = map[string]any{"moduleId": "other", "deviceId": "edge1", "generationId": "8"}
	if all, err := f.manager.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("hub was asked: %v, %v", all, err)
	}
	if got, err := f.manager.Lookup(t.Context(), "other"); err != nil || got.GenerationID != "8" {
		t.Errorf("what is not remembered: %+v, %v", got, err)
	}
	if all, err := f.manager.List(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestListReplacesTheCache(t *testing.T) {
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	delete(f.modules, "gone")
	if all, err := f.manager.List(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	if _, err := f.manager.Lookup(t.Context(), "gone"); !errors.Is(err, identity.ErrNotFound) {
		t.Fatalf("still remembered: %v", err)
	}
}

func TestDamagedCacheIsDropped(t *testing.T) {
	f := start(t)
	if err := os.WriteFile(f.cache, []byte(`{"hub":`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.open(t, "edge1")
	if _, err := f.manager.Create(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
}

func TestFailuresAreSorted(t *testing.T) {
	for status, want := range map[int]error{
		401: identity.ErrRefused, 403: identity.ErrRefused, 404: identity.ErrNotFound,
		400: identity.ErrInvalid, 413: identity.ErrInvalid, 429: identity.ErrUnavailable, 503: identity.ErrUnavailable,
	} {
		f := start(t)
		f.fail = status
		if _, err := f.manager.List(t.Context()); !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
	}
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "a/b", ""); !errors.Is(err, identity.ErrInvalid) || len(f.calls) != 0 {
		t.Errorf("bad id: %v after %v", err, f.calls)
	}
}

func TestThrottledRegistryIsLeftAlone(t *testing.T) {
	f := start(t)
	if _, err := f.manager.Create(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	f.fail = 429
	for i, pause := range []time.Duration{60, 120, 180, 300, 300} {
		f.calls = nil
		if _, err := f.manager.Create(t.Context(), "b", ""); !errors.Is(err, identity.ErrUnavailable) || len(f.calls) != 1 {
			t.Fatalf("step %d: %v after %v", i, err, f.calls)
		}
		f.now = f.now.Add(pause*time.Second - time.Second)
		if _, err := f.manager.Create(t.Context(), "b", ""); !errors.Is(err, identity.ErrUnavailable) || len(f.calls) != 1 {
			t.Fatalf("step %d: asked again within %d s: %v", i, pause, f.calls)
		}
		if all, err := f.manager.List(t.Context()); err != nil || len(all) != 1 || len(f.calls) != 1 {
			t.Fatalf("step %d: list while throttled: %v, %v", i, all, err)
		}
		f.now = f.now.Add(pause*time.Second/10 + time.Second)
	}
	f.fail = 0
	if _, err := f.manager.Create(t.Context(), "b", ""); err != nil {
		t.Fatal(err)
	}
}
