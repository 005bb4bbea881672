package containerd

import (
	"context"
	"sync"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// hub hands events to subscribers. One that does not keep up loses its
// subscription, not single events.
type hub struct {
	mu     sync.Mutex
	closed bool
	subs   map[chan runtime.Event]func() bool // stops the wait for its context
}

func newHub() *hub { return &hub{subs: make(map[chan runtime.Event]func() bool)} }

func (h *hub) subscribe(ctx context.Context) <-chan runtime.Event {
	ch := make(chan runtime.Event, runtime.EventBacklog)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || ctx.Err() != nil {
		close(ch)
		return ch
	}
	h.subs[ch] = context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.dropLocked(ch)
	})
	return ch
}

func (h *hub) dropLocked(ch chan runtime.Event) {
	if stop, ok := h.subs[ch]; ok {
		stop()
		delete(h.subs, ch)
		close(ch)
	}
}

func (h *hub) publish(e runtime.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs {
		select {
		case ch <- e:
		default:
			h.dropLocked(ch)
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.subs {
		h.dropLocked(ch)
	}
}

// Events implements runtime.Observer.
func (r *Runtime) Events(ctx context.Context) <-chan runtime.Event { return r.events.subscribe(ctx) }
