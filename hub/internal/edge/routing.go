package edge

import (
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// routing is what follows from one configuration. It is immutable.
type routing struct {
	table        *route.Table
	ttl          time.Duration // where a route has none; negative: never expires
	destinations map[string]destination
	inputs       map[iothub.Identity][]string // endpoints by module
	cloud        []string                     // endpoints
}

// destination names an endpoint as the metrics do.
type destination struct{ to, input string }

// newRouting compiles a configuration; nil is one without routes.
func (h *Hub) newRouting(cfg *route.Config) *routing {
	r := &routing{
		table: route.NewTable(cfg, h.o.Device), ttl: -1,
		destinations: make(map[string]destination),
		inputs:       make(map[iothub.Identity][]string),
	}
	if cfg != nil {
		r.ttl = cfg.TTL
	}
	for _, e := range r.table.Endpoints() {
		if e.Sink.Upstream {
			r.destinations[e.ID] = destination{to: metrics.Upstream}
			r.cloud = append(r.cloud, e.ID)
			continue
		}
		module := iothub.ModuleIdentity(h.o.Device, e.Sink.Module)
		r.destinations[e.ID] = destination{to: module.String(), input: e.Sink.Input}
		r.inputs[module] = append(r.inputs[module], e.ID)
	}
	return r
}

// sinks are the sinks of a table's endpoints. Those of input endpoints that stay
// are kept, because they remember what is under way. The caller holds configMu.
func (h *Hub) sinks(t *route.Table) map[string]dispatch.Sink {
	sinks := make(map[string]dispatch.Sink)
	inputs := make(map[string]*inputSink)
	for _, e := range t.Endpoints() {
		if e.Sink.Upstream {
			sinks[e.ID] = cloudSink{h}
			continue
		}
		k := h.inputs[e.ID]
		if k == nil {
			k = &inputSink{hub: h, endpoint: e.ID, module: iothub.ModuleIdentity(h.o.Device, e.Sink.Module),
				input: e.Sink.Input, lanes: make(map[uint32]inputLane)}
		}
		inputs[e.ID], sinks[e.ID] = k, k
	}
	h.inputs = inputs
	return sinks
}

// wakeInputs tells the pumps that a module listens.
func (h *Hub) wakeInputs(module iothub.Identity) {
	for _, id := range h.routing.Load().inputs[module] {
		h.engine.Wake(id)
	}
}

// wakeUpstream tells the pumps that there is a cloud.
func (h *Hub) wakeUpstream() {
	for _, id := range h.routing.Load().cloud {
		h.engine.Wake(id)
	}
}

// expired counts what the queue has dropped because it was too old.
func (h *Hub) expired(m *iothub.Message) {
	h.metrics.Dropped("ttl_expiry", m.Sender().String(), m.System.Get(iothub.OutputName))
}

// hooks count what the engine does.
func (h *Hub) hooks() dispatch.Hooks {
	return dispatch.Hooks{
		Sent: func(m *iothub.Message, info dispatch.Info, took time.Duration) {
			d, ok := h.routing.Load().destinations[info.Endpoint]
			if !ok { // removed meanwhile
				d.to = info.Endpoint
			}
			h.metrics.Sent(m.Sender().String(), d.to, m.System.Get(iothub.OutputName), d.input, info.Priority, took, time.Since(info.Enqueued))
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
