package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
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
			h.refusedByCloud(id, err)
			h.calls.add("refresh "+id.String(), func(ctx context.Context) {
				if _, err := h.scope.Refresh(ctx, id); err != nil {
					h.log.Debug("identity not refreshed", "id", id.String(), "error", err)
				}
			})
		}
		return
	}
	h.calls.add("reconnected "+id.String(), func(ctx context.Context) { h.twins.Reconnected(ctx, id) })
}

func (h *Hub) ownState(up bool, err error) {
	before := h.online.Swap(up)
	switch {
	case up && !before:
		h.log.Info("cloud is connected")
		if lost := h.lost.Swap(0); lost != 0 {
			h.metrics.Online(h.self().String(), time.Since(time.Unix(0, lost)))
		}
		h.wakeUpstream()
		h.scope.RefreshSoon()
		h.own.add("own twin", h.fetchConfig)
		h.own.add("reconnected "+h.self().String(), func(ctx context.Context) { h.twins.Reconnected(ctx, h.self()) })
		for _, s := range h.all() {
			if h.cloudWants(s) != (upstream.Wants{}) {
				h.subscribeUpstream(s.id())
			}
		}
	case !up && before:
		h.log.Warn("cloud is lost; messages are stored", "error", err)
		h.metrics.Offline(h.self().String())
		h.lost.Store(time.Now().UnixNano())
		// The others would find out one by one, and come back one by one.
		h.pool.CloseOthers(h.self())
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

// subscribeUpstream states what a client wants to hear from the cloud, as a job. A
// client that is not connected wants nothing. While there is no cloud nothing is
// stated: that follows when there is one.
func (h *Hub) subscribeUpstream(id iothub.Identity) {
	h.jobs.add("subscribe "+id.String(), func(context.Context) {
		var wants upstream.Wants
		if s := h.session(id); s != nil {
			wants = h.cloudWants(s)
		}
		if wants != (upstream.Wants{}) && !h.online.Load() {
			return
		}
		if err := h.pool.Subscribe(id, wants); err != nil {
			h.log.Debug("cloud subscriptions wait", "id", id.String(), "error", err)
		}
		if h.session(id) == nil && !h.o.KeepConnections {
			h.pool.Leave(id)
		}
	})
}

// cloudWants is what the cloud is told that a client wants.
func (h *Hub) cloudWants(s *session) upstream.Wants {
	if h.o.LocalSubscriptions {
		return upstream.Wants{}
	}
	return s.upstreamWants()
}

// resubscribe states again what a client wants, if that has not got through: its
// device was not known then, or there were too many connections.
func (h *Hub) resubscribe(s *session) {
	if h.online.Load() && h.pool.Wants(s.id()) != h.cloudWants(s) {
		h.subscribeUpstream(s.id())
	}
}

// cloudTwins is the cloud as the twins see it: while the hub has no connection
// nothing is waited for.
type cloudTwins struct{ hub *Hub }

// Twin fetches a twin.
func (c cloudTwins) Twin(ctx context.Context, id iothub.Identity) (iothub.TwinProperties, error) {
	if !c.hub.online.Load() {
		return iothub.TwinProperties{}, upstream.ErrDown
	}
	t, err := c.hub.pool.Twin(ctx, id)
	c.hub.timedOut(ctx, err)
	return t, err
}

// PatchReported pushes a patch.
func (c cloudTwins) PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error {
	if !c.hub.online.Load() {
		return upstream.ErrDown
	}
	start := time.Now()
	err := c.hub.pool.PatchReported(ctx, id, patch)
	c.hub.timedOut(ctx, err)
	if errors.Is(err, upstream.ErrMessage) {
		// Kept, it would be refused again and again, and all later ones with it.
		c.hub.log.Error("reported properties were refused by the cloud and are given up", "id", id.String(), "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	c.hub.metrics.Reported(metrics.Upstream, id.String(), time.Since(start))
	return nil
}

// CloudDesired takes a patch of an identity's desired properties.
func (h *Hub) CloudDesired(ctx context.Context, id iothub.Identity, patch json.RawMessage, version int64) {
	if id == h.self() {
		// Versions may have been missed, and a patch alone cannot be validated:
		// take the whole.
		h.own.add("own twin", h.fetchConfig)
		return
	}
	// Patches of one identity keep their order: they are handled here, one after
	// the other, on the connection's own goroutine.
	ctx, cancel := context.WithTimeout(ctx, callLimit)
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
	answer, err := h.invoke(ctx, metrics.Upstream, id, r, 0, methodLimit)
	switch {
	case errors.Is(err, head.ErrNotConnected):
		return iothub.MethodResponse{Status: http.StatusNotFound}
	case err != nil:
		return iothub.MethodResponse{Status: http.StatusGatewayTimeout}
	}
	return answer
}

// errNotThere: the device could not be asked. The cloud is told nothing: it makes
// the message visible again without counting a delivery (spec edgehub-core 11).
var errNotThere = fmt.Errorf("%w: device has not answered", client.ErrKeep)

// CloudMessage passes a cloud-to-device message on. The error says what the cloud is
// told, as to a handler of the client; nil says that the device has completed it.
func (h *Hub) CloudMessage(ctx context.Context, id iothub.Identity, m *iothub.Message) error {
	s := h.session(id)
	if s == nil || !s.wants(head.C2D) {
		return errNotThere
	}
	lock := m.System.Get(iothub.LockToken)
	if !s.hold(lock) {
		return fmt.Errorf("%w: the device has this message already", client.ErrKeep)
	}
	defer s.letGo(lock)
	result := make(chan head.Outcome, 1)
	var decided atomic.Bool
	s.client.Deliver("", m, func(o head.Outcome) bool {
		if decided.Swap(true) {
			return false // too late
		}
		result <- o
		return true
	})
	ctx, cancel := context.WithTimeout(ctx, h.o.AckTimeout)
	defer cancel()
	select {
	case o := <-result:
		return relayed(o, m)
	case <-ctx.Done():
		if decided.Swap(true) {
			return relayed(<-result, m) // just in time
		}
		return errNotThere
	}
}

// relayed is what the cloud is told of a device's outcome.
func relayed(o head.Outcome, m *iothub.Message) error {
	switch o {
	case head.Complete:
		return nil
	case head.Reject:
		return fmt.Errorf("%w: device has rejected message %q", client.ErrReject, m.System.Get(iothub.MessageID))
	case head.Abandon:
		return errors.New("device has abandoned the message")
	}
	return errNotThere
}
