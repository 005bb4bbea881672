package edge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/auth"
	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/hub/internal/seal"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hubName = "hub.test"

var (
	self = iothub.ModuleIdentity("edge", iothub.HubModule)
	mod  = iothub.ModuleIdentity("edge", "mod")
	sink = iothub.ModuleIdentity("edge", "sink")
	leaf = iothub.DeviceIdentity("leaf")
	key  = sas.Key("0123456789abcdef0123456789abcdef")
	key2 = sas.Key("another key another key another!")
)

// directory is a scope.Source that can be away.
type directory struct {
	mu      sync.Mutex
	away    bool
	entries map[iothub.Identity]scope.Entry
	gets    int
}

func newDirectory() *directory {
	d := &directory{entries: map[iothub.Identity]scope.Entry{}}
	d.put(iothub.DeviceIdentity("edge"), true)
	for _, id := range []iothub.Identity{self, mod, sink, leaf, iothub.DeviceIdentity("leaf2"), iothub.DeviceIdentity("a b")} {
		d.put(id, true)
	}
	return d
}

func (d *directory) put(id iothub.Identity, enabled bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := scope.Entry{ID: id, Enabled: enabled, Auth: scope.SAS, Primary: key, DeviceScope: "scope-of-edge"}
	if id.Device == "edge" && !id.IsModule() {
		e.Edge = true
	}
	d.entries[id] = e
}

func (d *directory) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *directory) List(context.Context) ([]scope.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return nil, errors.New("registry is away")
	}
	var list []scope.Entry
	for _, e := range d.entries {
		list = append(list, e)
	}
	return list, nil
}

func (d *directory) Get(_ context.Context, id iothub.Identity, _ string) (scope.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gets++
	if d.away {
		return scope.Entry{}, errors.New("registry is away")
	}
	if e, ok := d.entries[id]; ok {
		return e, nil
	}
	return scope.Entry{}, scope.ErrUnknown
}

// cloud is what is at the other end of all connections.
type cloud struct {
	mu       sync.Mutex
	up       bool
	mute     bool // reported properties are not answered
	silent   bool // nor logins by an own token
	dialed   []iothub.Identity
	conns    map[iothub.Identity]*conn
	broken   map[iothub.Identity]bool // messages of these fail
	received []string                 // "sender:body"
	desired  map[iothub.Identity]string
	reported map[iothub.Identity][]string
	twins    int                           // calls
	calls    []string                      // "identity twin" and "identity reported"
	known    func(id iothub.Identity) bool // is below this gateway
	keys     map[iothub.Identity]sas.Key   // of those who log in by themselves
	asked    []iothub.Identity             // who did
}

func newCloud() *cloud {
	return &cloud{conns: map[iothub.Identity]*conn{}, broken: map[iothub.Identity]bool{},
		desired: map[iothub.Identity]string{self: config(1, "")}, reported: map[iothub.Identity][]string{}}
}

// config is a desired section of $edgeHub with one route, or none.
func config(version int, routes string) string {
	return fmt.Sprintf(`{"schemaVersion":"1.1","routes":{%s},"storeAndForwardConfiguration":{"timeToLiveSecs":3600},"$version":%d}`, routes, version)
}

// conn is one connection. It is up when the cloud is.
type conn struct {
	cloud *cloud
	id    iothub.Identity
	cb    upstream.Callbacks
	wake  chan struct{}
	wants upstream.Wants // guarded by cloud.mu
	lanes map[uint32]bool
	token func() string // of one who logs in by itself

	refused bool // guarded by cloud.mu
}

func (c *cloud) dial(id iothub.Identity, token func() string, cb upstream.Callbacks) (upstream.Conn, error) {
	if id != self && token == nil && !c.known(id) {
		return nil, upstream.ErrNoIdentity
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialed = append(c.dialed, id)
	if token != nil {
		c.asked = append(c.asked, id)
	}
	return &conn{cloud: c, id: id, cb: cb, token: token, wake: make(chan struct{}, 1), lanes: map[uint32]bool{}}, nil
}

func (c *cloud) lets(id iothub.Identity, text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	token, err := sas.Parse(text)
	return err == nil && token.Verify(c.keys[id])
}

func (c *cloud) set(up bool) {
	c.mu.Lock()
	c.up = up
	for _, k := range c.conns {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	c.mu.Unlock()
	synctest.Wait()
}

func (k *conn) Run(ctx context.Context) error {
	k.cloud.mu.Lock()
	k.cloud.conns[k.id] = k
	k.cloud.mu.Unlock()
	defer func() {
		k.cloud.mu.Lock()
		defer k.cloud.mu.Unlock()
		if k.cloud.conns[k.id] == k {
			delete(k.cloud.conns, k.id)
		}
	}()
	k.cloud.mu.Lock()
	silent := k.cloud.silent && k.token != nil
	k.cloud.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	was := false
	for {
		refused := k.token != nil && !k.cloud.lets(k.id, k.token())
		k.cloud.mu.Lock()
		k.refused = refused
		up := k.cloud.up && !refused
		k.cloud.mu.Unlock()
		switch {
		case refused:
			k.cb.State(false, fmt.Errorf("%w: %w", upstream.ErrNoIdentity, client.ErrUnauthorized))
		case up != was:
			k.cb.State(up, nil)
		}
		was = up
		select {
		case <-k.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// again lets a connection log in once more, as after the end of its token.
func (k *conn) again() {
	k.wake <- struct{}{}
	synctest.Wait()
}

func (k *conn) SendAsync(m *iothub.Message, lane upstream.Lane, done func(error)) {
	k.cloud.mu.Lock()
	ok := k.cloud.up && !k.refused && !k.cloud.broken[k.id] && (lane.First || k.lanes[lane.Priority])
	k.lanes[lane.Priority] = ok
	if ok {
		k.cloud.received = append(k.cloud.received, k.id.String()+":"+string(m.Body))
	}
	k.cloud.mu.Unlock()
	if ok {
		done(nil)
		return
	}
	done(upstream.ErrDown)
}

func (k *conn) Twin(context.Context) (iothub.TwinProperties, error) {
	k.cloud.mu.Lock()
	defer k.cloud.mu.Unlock()
	k.cloud.twins++
	k.cloud.calls = append(k.cloud.calls, k.id.String()+" twin")
	if !k.cloud.up {
		return iothub.TwinProperties{}, upstream.ErrDown
	}
	desired := k.cloud.desired[k.id]
	if desired == "" {
		desired = `{"$version":1}`
	}
	reported := json.RawMessage(`{}`)
	for _, p := range k.cloud.reported[k.id] {
		var err error
		if reported, err = iothub.MergePatch(reported, json.RawMessage(p)); err != nil {
			return iothub.TwinProperties{}, err
		}
	}
	reported, err := iothub.WithVersion(reported, int64(1+len(k.cloud.reported[k.id])))
	return iothub.TwinProperties{Desired: json.RawMessage(desired), Reported: reported}, err
}

func (k *conn) PatchReported(ctx context.Context, patch json.RawMessage) error {
	k.cloud.mu.Lock()
	k.cloud.calls = append(k.cloud.calls, k.id.String()+" reported")
	if k.cloud.mute {
		k.cloud.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer k.cloud.mu.Unlock()
	if !k.cloud.up {
		return upstream.ErrDown
	}
	if strings.Contains(string(patch), "refuse me") {
		return fmt.Errorf("%w: status 400", upstream.ErrMessage)
	}
	k.cloud.reported[k.id] = append(k.cloud.reported[k.id], string(patch))
	return nil
}

func (k *conn) Subscribe(w upstream.Wants) {
	k.cloud.mu.Lock()
	defer k.cloud.mu.Unlock()
	k.wants = w
}

// conn returns the connection of an identity, nil if there is none.
func (c *cloud) conn(id iothub.Identity) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conns[id]
}

func (c *cloud) wants(id iothub.Identity) upstream.Wants {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.conns[id]; k != nil {
		return k.wants
	}
	return upstream.Wants{}
}

func (c *cloud) got(sender iothub.Identity) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, r := range c.received {
		if body, ok := strings.CutPrefix(r, sender.String()+":"); ok {
			list = append(list, body)
		}
	}
	return strings.Join(list, " ")
}

// setDesired changes the hub's own twin and tells the hub.
func (c *cloud) setDesired(desired string) {
	c.mu.Lock()
	c.desired[self] = desired
	k := c.conns[self]
	c.mu.Unlock()
	if k != nil {
		k.cb.Desired(context.Background(), json.RawMessage(`{}`), 0)
	}
	synctest.Wait()
}

// ownReport is all that the hub has reported of itself, merged.
func (c *cloud) ownReport(t *testing.T) map[string]any {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	doc := json.RawMessage(`{}`)
	for _, p := range c.reported[self] {
		var err error
		if doc, err = iothub.MergePatch(doc, json.RawMessage(p)); err != nil {
			t.Fatal(err)
		}
	}
	var m map[string]any
	if err := json.Unmarshal(doc, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// rig is a hub over fakes.
type rig struct {
	t       *testing.T
	dir     *directory
	cloud   *cloud
	store   *store.Store
	disk    *simdisk.Disk // of the queues
	metrics *metrics.Metrics
	cache   *scope.Cache
	hub     *edge.Hub
	log     bytes.Buffer // read after stop
	cancel  context.CancelFunc
	ended   chan error
}

// within runs a test with a hub that is connected to the cloud, in virtual time.
func within(t *testing.T, change func(*rig, *edge.Options), test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.start(change)
		r.cloud.set(true)
		test(t, r)
	})
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: newDirectory(), cloud: newCloud(), disk: simdisk.New()}
	var err error
	if r.store, err = store.Open("", store.Options{InMemory: true, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs a hub on the rig's store.
func (r *rig) start(change func(*rig, *edge.Options)) {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	sealer, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		r.t.Fatal(err)
	}
	var hub *edge.Hub
	cache, err := scope.New(r.dir, seal.Bucket{Bucket: r.store.Bucket("scope"), Sealer: sealer}, scope.Options{
		Logger: log, Changed: func(id iothub.Identity) { hub.ScopeChanged(id) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.cache = cache
	r.cloud.known = func(id iothub.Identity) bool {
		_, ok := cache.Chain(id, "edge")
		return ok
	}
	r.metrics = metrics.New(hubName, "edge", 0)
	o := edge.Options{
		HubName: hubName, Device: "edge", Hostname: "gateway.test", Version: "1.2.3",
		Dial: r.cloud.dial, Records: r.store.Bucket("twins"), Config: r.store.Bucket("config"),
		Twin: twin.Options{Logger: log}, Auth: auth.Options{Hosts: []string{hubName, "gateway.test"}, Device: "edge", Logger: log},
		Messages: r.disk.Folder(), Scope: cache, Metrics: r.metrics, Logger: log,
	}
	if change != nil {
		change(r, &o)
	}
	if hub, err = edge.New(o); err != nil {
		r.t.Fatal(err)
	}
	r.hub = hub
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- hub.Run(ctx) }()
	synctest.Wait()
}

// stop ends the hub; the store stays.
func (r *rig) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run: %v", err)
	}
	synctest.Wait()
}

func (r *rig) close() {
	r.t.Helper()
	r.stop()
	if err := r.store.Close(); err != nil {
		r.t.Error(err)
	}
	if r.t.Failed() {
		r.t.Log(r.log.String())
	}
}

// page is the metrics page.
func (r *rig) page() string {
	w := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// counter sums the series of a metric whose labels hold all of these.
func (r *rig) counter(name string, labels ...string) float64 {
	r.t.Helper()
	sum := 0.0
	for line := range strings.Lines(r.page()) {
		if !strings.HasPrefix(line, "edgehub_"+name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(line, l) }) {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
			r.t.Fatal(err)
		}
		sum += v
	}
	return sum
}
