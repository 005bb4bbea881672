package edge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// CloudState hears that an identity's cloud connection is up or not. The hub's own
// connection decides whether there is a cloud at all.
func (h *Hub) CloudState(id iothub.Identity, up bool, err error) {
	if id == h.self() {
		h.ownState(up, err)
		return
	}
	if !up {
		h.log.Debug("cloud connection is down", "id", id.String(), "error", err)
		if errors.Is(err, upstream.ErrNoIdentity) {
			h.jobs.add("refresh "+id.String(), func(ctx context.Context) {
				if _, err := h.scope.Refresh(ctx, id); err != nil {
					h.log.Debug("identity not refreshed", "id", id.String(), "error", err)
				}
			})
		}
		return
	}
	h.jobs.add("reconnected "+id.String(), func(ctx context.Context) { h.twins.Reconnected(ctx, id) })
}

func (h *Hub) ownState(up bool, err error) {
	before := h.online.Swap(up)
	switch {
	case up && !before:
		h.log.Info("cloud is connected")
		h.wakeUpstream()
		h.scope.RefreshSoon()
		h.jobs.add("own subscriptions", h.subscribeSelf)
		h.jobs.add("own twin", h.fetchConfig)
		h.jobs.add("reconnected "+h.self().String(), func(ctx context.Context) { h.twins.Reconnected(ctx, h.self()) })
		for _, s := range h.all() {
			if s.upstreamWants() != (upstream.Wants{}) {
				h.subscribeUpstream(s)
			}
		}
	case !up && before:
		h.log.Warn("cloud is lost; messages are stored", "error", err)
		h.metrics.Offline(h.self().String())
	case !up:
		h.log.Debug("cloud is not connected", "error", err)
	}
}

// subscribeSelf opens the hub's own connection.
func (h *Hub) subscribeSelf(context.Context) {
	if err := h.pool.Subscribe(h.self(), upstream.Wants{Desired: true, Methods: true}); err != nil {
		h.log.Warn("own cloud connection", "error", err)
	}
}

// CloudDesired takes a patch of an identity's desired properties.
func (h *Hub) CloudDesired(_ context.Context, id iothub.Identity, patch json.RawMessage, version int64) {
	if id == h.self() {
		// Versions may have been missed, and a patch alone cannot be validated:
		// take the whole.
		h.jobs.add("own twin", h.fetchConfig)
		return
	}
	// Patches of one identity keep their order: they are handled here, one after
	// the other, on the connection's own goroutine.
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	h.twins.DesiredChanged(ctx, id, patch, version)
}

// notifyDesired passes a patch on to a client that wants it.
func (h *Hub) notifyDesired(id iothub.Identity, patch json.RawMessage, version int64) {
	if s := h.session(id); s != nil && s.wants(head.DesiredChanges) {
		s.client.DesiredChanged(patch, version)
	}
}

// CloudMethod passes a direct method on, or answers one for the hub itself.
func (h *Hub) CloudMethod(ctx context.Context, id iothub.Identity, r iothub.MethodRequest) iothub.MethodResponse {
	if id == h.self() {
		return h.ownMethod(ctx, r)
	}
	s := h.session(id)
	if s == nil || !s.wants(head.Methods) {
		return iothub.MethodResponse{Status: http.StatusNotFound}
	}
	h.metrics.Method(metrics.Upstream, id.String())
	ctx, cancel := context.WithTimeout(ctx, methodLimit)
	defer cancel()
	answer := make(chan iothub.MethodResponse, 1)
	stop := s.client.InvokeMethod(r.Name, r.Payload, func(status int, payload json.RawMessage) {
		answer <- iothub.MethodResponse{Status: status, Payload: payload}
	})
	defer stop()
	select {
	case a := <-answer:
		return a
	case <-ctx.Done():
		return iothub.MethodResponse{Status: http.StatusGatewayTimeout}
	}
}

var errNotTaken = errors.New("device has not taken the message")

// CloudMessage passes a cloud-to-device message on; nil says that the device has
// completed it.
func (h *Hub) CloudMessage(ctx context.Context, id iothub.Identity, m *iothub.Message) error {
	s := h.session(id)
	if s == nil || !s.wants(head.C2D) {
		return errNotTaken
	}
	result := make(chan head.Outcome, 1)
	var once atomic.Bool
	s.client.Deliver("", m, func(o head.Outcome) {
		if once.CompareAndSwap(false, true) {
			result <- o
		}
	})
	ctx, cancel := context.WithTimeout(ctx, h.o.AckTimeout)
	defer cancel()
	select {
	case o := <-result:
		if o == head.Complete {
			return nil
		}
		return errNotTaken
	case <-ctx.Done():
		return errNotTaken
	}
}
