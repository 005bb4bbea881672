package amqp

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Bounds of direct methods.
const (
	maxMethods       = 256       // calls of one client that wait for an answer
	maxMethodPayload = 128 << 10 // bytes, each way
)

// Names of application properties of methods; the case is what clients look for.
const (
	keyMethodName   = "IoThub-methodname"
	keyMethodStatus = "IoThub-status"
)

// statusMissing is what the caller of a method sees when the client gives no status.
const statusMissing = 400000

type answerFunc = func(status int, payload json.RawMessage)

// methods are the direct-method calls that wait for the client's answer, by
// correlation id.
type methods struct {
	mu      sync.Mutex
	closed  bool
	pending map[guid]answerFunc
}

// add registers a call; false when there are too many or the client has ended.
func (m *methods) add(answer answerFunc) (id guid, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.pending) >= maxMethods {
		return guid{}, false
	}
	if m.pending == nil {
		m.pending = make(map[guid]answerFunc)
	}
	id = newGUID()
	m.pending[id] = answer
	return id, true
}

func (m *methods) take(id guid) answerFunc {
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := m.pending[id]
	delete(m.pending, id)
	return answer
}

func (m *methods) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.pending = true, nil
}

// InvokeMethod implements head.Client. A client that does not take methods, or has
// too many calls open, never answers. An empty payload goes out as null, because
// some SDKs parse it in any case.
func (c *client) InvokeMethod(name string, payload json.RawMessage, answer func(status int, payload json.RawMessage)) (cancel func()) {
	l := c.receiver(kindMethodReceive)
	if l == nil {
		return func() {}
	}
	id, ok := c.methods.add(answer)
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
	return func() { c.methods.take(id) }
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
	answer := c.methods.take(id)
	if answer == nil {
		return
	}
	status := statusMissing
	if v, ok := m.ApplicationProperties.Get(keyMethodStatus); ok {
		if n, ok := v.Int64(); ok {
			status = int(int32(n))
		}
	}
	switch {
	case len(payload) > maxMethodPayload:
		answer(http.StatusRequestEntityTooLarge, nil)
	case len(payload) == 0:
		answer(status, nil)
	case json.Valid(payload):
		answer(status, payload)
	default:
		text, err := json.Marshal(string(payload))
		if err != nil {
			text = nil // strings always marshal
		}
		answer(status, text)
	}
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
