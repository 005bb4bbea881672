package mqtt

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// Bounds of direct methods.
const (
	maxMethods       = 256       // calls of one client that wait for an answer
	maxMethodPayload = 128 << 10 // bytes, each way
)

type answerFunc = func(status int, payload json.RawMessage)

// methods are the direct-method calls that wait for the client's answer.
type methods struct {
	mu      sync.Mutex
	closed  bool
	last    uint64
	pending map[string]answerFunc
}

// add registers a call under a new request id; false when there are too many or
// the connection has ended.
func (m *methods) add(answer answerFunc) (rid string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.pending) >= maxMethods {
		return "", false
	}
	if m.pending == nil {
		m.pending = make(map[string]answerFunc)
	}
	m.last++
	rid = strconv.FormatUint(m.last, 16)
	m.pending[rid] = answer
	return rid, true
}

func (m *methods) take(rid string) answerFunc {
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := m.pending[rid]
	delete(m.pending, rid)
	return answer
}

func (m *methods) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.pending = true, nil
}

// answer completes a call; one that nobody waits for any more is ignored. A
// payload that is no JSON is handed on as a JSON string, one over the limit as
// status 413 without payload.
func (m *methods) answer(rid string, status int, payload []byte) {
	answer := m.take(rid)
	if answer == nil {
		return
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

// InvokeMethod implements head.Client. A client that does not take methods, or
// has too many calls open, never answers. An empty payload goes out as null,
// because some SDKs parse it in any case.
func (c *client) InvokeMethod(name string, payload json.RawMessage, answer func(status int, payload json.RawMessage)) (cancel func()) {
	rid, ok := c.methods.add(answer)
	if !ok {
		return func() {}
	}
	if len(payload) == 0 {
		payload = json.RawMessage("null")
	}
	cancel = func() { c.methods.take(rid) }
	if !c.control(topic.Topic{Kind: topic.MethodRequest, Name: name, RequestID: rid}, payload) {
		cancel()
	}
	return cancel
}
