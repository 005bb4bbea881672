package cloud_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const host = "hub.test"

// patience bounds every wait of these tests.
const patience = 30 * time.Second

type bench struct {
	*cloud.Hub
	t        *testing.T
	now      func() time.Time
	policies access.Policies
	store    *store.Store
	log      *logged
	stop     func()
}

// logged is what a hub logs.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newBench(t *testing.T, now func() time.Time) *bench {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return openBench(t, s, now)
}

// openBench runs a hub on what is stored; stop ends it.
func openBench(t *testing.T, s *store.Store, now func() time.Time) *bench {
	t.Helper()
	policies, err := access.LoadPolicies(filepath.Join(t.TempDir(), "p"), true)
	if err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	h, err := cloud.Open(s, cloud.Options{Hosts: []string{host}, Policies: policies, Now: now, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, time.Second) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	if now == nil {
		now = time.Now
	}
	return &bench{Hub: h, t: t, now: now, policies: policies, store: s, log: log, stop: stop}
}

func (b *bench) device(c registry.DeviceChange) rest.Device {
	b.t.Helper()
	d, err := b.Registry().PutDevice(b.t.Context(), c, registry.Absent)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bench) update(c registry.DeviceChange) {
	b.t.Helper()
	if _, err := b.Registry().PutDevice(b.t.Context(), c, registry.Any); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) edge(id string) rest.Device {
	b.t.Helper()
	yes := true
	d := b.device(registry.DeviceChange{DeviceID: id, Edge: &yes})
	if _, err := b.Registry().PutModule(b.t.Context(), registry.ModuleChange{
		ID: iothub.ModuleIdentity(id, iothub.HubModule), Authentication: rest.SAS("", "")}, registry.Any); err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bench) token(id iothub.Identity, life time.Duration) string {
	b.t.Helper()
	d, err := b.Registry().Device(id.Device)
	auth := d.Authentication
	if id.IsModule() {
		var m rest.Module
		m, err = b.Registry().Module(id)
		auth = m.Authentication
	}
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := sas.ParseKey(auth.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := sas.New(sas.DeviceResource(host, id), b.now().Add(life), "", key.Sign)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// fake is a head's client: it records, answers methods with method, and closes its
// session when told to disconnect.
type fake struct {
	method func(name string, payload json.RawMessage, answer func(int, json.RawMessage))

	mu      sync.Mutex
	session head.Session
	patches chan string
	ended   chan error
}

func newFake() *fake { return &fake{patches: make(chan string, 16), ended: make(chan error, 1)} }

func (f *fake) Deliver(string, *iothub.Message, func(head.Outcome) bool) {}

func (f *fake) DesiredChanged(p json.RawMessage, version int64) {
	f.patches <- fmt.Sprint(version, " ", string(p))
}

func (f *fake) InvokeMethod(name string, p json.RawMessage, answer func(int, json.RawMessage)) func() {
	if f.method != nil {
		f.method(name, p, answer)
	}
	return func() {}
}

func (f *fake) Disconnect(reason error) {
	select {
	case f.ended <- reason:
	default:
		return
	}
	go func() {
		f.mu.Lock()
		s := f.session
		f.mu.Unlock()
		if s != nil {
			s.Close(reason)
		}
	}()
}

func (b *bench) connect(id iothub.Identity, f *fake, features ...head.Feature) head.Session {
	b.t.Helper()
	s, err := b.Connect(b.t.Context(), head.Login{Identity: id, Protocol: "mqtt", Token: b.token(id, time.Hour), ModelID: "dtmi:x;1"}, f)
	if err != nil {
		b.t.Fatal(err)
	}
	f.mu.Lock()
	f.session = s
	f.mu.Unlock()
	for _, feature := range features {
		s.Subscribe(feature)
	}
	return s
}

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

var dev = iothub.DeviceIdentity("dev")

func TestNewestConnectionWins(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	first, second := newFake(), newFake()
	b.connect(dev, first)
	b.connect(dev, second)
	if reason := receive(t, first.ended, "the end of the first"); !errors.Is(reason, head.ErrReplaced) {
		t.Error(reason)
	}
	tw, err := b.Twin(dev)
	if err != nil || tw.ConnectionState != rest.Connected || tw.ModelID != "dtmi:x;1" {
		t.Errorf("%+v, %v", tw, err)
	}
	select {
	case reason := <-second.ended:
		t.Errorf("the second ended: %v", reason)
	default:
	}
}

func TestChangesOfTheRegistryEndConnections(t *testing.T) {
	off := rest.Disabled
	key := registry.NewKey()
	tests := map[string]func(b *bench){
		"disabled": func(b *bench) { b.update(registry.DeviceChange{DeviceID: "dev", Status: &off}) },
		"new keys": func(b *bench) { b.update(registry.DeviceChange{DeviceID: "dev", Authentication: rest.SAS(key, key)}) },
		"other kind": func(b *bench) {
			b.update(registry.DeviceChange{DeviceID: "dev", Authentication: &rest.Authentication{Type: "none"}})
		},
		"deleted": func(b *bench) {
			if err := b.Registry().DeleteDevice(b.t.Context(), "dev", registry.Any); err != nil {
				b.t.Fatal(err)
			}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.device(registry.DeviceChange{DeviceID: "dev"})
			b.device(registry.DeviceChange{DeviceID: "other"})
			f, other := newFake(), newFake()
			b.connect(dev, f)
			b.connect(iothub.DeviceIdentity("other"), other)
			reason := "status changed"
			text := rest.Text(reason)
			b.update(registry.DeviceChange{DeviceID: "dev", StatusReason: &text}) // harmless
			change(b)
			if got := receive(t, f.ended, "the end"); !errors.Is(got, head.ErrExpired) {
				t.Error(got)
			}
			select {
			case reason := <-other.ended:
				t.Errorf("another device was ended: %v", reason)
			default:
			}
		})
	}
}

func TestActorLosesItsConnectionsWithItsScope(t *testing.T) {
	b := newBench(t, nil)
	parent := b.edge("edge")
	b.device(registry.DeviceChange{DeviceID: "dev", DeviceScope: &parent.DeviceScope})
	f := newFake()
	s, err := b.Connect(t.Context(), head.Login{Identity: dev, AuthChain: "dev;edge",
		Token: b.token(iothub.ModuleIdentity("edge", "$edgeHub"), time.Hour)}, f)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.session = s
	f.mu.Unlock()
	none := ""
	b.update(registry.DeviceChange{DeviceID: "dev", DeviceScope: &none})
	if reason := receive(t, f.ended, "the end"); !errors.Is(reason, head.ErrExpired) {
		t.Error(reason)
	}
}

func TestTokenExpiryEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.device(registry.DeviceChange{DeviceID: "dev"})
		f := newFake()
		if _, err := b.Connect(t.Context(), head.Login{Identity: dev, Token: b.token(dev, time.Hour)}, f); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + sas.Skew - time.Second)
		if err := f.why(); err != nil {
			t.Errorf("ended early: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := f.why(); !errors.Is(err, head.ErrExpired) {
			t.Error(err)
		}
	})
}

func TestRefusedConnection(t *testing.T) {
	b := newBench(t, nil)
	_, err := b.Connect(t.Context(), head.Login{Identity: dev, Token: "x"}, newFake())
	if !errors.Is(err, head.ErrUnauthorized) {
		t.Error(err)
	}
}

func TestTelemetryIsStoredWithItsSender(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	s := b.connect(dev, newFake())
	var order []string
	done := make(chan struct{}, 3)
	for i, size := range []int{10, iothub.MaxMessageSize + 1, 20} {
		m := &iothub.Message{Body: []byte(strings.Repeat("x", size))}
		s.Telemetry(t.Context(), m, func(err error) {
			order = append(order, fmt.Sprint(i, errors.Is(err, head.ErrTooLarge), err == nil))
			done <- struct{}{}
		})
	}
	for range 3 {
		receive(t, done, "done")
	}
	if got := strings.Join(order, ", "); got != "0 false true, 1 true false, 2 false true" {
		t.Error(got)
	}
	list, _, err := b.Events().Read(0, 10)
	d, derr := b.Registry().Device("dev")
	if err != nil || derr != nil || len(list) != 2 {
		t.Fatalf("%d events, %v, %v", len(list), err, derr)
	}
	e := list[1]
	if e.Sender != dev || e.Generation != d.GenerationID || e.ModelID != "dtmi:x;1" || !strings.Contains(e.AuthMethod, `"scope":"device"`) {
		t.Errorf("%+v", e)
	}
}

func TestTwinOfAConnectedDevice(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	f := newFake()
	s := b.connect(dev, f)
	change := twin.Change{Desired: map[string]any{"a": json.Number("1")}}
	if _, err := b.WriteTwin(t.Context(), dev, change, false, registry.Absent); err != nil {
		t.Fatal(err)
	}
	s.Subscribe(head.DesiredChanges)
	if _, err := b.WriteTwin(t.Context(), dev, twin.Change{Desired: map[string]any{"b": nil}}, false, registry.Any); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, f.patches, "the patch"); got != `3 {"$version":3,"b":null}` {
		t.Errorf("told %s", got)
	}
	v, err := s.PatchReported(t.Context(), json.RawMessage(`{"r":1}`), 1)
	if err != nil || v != 2 {
		t.Errorf("version %d, %v", v, err)
	}
	for body, want := range map[string]error{`[]`: head.ErrInvalid, `{"a":"` + strings.Repeat("x", 5000) + `"}`: head.ErrInvalid} {
		if _, err := s.PatchReported(t.Context(), json.RawMessage(body), 0); !errors.Is(err, want) {
			t.Errorf("%.10s: %v", body, err)
		}
	}
	if _, err := s.PatchReported(t.Context(), json.RawMessage(`{}`), 1); !errors.Is(err, head.ErrPrecondition) {
		t.Errorf("stale version: %v", err)
	}
	p, err := s.Twin(t.Context())
	if err != nil || string(p.Desired) != `{"$version":3,"a":1}` || string(p.Reported) != `{"$version":2,"r":1}` {
		t.Errorf("%s, %s, %v", p.Desired, p.Reported, err)
	}
	stale := registry.ParseMatch("AAAAAAAAAAE=")
	var refusal *registry.Error
	if _, err := b.WriteTwin(t.Context(), dev, change, false, stale); !errors.As(err, &refusal) || refusal.Code != registry.PreconditionFailed {
		t.Errorf("stale etag: %v", err)
	}
}

func TestMethods(t *testing.T) {
	answer := func(status int, payload string) func(string, json.RawMessage, func(int, json.RawMessage)) {
		return func(_ string, _ json.RawMessage, a func(int, json.RawMessage)) {
			go a(status, json.RawMessage(payload))
		}
	}
	tests := map[string]struct {
		online bool
		method func(string, json.RawMessage, func(int, json.RawMessage))
		late   bool // the device comes while the caller waits
		want   string
	}{
		"answered":            {online: true, method: answer(500, `{"x":1}`), want: `500 {"x":1}`},
		"not connected":       {want: cloud.ErrNotOnline.Error()},
		"silent":              {online: true, want: cloud.ErrNoAnswer.Error()},
		"comes in time":       {late: true, method: answer(200, "1"), want: "200 1"},
		"answer is too large": {online: true, method: answer(200, strings.Repeat("x", cloud.MaxMethodPayload+1)), want: "answer: " + cloud.ErrPayloadTooLarge.Error()},
		"answers more than once": {online: true, want: "1 a", method: func(_ string, _ json.RawMessage, a func(int, json.RawMessage)) {
			a(1, json.RawMessage("a"))
			a(2, json.RawMessage("b"))
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.device(registry.DeviceChange{DeviceID: "dev"})
			f := newFake()
			f.method = tt.method
			call := cloud.MethodCall{Name: "m", ResponseTimeout: patience}
			if tt.method == nil && !tt.late {
				call.ResponseTimeout = 100 * time.Millisecond // nobody answers
			}
			if tt.online {
				b.connect(dev, f, head.Methods)
			}
			var wg sync.WaitGroup
			if tt.late {
				call.ConnectTimeout = patience
				wg.Go(func() {
					s := b.connect(dev, f)
					s.Subscribe(head.Methods)
				})
			}
			a, err := b.Invoke(t.Context(), dev, call)
			wg.Wait()
			got := fmt.Sprint(a.Status, " ", string(a.Payload))
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("%.100s, want %s", got, tt.want)
			}
		})
	}
}

func TestMethodEndsWithTheConnection(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	f := newFake()
	f.method = func(string, json.RawMessage, func(int, json.RawMessage)) { f.Disconnect(nil) }
	b.connect(dev, f, head.Methods)
	if _, err := b.Invoke(t.Context(), dev, cloud.MethodCall{Name: "m", ResponseTimeout: patience}); !errors.Is(err, cloud.ErrConnectionLost) {
		t.Error(err)
	}
}

func TestEdgeHubHearsOfChangesInItsScope(t *testing.T) {
	b := newBench(t, nil)
	parent := b.edge("edge")
	f := newFake()
	calls := make(chan string, 16)
	f.method = func(name string, p json.RawMessage, answer func(int, json.RawMessage)) {
		calls <- name + " " + string(p)
		answer(200, nil)
	}
	b.connect(iothub.ModuleIdentity("edge", "$edgeHub"), f, head.Methods)
	b.device(registry.DeviceChange{DeviceID: "leaf1", DeviceScope: &parent.DeviceScope})
	for {
		// Changes from before the connection may be told first, or together with it.
		got := receive(t, calls, "the refresh")
		name, payload, _ := strings.Cut(got, " ")
		var p struct {
			DeviceIDs []string `json:"deviceIds"`
		}
		if err := json.Unmarshal([]byte(payload), &p); err != nil || name != "RefreshDeviceScopeIdentityCache" {
			t.Fatalf("called %s: %v", got, err)
		}
		if slices.Contains(p.DeviceIDs, "leaf1") {
			break
		}
	}
}

func TestShutdownEndsConnectionsAndRefusesNewOnes(t *testing.T) {
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	h, err := cloud.Open(s, cloud.Options{Hosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Hub: h, t: t, now: time.Now}
	b.device(registry.DeviceChange{DeviceID: "dev"})
	f := newFake()
	b.connect(dev, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Run(ctx, patience); err != nil {
		t.Fatal(err)
	}
	if reason := receive(t, f.ended, "the end"); !errors.Is(reason, head.ErrShutdown) {
		t.Error(reason)
	}
	if _, err := h.Connect(t.Context(), head.Login{Identity: dev, Token: b.token(dev, time.Hour)}, newFake()); !errors.Is(err, head.ErrUnavailable) {
		t.Error(err)
	}
	if tw, err := h.Twin(dev); err != nil || tw.ConnectionState != rest.Disconnected || tw.LastActivityTime.IsZero() {
		t.Errorf("%+v, %v", tw, err)
	}
}
