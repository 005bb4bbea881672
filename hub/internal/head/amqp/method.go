package amqp

import (
	"encoding/json"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/call"
)

// Names of application properties of methods; the case is what clients look for.
const (
	keyMethodName   = "IoThub-methodname"
	keyMethodStatus = "IoThub-status"
)

// statusMissing is what the caller of a method sees when the client gives no status.
const statusMissing = 400000

// methods are the direct-method calls that wait for the client's answer, by
// correlation id.
type methods struct{ call.Pending[guid] }

func (m *methods) close() { m.Close() }

// InvokeMethod implements head.Client. A client that does not take methods, or has
// too many calls open, never answers. An empty payload goes out as null, because
// some SDKs parse it in any case.
func (c *client) InvokeMethod(name string, payload json.RawMessage, answer func(status int, payload json.RawMessage)) (cancel func()) {
	l := c.receiver(kindMethodReceive)
	if l == nil {
		return func() {}
	}
	id, ok := c.methods.Add(newGUID, answer)
	if !ok {
		return func() {}
	}
	if len(payload) == 0 {
		payload = json.RawMessage("null")
	}
	m := wire.NewMessage(payload)
	m.Properties = &wire.Properties{To: path(c.id) + "/methods/devicebound", CorrelationID: wire.String(id.String())}
	m.ApplicationProperties = m.ApplicationProperties.With(keyMethodName, wire.String(name))
	c.control(l, m)
	return func() { c.methods.Take(id) }
}

// onMethodAnswer completes a call; an answer that nobody waits for is ignored. A
// payload that is no JSON is handed on as a JSON string, one over the limit as
// status 413 without payload.
func (c *client) onMethodAnswer(d *amqp.Delivery) {
	m, err := d.Message()
	if err != nil {
		d.Reject(wire.Errorf(wire.CondDecodeError, "malformed message"))
		return
	}
	payload, ok := m.Body()
	if !ok && !(m.Value.Set && m.Value.V.IsNull()) {
		d.Reject(errBody)
		return
	}
	d.Accept()
	id, ok := correlation(m)
	if !ok {
		return
	}
	status := statusMissing
	if v, ok := m.ApplicationProperties.Get(keyMethodStatus); ok {
		if n, ok := v.Int64(); ok {
			status = int(int32(n))
		}
	}
	c.methods.Complete(id, status, payload)
}

// correlation reads the correlation id of an answer, a uuid or its text.
func correlation(m *wire.Message) (guid, bool) {
	if m.Properties == nil {
		return guid{}, false
	}
	if u, ok := m.Properties.CorrelationID.UUID(); ok {
		return u, true
	}
	s, _ := m.Properties.CorrelationID.Text()
	return parseGUID(s)
}
