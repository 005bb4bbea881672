package edge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const (
	// inputWindow is how many messages may wait for one module input's
	// settlement.
	inputWindow = 128
	// cloudWindow is how many may wait for the cloud's.
	cloudWindow = 1024
)

// inputSink delivers to one input of a module of this device.
type inputSink struct {
	hub    *Hub
	module iothub.Identity
	input  string
}

var _ dispatch.Sink = inputSink{}

// Window is 0 while the module is not there to listen.
func (k inputSink) Window() int {
	if s := k.hub.session(k.module); s == nil || !s.wants(head.Inputs) {
		return 0
	}
	return inputWindow
}

var errNotSettled = errors.New("module did not settle the message in time")

// Deliver sends the message to the module and waits, elsewhere, for its answer.
func (k inputSink) Deliver(m *iothub.Message, _ dispatch.Info, done func(error)) {
	s := k.hub.session(k.module)
	if s == nil || !s.wants(head.Inputs) {
		done(dispatch.ErrNotReady)
		return
	}
	var settled atomic.Bool
	once := func(err error) {
		if settled.CompareAndSwap(false, true) {
			done(err)
		}
	}
	timer := time.AfterFunc(k.hub.o.AckTimeout, func() { once(errNotSettled) })
	s.client.Deliver(k.input, toClient(m), func(o head.Outcome) {
		timer.Stop()
		switch o {
		case head.Complete:
			once(nil)
		case head.Reject:
			once(fmt.Errorf("%w: module %s has refused the message", dispatch.ErrPermanent, k.module))
		default: // abandoned, or lost with the connection: again when the module listens
			once(dispatch.ErrNotReady)
		}
	})
}

// toClient is the message as a module gets it: of a twin change the reporter is
// shown as the sender (spec edgehub-routing 7).
func toClient(m *iothub.Message) *iothub.Message {
	reporter := m.System.Get(iothub.ReportedByDeviceID)
	if reporter == "" || m.System.Get(iothub.MessageType) != twinChangeNotification {
		return m
	}
	c := m.Clone()
	c.System.Set(iothub.ConnectionDeviceID, reporter)
	if module := m.System.Get(iothub.ReportedByModuleID); module != "" {
		c.System.Set(iothub.ConnectionModuleID, module)
	} else {
		c.System.Delete(iothub.ConnectionModuleID)
	}
	return c
}

// cloudSink delivers to the cloud, over the connection of each message's sender.
type cloudSink struct{ hub *Hub }

var _ dispatch.SenderOrdered = cloudSink{}

// OrderedBySender: one sender's trouble must not hold up the others.
func (cloudSink) OrderedBySender() {}

// Window is 0 while there is no cloud.
func (k cloudSink) Window() int {
	if !k.hub.online.Load() {
		return 0
	}
	return cloudWindow
}

// Deliver sends the message upstream.
func (k cloudSink) Deliver(m *iothub.Message, _ dispatch.Info, done func(error)) {
	if m.Sender().IsZero() {
		done(fmt.Errorf("%w: message has no sender", dispatch.ErrPermanent))
		return
	}
	k.hub.pool.Send(m, func(err error) {
		if errors.Is(err, upstream.ErrNoIdentity) || errors.Is(err, upstream.ErrMessage) {
			err = fmt.Errorf("%w: %w", dispatch.ErrPermanent, err)
		}
		done(err)
	})
}

// sinks are the sinks of a table's endpoints.
func (h *Hub) sinks(t *route.Table) map[string]dispatch.Sink {
	sinks := make(map[string]dispatch.Sink)
	for _, e := range t.Endpoints() {
		if e.Sink.Upstream {
			sinks[e.ID] = cloudSink{h}
			continue
		}
		sinks[e.ID] = inputSink{hub: h, module: iothub.ModuleIdentity(h.o.Device, e.Sink.Module), input: e.Sink.Input}
	}
	return sinks
}

// wakeInputs tells the pumps that a module listens.
func (h *Hub) wakeInputs(module iothub.Identity) {
	for _, e := range h.table.Load().Endpoints() {
		if !e.Sink.Upstream && module == iothub.ModuleIdentity(h.o.Device, e.Sink.Module) {
			h.engine.Wake(e.ID)
		}
	}
}

func (h *Hub) wakeUpstream() {
	for _, e := range h.table.Load().Endpoints() {
		if e.Sink.Upstream {
			h.engine.Wake(e.ID)
		}
	}
}

func (h *Hub) defaultTTL() time.Duration { return time.Duration(h.ttl.Load()) }

func (h *Hub) expired(m *iothub.Message) {
	h.metrics.Dropped("ttl_expiry", m.Sender().String(), m.System.Get(iothub.OutputName))
}

// hooks count what the engine does.
func (h *Hub) hooks() dispatch.Hooks {
	return dispatch.Hooks{
		Sent: func(m *iothub.Message, info dispatch.Info, _ time.Duration) {
			to, input := h.destination(info.Endpoint)
			h.metrics.Sent(m.Sender().String(), to, m.System.Get(iothub.OutputName), input, info.Priority)
		},
		Dropped: func(m *iothub.Message, _ dispatch.Info, reason string) {
			h.metrics.Dropped(reason, m.Sender().String(), m.System.Get(iothub.OutputName))
		},
		Retry: func(m *iothub.Message, info dispatch.Info, err error) {
			h.metrics.Retried(m.Sender().String(), "send")
			h.log.Debug("message will be sent again", "from", m.Sender().String(), "endpoint", info.Endpoint, "error", err)
		},
	}
}

// destination names an endpoint as the metrics do.
func (h *Hub) destination(endpoint string) (to, input string) {
	for _, e := range h.table.Load().Endpoints() {
		if e.ID != endpoint {
			continue
		}
		if e.Sink.Upstream {
			return metrics.Upstream, ""
		}
		return h.o.Device + "/" + e.Sink.Module, e.Sink.Input
	}
	return endpoint, ""
}

// subscribeUpstream states what a client wants to hear from the cloud, as a job:
// it may have to wait for a connection.
func (h *Hub) subscribeUpstream(s *session) {
	id := s.id()
	h.jobs.add("subscribe "+id.String(), func(context.Context) {
		if err := h.pool.Subscribe(id, s.upstreamWants()); err != nil {
			h.log.Debug("cloud subscriptions wait", "id", id.String(), "error", err)
		}
	})
}
