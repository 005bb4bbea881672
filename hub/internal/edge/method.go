package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// settleIn is how long a client that was waited for may get ready before it gets
// the call (spec edgehub-core 10.1).
const settleIn = 3 * time.Second

// Authenticate checks the credentials of a request that makes no session.
func (h *Hub) Authenticate(ctx context.Context, l head.Login) error {
	return h.auth.Authenticate(ctx, l)
}

// Device is the id of the edge device.
func (h *Hub) Device() string { return h.o.Device }

// Invoke calls a direct method of a client of this hub for another one. It waits so
// long for the target to be ready, and then so long for the answer. Errors wrap
// head.ErrNotConnected, head.ErrNoAnswer or that of ctx.
func (h *Hub) Invoke(ctx context.Context, caller, target iothub.Identity, r iothub.MethodRequest, connect, response time.Duration) (iothub.MethodResponse, error) {
	return h.invoke(ctx, caller.String(), target, r, connect, response)
}

func (h *Hub) invoke(ctx context.Context, from string, target iothub.Identity, r iothub.MethodRequest, connect, response time.Duration) (iothub.MethodResponse, error) {
	s, err := h.awaitMethods(ctx, target, connect)
	if err != nil {
		return iothub.MethodResponse{}, err
	}
	h.metrics.Method(from, target.String())
	start := time.Now()
	answer := make(chan iothub.MethodResponse, 1)
	cancel := s.client.InvokeMethod(r.Name, r.Payload, func(status int, payload json.RawMessage) {
		answer <- iothub.MethodResponse{Status: status, Payload: payload}
	})
	defer cancel()
	limit := time.NewTimer(response)
	defer limit.Stop()
	select {
	case a := <-answer:
		h.metrics.MethodAnswered(from, target.String(), time.Since(start))
		return a, nil
	case <-s.gone:
		return iothub.MethodResponse{}, fmt.Errorf("%w: %s has gone without an answer", head.ErrNotConnected, target)
	case <-limit.C:
		return iothub.MethodResponse{}, fmt.Errorf("%w: %s, within %s", head.ErrNoAnswer, target, response)
	case <-ctx.Done():
		return iothub.MethodResponse{}, fmt.Errorf("method of %s: %w", target, ctx.Err())
	}
}

// awaitMethods returns the session of a client that takes methods.
func (h *Hub) awaitMethods(ctx context.Context, target iothub.Identity, limit time.Duration) (*session, error) {
	if s := h.session(target); s != nil && s.wants(head.Methods) {
		return s, nil
	}
	absent := fmt.Errorf("%w: %s", head.ErrNotConnected, target)
	if limit <= 0 {
		return nil, absent
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		ready := h.methodsReady()
		s := h.session(target)
		if s != nil && s.wants(head.Methods) {
			pause := time.NewTimer(settleIn)
			select {
			case <-pause.C:
				return s, nil
			case <-s.gone: // it may come back
			case <-ctx.Done():
				pause.Stop()
				return nil, fmt.Errorf("method of %s: %w", target, ctx.Err())
			}
			pause.Stop()
			continue
		}
		select {
		case <-ready:
		case <-timer.C:
			return nil, absent
		case <-ctx.Done():
			return nil, fmt.Errorf("method of %s: %w", target, ctx.Err())
		}
	}
}

// methodsReady is closed when the next client begins to take methods.
func (h *Hub) methodsReady() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

func (h *Hub) announceMethods() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.ready)
	h.ready = make(chan struct{})
}
