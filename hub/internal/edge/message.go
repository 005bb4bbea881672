package edge

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const twinChangeNotification = "twinChangeNotification"

// stamp sets what the hub knows of a message and the client must not say: who sent
// it, how it came here (spec edgehub-routing 6.1).
func (h *Hub) stamp(m *iothub.Message, sender iothub.Identity, modelID string) {
	m.System.Set(iothub.ConnectionDeviceID, sender.Device)
	if sender.IsModule() {
		m.System.Set(iothub.ConnectionModuleID, sender.Module)
	} else {
		m.System.Delete(iothub.ConnectionModuleID)
	}
	m.System.Set(iothub.EdgeMessageID, newID())
	origin := "downstream"
	if sender.Device == h.o.Device {
		origin = "internal"
	}
	m.System.Set(iothub.EdgeHubOrigin, origin)
	if modelID != "" {
		m.System.Set(iothub.ModelID, modelID)
	}
}

// hubOwned are what only a hub may say of a message. Heads drop what their protocol
// has a name for; none may ever come from a client.
var hubOwned = [...]string{
	iothub.ConnectionDeviceID, iothub.ConnectionModuleID, iothub.ConnectionDeviceGenerationID, iothub.ConnectionAuthMethod,
	iothub.EdgeMessageID, iothub.EdgeHubOrigin, iothub.ModelID,
	iothub.MessageType, iothub.ReportedByDeviceID, iothub.ReportedByModuleID,
}

func dropHubOwned(m *iothub.Message) {
	m.System = slices.DeleteFunc(m.System, func(p iothub.Property) bool {
		return slices.ContainsFunc(hubOwned[:], func(name string) bool { return strings.EqualFold(name, p.Name) })
	})
}

// twinChange makes the message that tells the routes of a reported-properties
// update (spec edgehub-routing 7).
func (h *Hub) twinChange(reporter iothub.Identity, patch json.RawMessage) *iothub.Message {
	m := &iothub.Message{Body: patch}
	m.System.Set(iothub.EnqueuedTime, time.Now().UTC().Format(time.RFC3339Nano))
	m.System.Set(iothub.MessageSchema, twinChangeNotification)
	m.System.Set(iothub.MessageType, twinChangeNotification)
	m.System.Set(iothub.ReportedByDeviceID, reporter.Device)
	if reporter.IsModule() {
		m.System.Set(iothub.ReportedByModuleID, reporter.Module)
	}
	h.stamp(m, h.self(), "")
	return m
}

// storer is queue.Append or queue.AppendLater.
type storer func(m *iothub.Message, targets []queue.Target, done func(error))

// accept routes a message and stores it for every endpoint that wants it. done is
// called in the order of accept, with nil when it is on disk.
func (h *Hub) accept(m *iothub.Message, store storer, done func(error)) {
	r := h.routing.Load()
	hits := r.table.Match(m, h.takeHits())
	targets := make([]queue.Target, 0, len(hits))
	for _, hit := range hits {
		ttl := hit.TTL
		if ttl == 0 {
			ttl = r.ttl
		}
		targets = append(targets, queue.Target{Endpoint: hit.Endpoint, Priority: hit.Priority, TTL: h.o.Limits.limit(ttl)})
	}
	h.giveHits(hits)
	sender, output := m.Sender().String(), m.System.Get(iothub.OutputName)
	if len(targets) == 0 {
		// Acknowledged all the same: no route is the operator's wish. In its turn.
		h.metrics.Dropped("no_route", sender, output)
		h.settleInOrder(nil, done)
		return
	}
	store(m, targets, func(err error) {
		if err != nil {
			h.metrics.Unacked(sender, output)
		}
		done(err)
	})
}

// takeHits and giveHits reuse the memory for the hits of one message.
func (h *Hub) takeHits() []route.Hit {
	if p, ok := h.hits.Get().(*[]route.Hit); ok {
		return (*p)[:0]
	}
	return nil
}

func (h *Hub) giveHits(hits []route.Hit) {
	clear(hits)
	h.hits.Put(&hits)
}

// newID returns a random UUID (version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails (crypto/rand)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	s[8] = '-'
	hex.Encode(s[9:13], b[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], b[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], b[8:10])
	s[23] = '-'
	hex.Encode(s[24:36], b[10:16])
	return string(s[:])
}
