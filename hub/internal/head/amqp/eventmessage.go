package amqp

import (
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Annotations that only readers of events see.
const (
	keyOffset         = "x-opt-offset"
	keyEnqueued       = "x-opt-enqueued-time"
	keyAuthMethod     = "iothub-connection-auth-method"
	keyAuthGeneration = "iothub-connection-auth-generation-id"
	keyMessageSource  = "iothub-message-source"
	keyModelID        = "dt-dataschema"
)

// encodeEvent translates an event for a reader (spec iothub-service 12.4).
func encodeEvent(e *head.Event) *wire.Message {
	m := e.Message
	w := wire.NewMessage(m.Body)
	to := m.System.Get(iothub.To)
	if to == "" {
		to = path(e.Sender) + "/messages/events"
	}
	w.Properties = encodeProperties(m, valid(to))
	at := wire.TimestampValue(wire.TimestampOf(e.Enqueued))
	w.Annotations = wire.Map{}.
		WithSymbol(keySequence, wire.Long(e.Sequence)).
		WithSymbol(keyOffset, wire.String(strconv.FormatInt(e.Offset, 10))).
		WithSymbol(keyEnqueued, at).
		WithSymbol(keyFromDevice, wire.String(e.Sender.Device))
	if e.Sender.IsModule() {
		w.Annotations = w.Annotations.WithSymbol(keyFromModule, wire.String(e.Sender.Module))
	}
	w.Annotations = w.Annotations.
		WithSymbol(keyAuthMethod, wire.String(e.AuthMethod)).
		WithSymbol(keyAuthGeneration, wire.String(e.Generation)).
		WithSymbol(keyEnqueuedTime, at).
		WithSymbol(keyMessageSource, wire.String(e.Source))
	if e.ModelID != "" {
		w.Annotations = w.Annotations.WithSymbol(keyModelID, wire.String(valid(e.ModelID)))
	}
	encodeNamed(w, m, toReader)
	encodeApplication(w, m, toReader)
	return w
}
