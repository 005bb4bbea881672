package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const (
	lastGoodConfig = "desired"
	configRefresh  = time.Hour
)

// loadConfig takes the last good configuration from disk, if there is one.
func (h *Hub) loadConfig(ctx context.Context) error {
	raw, err := h.o.Config.Get(lastGoodConfig)
	if errors.Is(err, store.ErrNotFound) {
		h.log.Info("no configuration on disk; waiting for the cloud")
		return nil
	}
	if err != nil {
		h.log.Warn("configuration on disk is unreadable; waiting for the cloud", "error", err)
		return nil
	}
	cfg, err := route.ParseConfig(raw)
	if err != nil {
		h.log.Warn("configuration on disk is invalid; waiting for the cloud", "error", err)
		return nil
	}
	version, _ := iothub.Version(raw)
	h.log.Info("configuration from disk", "version", version, "routes", len(cfg.Routes))
	return h.apply(ctx, cfg)
}

// configure takes a whole desired section of the hub's own twin: all of it or
// nothing (spec edgehub-routing 1.2, 8).
func (h *Hub) configure(ctx context.Context, desired json.RawMessage) {
	h.configMu.Lock()
	defer h.configMu.Unlock()
	version, _ := iothub.Version(desired)
	cfg, err := route.ParseConfig(desired)
	if err == nil {
		err = h.apply(ctx, cfg)
	}
	if err != nil {
		h.log.Error("configuration refused; the last good one stays", "version", version, "error", err)
		h.report.status(version, 400, err.Error())
		return
	}
	if err := h.o.Config.Put(ctx, lastGoodConfig, desired); err != nil {
		h.log.Warn("configuration not kept for a start without a cloud", "error", err)
	}
	h.log.Info("configuration applied", "version", version, "routes", len(cfg.Routes))
	h.report.status(version, 200, "")
}

// apply makes a configuration the one in force: routes first, since what is stored
// for an endpoint that is not there yet waits for it.
func (h *Hub) apply(ctx context.Context, cfg *route.Config) error {
	table := route.NewTable(cfg, h.o.Device)
	h.ttl.Store(int64(cfg.TTL))
	h.table.Store(table)
	if err := h.engine.Reconfigure(ctx, h.sinks(table)); err != nil {
		return fmt.Errorf("change endpoints: %w", err)
	}
	for _, n := range cfg.Routes {
		for _, w := range n.Route.Warnings {
			h.log.Warn("route", "name", n.Name, "warning", w)
		}
	}
	h.configOnce.Do(func() { close(h.configured) })
	return nil
}

// followOwnTwin connects the hub's own identity to the cloud, and fetches its twin
// once an hour beside what the cloud tells by itself.
func (h *Hub) followOwnTwin(ctx context.Context) error {
	h.jobs.add("own subscriptions", h.subscribeSelf)
	tick := time.NewTicker(configRefresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.jobs.add("own twin", h.fetchConfig)
		}
	}
}

// fetchConfig reads the hub's twin from the cloud and takes its desired properties
// if their version is not the one in force.
func (h *Hub) fetchConfig(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	t, err := h.pool.Twin(call, h.self())
	if err != nil {
		h.log.Warn("own twin not fetched", "error", err)
		return
	}
	h.configure(ctx, t.Desired)
}
