package cloud

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// refreshMethod is the method by which edgeHub hears of changes in its scope.
const refreshMethod = "RefreshDeviceScopeIdentityCache"

// Bounds of what waits to be told. What does not fit is dropped: an edge hub also
// looks for itself now and then.
const (
	maxRefreshEdges = 1000
	maxRefreshIDs   = 1000
	refreshWorkers  = 8
	refreshTimeout  = 30 * time.Second
)

// refresher collects the identities that edge devices should look at again.
type refresher struct {
	signal chan struct{}

	mu      sync.Mutex
	pending map[string]map[iothub.Identity]struct{}
}

func newRefresher() *refresher {
	return &refresher{signal: make(chan struct{}, 1), pending: map[string]map[iothub.Identity]struct{}{}}
}

func (r *refresher) add(edge string, id iothub.Identity) {
	r.mu.Lock()
	ids := r.pending[edge]
	if ids == nil && len(r.pending) < maxRefreshEdges {
		ids = map[iothub.Identity]struct{}{}
		r.pending[edge] = ids
	}
	if ids != nil && len(ids) < maxRefreshIDs {
		ids[id] = struct{}{}
	}
	r.mu.Unlock()
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

func (r *refresher) take() map[string]map[iothub.Identity]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	r.pending = map[string]map[iothub.Identity]struct{}{}
	return p
}

// refreshScopes tells connected edge hubs, until ctx ends. Failures are their
// loss, as in IoT Hub.
func (h *Hub) refreshScopes(ctx context.Context) error {
	for {
		select {
		case <-h.refresh.signal:
		case <-ctx.Done():
			return nil
		}
		var g errgroup.Group
		g.SetLimit(refreshWorkers)
		for edge, ids := range h.refresh.take() {
			g.Go(func() error {
				h.refreshScope(ctx, edge, ids)
				return nil
			})
		}
		_ = g.Wait()
	}
}

func (h *Hub) refreshScope(ctx context.Context, edge string, ids map[iothub.Identity]struct{}) {
	names := make([]string, 0, len(ids))
	for id := range maps.Keys(ids) {
		names = append(names, id.String())
	}
	slices.Sort(names)
	payload, err := json.Marshal(map[string]any{"deviceIds": names})
	if err != nil {
		h.log.Error("encode scope refresh", "error", err)
		return
	}
	_, err = h.Invoke(ctx, iothub.ModuleIdentity(edge, iothub.HubModule),
		MethodCall{Name: refreshMethod, Payload: payload, ResponseTimeout: refreshTimeout})
	if err != nil {
		h.log.Debug("edge hub not told of changes in its scope", "device", edge, "error", err)
	}
}
