package mqtt

import (
	"encoding/json"
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/internal/head/call"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// methods are the direct-method calls that wait for the client's answer, by request
// id.
type methods struct {
	call.Pending[string]
	last uint64 // under the lock of Pending
}

func (m *methods) key() string {
	m.last++
	return strconv.FormatUint(m.last, 16)
}

// InvokeMethod implements head.Client. A client that does not take methods, or
// has too many calls open, never answers. An empty payload goes out as null,
// because some SDKs parse it in any case.
func (c *client) InvokeMethod(name string, payload json.RawMessage, answer func(status int, payload json.RawMessage)) (cancel func()) {
	rid, ok := c.methods.Add(c.methods.key, answer)
	if !ok {
		return func() {}
	}
	if len(payload) == 0 {
		payload = json.RawMessage("null")
	}
	cancel = func() { c.methods.Take(rid) }
	if !c.control(topic.Topic{Kind: topic.MethodRequest, Name: name, RequestID: rid}, payload) {
		cancel()
	}
	return cancel
}
