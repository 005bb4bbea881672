package edge

import (
	"bytes"
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
	configRetry    = 30 * time.Second
)

// desired is what the hub knows of the desired properties of its twin.
type desired struct {
	inForce json.RawMessage // the last good ones; nil while there are none
	stated  json.RawMessage // those whose status was reported last in this life
}

// loadConfig takes the last good configuration from disk, if there is one.
func (h *Hub) loadConfig(ctx context.Context) error {
	h.configMu.Lock()
	defer h.configMu.Unlock()
	if h.o.Fixed != nil {
		cfg, err := route.ParseConfig(h.o.Fixed)
		if err != nil {
			return fmt.Errorf("local configuration: %w", err)
		}
		h.log.Info("configuration from the settings", "routes", len(cfg.Routes))
		return h.apply(ctx, cfg)
	}
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
	h.desired.inForce = raw
	return h.apply(ctx, cfg)
}

// configure takes a whole desired section of the hub's own twin: all of it or
// nothing (spec edgehub-routing 1.2, 8). What has been taken or refused before is
// left alone.
func (h *Hub) configure(ctx context.Context, raw json.RawMessage) {
	h.configMu.Lock()
	defer h.configMu.Unlock()
	if bytes.Equal(raw, h.desired.stated) {
		return
	}
	version, _ := iothub.Version(raw)
	if bytes.Equal(raw, h.desired.inForce) {
		h.desired.stated = raw
		h.report.status(version, 200, "")
		return
	}
	cfg, err := route.ParseConfig(raw)
	if err != nil {
		h.log.Error("configuration refused; the last good one stays", "version", version, "error", err)
		h.desired.stated = raw
		h.report.status(version, 400, err.Error())
		return
	}
	if err := h.apply(ctx, cfg); err != nil {
		h.log.Error("configuration not applied", "version", version, "error", err)
		return
	}
	h.desired.inForce, h.desired.stated = raw, raw
	if err := h.o.Config.Put(ctx, lastGoodConfig, raw); err != nil {
		h.log.Warn("configuration not kept for a start without a cloud", "error", err)
	}
	h.log.Info("configuration applied", "version", version, "routes", len(cfg.Routes))
	h.report.status(version, 200, "")
}

// apply makes a configuration the one in force: routes first, since what is stored
// for an endpoint that is not there yet waits for it. The caller holds configMu.
func (h *Hub) apply(ctx context.Context, cfg *route.Config) error {
	r := h.newRouting(cfg)
	h.routing.Store(r)
	if err := h.engine.Reconfigure(ctx, h.sinks(r.table)); err != nil {
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
// every ConfigRefresh beside what the cloud tells by itself; sooner when that went wrong.
func (h *Hub) followOwnTwin(ctx context.Context) error {
	h.subscribeSelf(ctx)
	timer := time.NewTimer(h.o.ConfigRefresh)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.refetch:
			timer.Reset(configRetry)
		case <-timer.C:
			h.own.add("own twin", h.fetchConfig)
			timer.Reset(h.o.ConfigRefresh)
		}
	}
}

// fetchConfig reads the hub's twin from the cloud and takes its desired properties.
func (h *Hub) fetchConfig(ctx context.Context) {
	if h.o.Fixed != nil || !h.online.Load() {
		return // nobody asks for it, or it is fetched when the cloud is back
	}
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	t, err := h.pool.Twin(call, h.self())
	if err == nil {
		h.configure(ctx, t.Desired)
		return
	}
	h.log.Warn("own twin not fetched", "error", err)
	select {
	case h.refetch <- struct{}{}:
	default:
	}
}
