package edge

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
)

// watchConnectivity tries the own cloud connection when it has been silent for long.
// The connection has heartbeats of its own, which tell that somebody is there; the
// try tells that the cloud behind does its work (spec edgehub-core 8).
func (h *Hub) watchConnectivity(ctx context.Context) error {
	if h.o.Connectivity < 0 {
		return nil
	}
	tick := time.NewTicker(max(h.o.Connectivity/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if h.online.Load() && time.Since(h.pool.Used(h.self())) >= h.o.Connectivity {
				h.own.add(connectivityJob, h.tryCloud)
			}
		}
	}
}

const connectivityJob = "connectivity"

// noChange is the patch that tries the connection.
var noChange = json.RawMessage(`{}`)

// tryCloud makes a call that changes nothing. When it is not answered the connection
// is taken for lost and made anew. A refusal is an answer too.
func (h *Hub) tryCloud(ctx context.Context) {
	if !h.online.Load() {
		return
	}
	call, cancel := context.WithTimeout(ctx, h.o.CallTimeout)
	defer cancel()
	err := h.pool.PatchReported(call, h.self(), noChange)
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		h.pool.Break(h.self(), upstream.ErrHanging)
	}
}

// timedOut notes that a call to the cloud was not answered: is the cloud there at
// all?
func (h *Hub) timedOut(ctx context.Context, err error) {
	if h.o.Connectivity >= 0 && errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		h.own.add(connectivityJob, h.tryCloud)
	}
}
