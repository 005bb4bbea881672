// Package call keeps the direct-method calls of a client that wait for its answer.
package call

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Max is how many calls of one client may wait.
const Max = 256

// Answer takes a client's answer, as head.Client.InvokeMethod describes it.
type Answer = func(status int, payload json.RawMessage)

// Pending are the calls that wait, by a key of the protocol. The zero value is
// ready. Its methods may be called concurrently.
type Pending[K comparable] struct {
	mu     sync.Mutex
	closed bool
	calls  map[K]Answer
}

// Add registers a call under a new key; false when there are too many or the client
// has ended, and then key is not called.
func (p *Pending[K]) Add(key func() K, answer Answer) (k K, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.calls) >= Max {
		return k, false
	}
	if p.calls == nil {
		p.calls = make(map[K]Answer)
	}
	k = key()
	p.calls[k] = answer
	return k, true
}

// Take removes a call; nil if nobody waits for it any more.
func (p *Pending[K]) Take(k K) Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := p.calls[k]
	delete(p.calls, k)
	return answer
}

// Complete answers a call, if somebody still waits for it. A payload that is no JSON
// is handed on as a JSON string, one over
// iothub.MaxMethodPayload as status 413 without payload.
func (p *Pending[K]) Complete(k K, status int, payload []byte) {
	answer := p.Take(k)
	if answer == nil {
		return
	}
	switch {
	case len(payload) > iothub.MaxMethodPayload:
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

// Close forgets all calls and takes no more.
func (p *Pending[K]) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.calls = true, nil
}
