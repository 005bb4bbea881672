package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Change tells that an identity was created, changed or deleted. Scopes are the
// edge devices in whose scope it is or was.
type Change struct {
	ID      iothub.Identity
	Deleted bool
	Scopes  []string
}

// Registry holds all identities. All methods may be called concurrently.
type Registry struct {
	s       *store.Store
	devices store.Bucket
	modules store.Bucket
	twins   *twin.Store
	now     func() time.Time
	changed func([]Change)

	maxChildren int

	// write is held by one writer from the first look to the publication, over the
	// fsync. Lock order: write, twins, mu.
	write          sync.Mutex
	lastGeneration int64

	mu       sync.RWMutex // guards the maps; their values never change
	byID     map[string]*device
	children map[string]map[string]struct{} // scope -> device ids
}

// device is one device with its modules. It is replaced, never changed.
type device struct {
	doc     rest.Device
	modules map[string]rest.Module
}

func (d *device) clone() *device { return &device{doc: d.doc, modules: maps.Clone(d.modules)} }

// parent returns the scope of the parent, or "".
func (d *device) parent() string {
	if len(d.doc.ParentScopes) == 0 {
		return ""
	}
	return d.doc.ParentScopes[0]
}

// Open reads the registry in s. changed, if not nil, is called after each write
// that succeeded, without a lock.
func Open(s *store.Store, twins *twin.Store, now func() time.Time, changed func([]Change)) (*Registry, error) {
	if now == nil {
		now = time.Now
	}
	if changed == nil {
		changed = func([]Change) {}
	}
	r := &Registry{s: s, devices: s.Bucket("cloud.devices"), modules: s.Bucket("cloud.modules"), twins: twins, now: now,
		changed: changed, maxChildren: maxChildren, byID: map[string]*device{}, children: map[string]map[string]struct{}{}}
	err := r.devices.Scan("", func(k string, v []byte) error {
		d := &device{modules: map[string]rest.Module{}}
		if err := json.Unmarshal(v, &d.doc); err != nil {
			return fmt.Errorf("device %s: %w", k, err)
		}
		r.publish(k, d)
		r.sawGeneration(d.doc.GenerationID)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	err = r.modules.Scan("", func(k string, v []byte) error {
		var m rest.Module
		if err := json.Unmarshal(v, &m); err != nil {
			return fmt.Errorf("module %s: %w", k, err)
		}
		d, ok := r.byID[m.DeviceID]
		if !ok {
			return fmt.Errorf("module %s has no device", k)
		}
		d.modules[m.ModuleID] = m
		r.sawGeneration(m.GenerationID)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return r, nil
}

func (r *Registry) sawGeneration(g string) {
	if n, err := strconv.ParseInt(g, 10, 64); err == nil {
		r.lastGeneration = max(r.lastGeneration, n)
	}
}

// generation returns a new generation id: 100 ns ticks since year one, and never
// one twice.
func (r *Registry) generation() string {
	const unixEpochTicks = 621355968000000000
	r.lastGeneration = max(r.lastGeneration+1, r.now().UnixNano()/100+unixEpochTicks)
	return strconv.FormatInt(r.lastGeneration, 10)
}

// NewEtag returns an etag that is not old.
func NewEtag(old string) string {
	for {
		tag := base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(100_000_000 + rand.IntN(900_000_000))))
		if tag != old {
			return tag
		}
	}
}

// find returns a device, or a refusal.
func (r *Registry) find(id string) (*device, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d, ok := r.byID[id]; ok {
		return d, nil
	}
	return nil, refuse(DeviceNotFound, "device %s is not registered", printable(id))
}

// printable keeps ids that clients parse out of error texts free of separators.
func printable(id string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == ';' || c == ':' || c > '~' {
			return '_'
		}
		return c
	}, id[:min(len(id), iothub.MaxIDLength)])
}

// Device returns a device.
func (r *Registry) Device(id string) (rest.Device, error) {
	d, err := r.find(id)
	if err != nil {
		return rest.Device{}, err
	}
	return d.document(), nil
}

func (d *device) document() rest.Device {
	doc := d.doc
	doc.Authentication = cloneAuth(doc.Authentication)
	caps := *doc.Capabilities
	doc.Capabilities = &caps
	doc.ParentScopes = append([]string{}, doc.ParentScopes...)
	return doc
}

// Module returns a module.
func (r *Registry) Module(id iothub.Identity) (rest.Module, error) {
	d, err := r.find(id.Device)
	if err != nil {
		return rest.Module{}, err
	}
	m, ok := d.modules[id.Module]
	if !ok {
		return rest.Module{}, refuse(ModuleNotFound, "module %s is not registered on device %s", printable(id.Module), printable(id.Device))
	}
	m.Authentication = cloneAuth(m.Authentication)
	return m, nil
}

// IDs returns the ids of all devices in their order.
func (r *Registry) IDs() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.byID))
}

// Devices returns the first top devices by id.
func (r *Registry) Devices(top int) []rest.Device {
	r.mu.RLock()
	ids := slices.Sorted(maps.Keys(r.byID))
	list := make([]*device, 0, min(top, len(ids)))
	for _, id := range ids[:min(top, len(ids))] {
		list = append(list, r.byID[id])
	}
	r.mu.RUnlock()
	docs := make([]rest.Device, len(list))
	for i, d := range list {
		docs[i] = d.document()
	}
	return docs
}

// Modules returns the modules of a device by id.
func (r *Registry) Modules(id string) ([]rest.Module, error) {
	d, err := r.find(id)
	if err != nil {
		return nil, err
	}
	list := make([]rest.Module, 0, len(d.modules))
	for _, name := range slices.Sorted(maps.Keys(d.modules)) {
		m := d.modules[name]
		m.Authentication = cloneAuth(m.Authentication)
		list = append(list, m)
	}
	return list, nil
}

// Statistics counts the devices.
func (r *Registry) Statistics() rest.Statistics {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := rest.Statistics{Total: len(r.byID)}
	for _, d := range r.byID {
		if d.doc.Status == rest.Enabled {
			s.Enabled++
		} else {
			s.Disabled++
		}
	}
	return s
}

// transaction collects what one write does; the writer holds r.write.
type transaction struct {
	r       *Registry
	batch   store.Batch
	publish map[string]*device // nil value: deleted
	err     error
	lives   bool // identities come or go
}

func (r *Registry) begin() *transaction { return &transaction{r: r, publish: map[string]*device{}} }

func (t *transaction) putDevice(d *device) {
	t.put(t.r.devices.Key(d.doc.DeviceID), d.doc)
	t.publish[d.doc.DeviceID] = d
}

func (t *transaction) putModule(d *device, m rest.Module) {
	d.modules[m.ModuleID] = m
	t.put(t.r.modules.Key(m.DeviceID+"/"+m.ModuleID), m)
	t.publish[d.doc.DeviceID] = d
}

func (t *transaction) deleteModule(d *device, name string) {
	delete(d.modules, name)
	t.batch.Delete(t.r.modules.Key(d.doc.DeviceID+"/"+name), 0)
	t.r.twins.Deleted(&t.batch, iothub.ModuleIdentity(d.doc.DeviceID, name))
	t.publish[d.doc.DeviceID], t.lives = d, true
}

func (t *transaction) createTwin(id iothub.Identity) {
	t.lives = true
	if err := t.r.twins.Created(&t.batch, id); err != nil {
		t.err = err
	}
}

func (t *transaction) put(key []byte, doc any) {
	raw, err := json.Marshal(doc)
	if err != nil {
		t.err = fmt.Errorf("encode identity: %w", err)
		return
	}
	t.batch.Put(key, raw)
}

// commit writes and then publishes.
func (t *transaction) commit(ctx context.Context) error {
	if t.err != nil {
		return t.err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.lives {
		defer t.r.twins.Exclusive()()
	}
	// Not the caller's context: the end of the write must be known.
	if err := t.r.s.CommitWait(context.WithoutCancel(ctx), &t.batch); err != nil {
		return fmt.Errorf("write registry: %w", err)
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	for id, d := range t.publish {
		t.r.publish(id, d)
	}
	return nil
}

// publish makes a device visible; nil removes it. r.mu is held, or nobody else has r.
func (r *Registry) publish(id string, d *device) {
	if old, ok := r.byID[id]; ok {
		if scope := old.parent(); scope != "" {
			delete(r.children[scope], id)
			if len(r.children[scope]) == 0 {
				delete(r.children, scope)
			}
		}
		delete(r.byID, id)
	}
	if d == nil {
		return
	}
	r.byID[id] = d
	if scope := d.parent(); scope != "" {
		if r.children[scope] == nil {
			r.children[scope] = map[string]struct{}{}
		}
		r.children[scope][id] = struct{}{}
	}
}
