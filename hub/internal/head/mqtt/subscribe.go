package mqtt

import (
	"fmt"
	"slices"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// maxFilter is how long a filter may be. All that mean something are shorter, and those
// that are granted are kept on disk.
const maxFilter = 2 << 10

// subackFailure is the return code of a filter that is not granted.
const subackFailure = 0x80

// subscriptions are the granted filters of one client. The reader changes them,
// everyone asks.
type subscriptions struct {
	limit int

	mu   sync.RWMutex
	list []granted
}

type granted struct {
	Subscription
	kind topic.FilterKind
}

func newSubscriptions(limit int) *subscriptions { return &subscriptions{limit: limit} }

// restore sets the filters of a stored session.
func (s *subscriptions) restore(subs []Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range subs {
		kind, _ := topic.ParseFilter(sub.Filter)
		s.list = append(s.list, granted{sub, kind})
	}
}

// add grants a filter, or changes its QoS; false if there are too many.
func (s *subscriptions) add(sub Subscription, kind topic.FilterKind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i].Filter == sub.Filter {
			s.list[i].QoS = sub.QoS
			return true
		}
	}
	if len(s.list) >= s.limit {
		return false
	}
	s.list = append(s.list, granted{sub, kind})
	return true
}

// remove tells whether the filter was there.
func (s *subscriptions) remove(filter string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(g granted) bool { return g.Filter == filter })
	return len(s.list) < n
}

// qos is the highest QoS of the filters that match a topic; false if none does.
// Filters of no documented form do not count.
func (s *subscriptions) qos(name string) (qos byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.list {
		g := &s.list[i]
		if g.kind != topic.FilterUnknown && topic.Match(g.Filter, name) {
			qos, ok = max(qos, g.QoS), true
		}
	}
	return qos, ok
}

func (s *subscriptions) snapshot() []Subscription {
	s.mu.RLock()
	defer s.mu.RUnlock()
	subs := make([]Subscription, len(s.list))
	for i := range s.list {
		subs[i] = s.list[i].Subscription
	}
	return subs
}

// features lists what the filters ask for, each feature once.
func (s *subscriptions) features() []head.Feature {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []head.Feature
	for i := range s.list {
		if f, ok := featureOf(s.list[i].kind); ok && !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	return list
}

func featureOf(kind topic.FilterKind) (head.Feature, bool) {
	switch kind {
	case topic.FilterC2D:
		return head.C2D, true
	case topic.FilterInputs:
		return head.Inputs, true
	case topic.FilterMethods:
		return head.Methods, true
	case topic.FilterTwinResponses:
		return head.TwinResponses, true
	case topic.FilterDesiredChanges:
		return head.DesiredChanges, true
	}
	return 0, false
}

// subscribe grants what it can and leaves the codes for the SUBACK and the new
// features for the Backend, who hears of them after the SUBACK.
func (c *client) subscribe(filters packets.Subscriptions) {
	before := c.subs.features()
	c.suback = make([]byte, len(filters))
	for i, f := range filters {
		c.suback[i] = c.grant(f.Filter, min(f.Qos, 1))
	}
	if !c.save() {
		return
	}
	for _, f := range c.subs.features() {
		if !slices.Contains(before, f) {
			c.fresh = append(c.fresh, f)
		}
	}
}

func (c *client) grant(filter string, qos byte) byte {
	kind, id := topic.ParseFilter(filter)
	switch {
	case len(filter) > maxFilter,
		!mochi.IsValidFilter(filter, false),
		id != (iothub.Identity{}) && id != c.id,
		kind == topic.FilterUnknown && c.srv.opts.Flavor == Cloud,
		!c.subs.add(Subscription{Filter: filter, QoS: qos}, kind):
		c.complain("mqtt filter refused", "filter", head.Clip(filter))
		return subackFailure
	}
	return qos
}

// unsubscribe removes filters; the Backend hears of it before the UNSUBACK.
func (c *client) unsubscribe(filters packets.Subscriptions) {
	before := c.subs.features()
	changed := false
	for _, f := range filters {
		changed = c.subs.remove(f.Filter) || changed
	}
	if !changed || !c.save() {
		return
	}
	after := c.subs.features()
	for _, f := range before {
		if !slices.Contains(after, f) {
			c.session.Unsubscribe(f)
		}
	}
}

// save keeps the filters of a session that is not clean. When it cannot, the
// connection ends, because the client must not believe them kept.
func (c *client) save() bool {
	if c.clean || c.ctx.Err() != nil {
		return true
	}
	if err := c.srv.opts.Sessions.Save(c.ctx, c.id, c.subs.snapshot()); err != nil {
		c.stop(fmt.Errorf("session store: %w", err))
		return false
	}
	return true
}
