package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Errors of Invoke.
var (
	// ErrNotOnline: the target did not connect, or does not take methods, within
	// the connect timeout.
	ErrNotOnline = errors.New("timed out waiting for device to connect")
	// ErrNoAnswer: it did not answer within the response timeout.
	ErrNoAnswer = errors.New("timed out waiting for the response from device")
	// ErrConnectionLost: its connection ended while it had the request.
	ErrConnectionLost = errors.New("device connection was closed")
	// ErrPayloadTooLarge: request or answer are over MaxMethodPayload.
	ErrPayloadTooLarge = errors.New("method payload too large")
)

// MaxMethodPayload bounds request and answer of a direct method.
const MaxMethodPayload = 128 << 10

// MethodCall is a direct method to be called.
type MethodCall struct {
	Name            string
	Payload         json.RawMessage
	ConnectTimeout  time.Duration
	ResponseTimeout time.Duration
}

// MethodAnswer is what the target answered. Payload may be empty or no JSON.
type MethodAnswer struct {
	Status  int
	Payload []byte
}

// call is one request on its way.
type call struct {
	once   sync.Once
	result chan callResult // room for one
}

type callResult struct {
	answer MethodAnswer
	lost   bool
}

func (c *call) finish(r callResult) { c.once.Do(func() { c.result <- r }) }
func (c *call) lose()               { c.finish(callResult{lost: true}) }

// Invoke calls a direct method of a device or module that is registered and waits
// for the answer. Errors: those above, or that of ctx.
func (h *Hub) Invoke(ctx context.Context, id iothub.Identity, m MethodCall) (MethodAnswer, error) {
	if len(m.Payload) > MaxMethodPayload {
		return MethodAnswer{}, ErrPayloadTooLarge
	}
	s, err := h.waitMethods(ctx, id, m.ConnectTimeout)
	if err != nil {
		return MethodAnswer{}, err
	}
	c := &call{result: make(chan callResult, 1)}
	cancel, ok := s.start(c, m)
	if !ok {
		return MethodAnswer{}, ErrConnectionLost
	}
	defer s.stop(c, cancel)
	h.presence.touch(id)
	timer := time.NewTimer(m.ResponseTimeout)
	defer timer.Stop()
	select {
	case r := <-c.result:
		switch {
		case r.lost:
			return MethodAnswer{}, ErrConnectionLost
		case len(r.answer.Payload) > MaxMethodPayload:
			return MethodAnswer{}, fmt.Errorf("answer: %w", ErrPayloadTooLarge)
		}
		return r.answer, nil
	case <-timer.C:
		return MethodAnswer{}, ErrNoAnswer
	case <-ctx.Done():
		return MethodAnswer{}, ctx.Err()
	}
}

// waitMethods returns the session of id once it takes methods.
func (h *Hub) waitMethods(ctx context.Context, id iothub.Identity, limit time.Duration) (*session, error) {
	var expired <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		expired = timer.C
	}
	for {
		h.mu.Lock()
		s, changed := h.sessions[id], h.changed
		h.mu.Unlock()
		if s != nil && s.has(head.Methods) {
			return s, nil
		}
		if expired == nil {
			return nil, ErrNotOnline
		}
		select {
		case <-changed:
		case <-expired:
			return nil, ErrNotOnline
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// start hands the request to the client; false if the session has ended.
func (s *session) start(c *call, m MethodCall) (cancel func(), ok bool) {
	s.h.mu.Lock()
	s.calls[c] = struct{}{}
	s.h.mu.Unlock()
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		s.h.mu.Lock()
		delete(s.calls, c)
		s.h.mu.Unlock()
		return nil, false
	}
	return s.client.InvokeMethod(m.Name, m.Payload, func(status int, payload json.RawMessage) {
		c.finish(callResult{answer: MethodAnswer{Status: status, Payload: payload}})
	}), true
}

// stop ends the wait for a call.
func (s *session) stop(c *call, cancel func()) {
	s.h.mu.Lock()
	delete(s.calls, c)
	s.h.mu.Unlock()
	s.life.RLock()
	defer s.life.RUnlock()
	if !s.closed {
		cancel()
	}
}
