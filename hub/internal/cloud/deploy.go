package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// deployPause is the time from a change that may concern deployments to the round that
// looks at it; IoT Hub takes minutes. A round that takes long is followed by
// deployRest times as long without one, so that a fleet that reports all the time does
// not keep the hub busy with this.
const (
	deployPause = 200 * time.Millisecond
	deployRest  = 5
)

// deployed is what deployments for many devices have done on one edge device.
type deployed struct {
	Status  map[string]string `json:"status"`  // of configurations, by id
	Modules []string          `json:"modules"` // whose twins were written
}

// deployer keeps what was deployed where, and knows when to look again.
type deployer struct {
	bucket store.Bucket
	signal chan struct{}

	told map[string]string // by device: the failure that was logged last; of deploy alone

	// writing has one lock for each device, or several, that is held while a manifest is
	// applied.
	seed    maphash.Seed
	writing [64]sync.Mutex

	mu  sync.Mutex
	all map[string]deployed // by device
}

func newDeployer(s *store.Store) *deployer {
	return &deployer{seed: maphash.MakeSeed(), bucket: s.Bucket("cloud.deployed"), signal: make(chan struct{}, 1), told: map[string]string{}, all: map[string]deployed{}}
}

func (d *deployer) load() error {
	err := d.bucket.Scan("", func(device string, value []byte) error {
		var done deployed
		if err := json.Unmarshal(value, &done); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
		d.all[device] = done
		return nil
	})
	if err != nil {
		return fmt.Errorf("deployments: %w", err)
	}
	d.changed() // what happened before the start, or is half done since
	return nil
}

// changed tells that a condition may have another outcome now, or that a twin that a
// deployment owns was written. It does not wait.
func (d *deployer) changed() {
	select {
	case d.signal <- struct{}{}:
	default:
	}
}

// lock keeps other manifests away from a device until unlock is called.
func (d *deployer) lock(device string) (unlock func()) {
	l := &d.writing[maphash.String(d.seed, device)%uint64(len(d.writing))]
	l.Lock()
	return l.Unlock
}

// status returns how far configurations got on a device, nil if there are none.
func (d *deployer) status(device string) map[string]rest.ConfigurationStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out map[string]rest.ConfigurationStatus
	for id, status := range d.all[device].Status {
		if out == nil {
			out = map[string]rest.ConfigurationStatus{}
		}
		out[id] = rest.ConfigurationStatus{Status: status}
	}
	return out
}

func (d *deployer) get(device string) deployed {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[device]
}

func (d *deployer) devices() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.all))
}

// set notes what was deployed; nothing at all removes the note.
func (d *deployer) set(ctx context.Context, device string, done deployed) error {
	if reflect.DeepEqual(d.get(device), done) {
		return nil
	}
	gone := len(done.Status) == 0 && len(done.Modules) == 0
	var err error
	if gone {
		err = d.bucket.Delete(ctx, device)
	} else {
		var raw []byte
		if raw, err = json.Marshal(done); err == nil {
			err = d.bucket.Put(ctx, device, raw)
		}
	}
	if err != nil {
		return fmt.Errorf("note of what was deployed: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if gone {
		delete(d.all, device)
	} else {
		d.all[device] = done
	}
	return nil
}

// deploy brings deployments to their devices after each change, until ctx ends.
func (h *Hub) deploy(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := deployPause; ; {
		select {
		case <-h.deployments.signal:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		if err := h.deployRound(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("deployments not looked at", "error", err)
		}
		pause = max(deployPause, deployRest*time.Since(began))
	}
}

// tell logs what happened to the deployments of a device, once until it changes.
func (d *deployer) tell(log *slog.Logger, device string, err error) {
	if err == nil {
		delete(d.told, device)
		return
	}
	if d.told[device] != err.Error() {
		log.Warn("deployment not applied", "device", device, "error", err)
	}
	d.told[device] = err.Error()
}

func (h *Hub) deployRound(ctx context.Context) error {
	noted := h.deployments.devices()
	if h.configurations.Empty() && len(noted) == 0 {
		return nil
	}
	edge := map[string]bool{}
	for doc, err := range h.twinsAfter(ctx, query.Devices, "") {
		if err != nil {
			return err
		}
		device, err := h.registry.Device(doc.Key)
		if err != nil || !device.IsEdge() {
			continue
		}
		edge[doc.Key] = true
		err = h.deployTo(ctx, doc.Key, h.configurations.For(doc.Body))
		if ctx.Err() != nil {
			return fmt.Errorf("device %s: %w", doc.Key, ctx.Err()) // the hub ends; the device did not refuse anything
		}
		h.deployments.tell(h.log, doc.Key, err)
	}
	for _, device := range noted {
		if !edge[device] {
			delete(h.deployments.told, device)
			if err := h.deployments.set(ctx, device, deployed{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// deployTo applies an outcome and notes it. Where nothing is to be applied, what is
// there stays.
func (h *Hub) deployTo(ctx context.Context, device string, o deployment.Outcome) error {
	next := deployed{Status: o.Status, Modules: h.deployments.get(device).Modules}
	var failed error
	if o.Applies {
		failed = h.applyOver(ctx, device, o.Manifest, next.Modules)
		switch {
		case failed == nil:
			next.Modules = o.Manifest.Modules()
		case ctx.Err() != nil:
			return failed // what is noted stays: the next start does the rest
		default:
			for id := range next.Status {
				next.Status[id] = deployment.Targeted
			}
		}
	}
	return errors.Join(failed, h.deployments.set(ctx, device, next))
}

// applyOver applies a manifest to a device that another one was applied to: modules that
// are not named any more lose their desired properties.
func (h *Hub) applyOver(ctx context.Context, device string, m deployment.Manifest, before []string) error {
	if err := h.apply(ctx, device, m); err != nil {
		return err
	}
	named := m.Modules()
	for _, name := range before {
		if slices.Contains(named, name) {
			continue
		}
		_, err := h.updateDesired(ctx, iothub.ModuleIdentity(device, name), func(t *twin.Twin) (json.RawMessage, error) {
			return h.replaceDesired(t, map[string]any{})
		})
		var gone *registry.Error
		if err != nil && !errors.As(err, &gone) { // a module that was deleted needs nothing
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

// Measure fills in the results of a configuration's metrics: how many rows their
// queries give.
func (h *Hub) Measure(ctx context.Context, c *rest.Configuration) error {
	for _, m := range []*rest.ConfigurationMetrics{&c.SystemMetrics, &c.Metrics} {
		for name, text := range m.Queries {
			n, err := h.count(ctx, text)
			if err != nil {
				return fmt.Errorf("metric %s of configuration %s: %w", name, c.ID, err)
			}
			m.Results[name] = n
		}
	}
	return nil
}

// count returns how many rows a query gives, 0 for none.
func (h *Hub) count(ctx context.Context, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	q, err := query.Parse(text)
	if err != nil {
		return 0, err
	}
	n := 0
	for token := ""; ; {
		page, err := h.Query(ctx, q, token, 1000)
		if err != nil {
			return 0, err
		}
		n += len(page.Rows)
		if token = page.Next; token == "" {
			return n, nil
		}
	}
}
