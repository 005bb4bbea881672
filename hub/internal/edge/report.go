package edge

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// reporter writes the hub's own reported properties (spec edgehub-core 18). Changes
// are collected for a moment and then become one patch.
type reporter struct {
	hub  *Hub
	wake chan struct{}

	mu      sync.Mutex
	changes map[string]any
	clients map[string]any
}

// reportDelay is how long changes are collected.
const reportDelay = time.Second

// reportRetry is the pause after a report that could not be stored.
const reportRetry = 30 * time.Second

func newReporter(h *Hub) *reporter {
	return &reporter{hub: h, wake: make(chan struct{}, 1), changes: make(map[string]any), clients: make(map[string]any)}
}

// clientKey is an identity as a member name, in which a twin allows less. The "#"
// is our addition: the original cannot report a device that has one.
var clientKey = strings.NewReplacer(".", "%2E", "$", "%24", " ", "%20", "#", "%23")

// maxDescription keeps a list of faults within what a twin takes as a string.
const maxDescription = 4000

func (r *reporter) connected(id iothub.Identity) {
	r.client(id, map[string]any{"status": "Connected", "lastConnectedTimeUtc": utcNow()})
}

// disconnected keeps the entry of a module and removes that of a leaf device.
func (r *reporter) disconnected(id iothub.Identity) {
	if id.Device != r.hub.o.Device {
		r.client(id, nil)
		return
	}
	r.client(id, map[string]any{"status": "Disconnected", "lastDisconnectedTimeUtc": utcNow()})
}

func (r *reporter) client(id iothub.Identity, state any) {
	r.mu.Lock()
	key := clientKey.Replace(id.String())
	if earlier, ok := r.clients[key].(map[string]any); ok && state != nil {
		maps.Copy(earlier, state.(map[string]any))
	} else {
		r.clients[key] = state
	}
	r.mu.Unlock()
	r.poke()
}

// status reports how a configuration was taken.
func (r *reporter) status(version int64, code int, description string) {
	if len(description) > maxDescription {
		description = strings.ToValidUTF8(description[:maxDescription], "")
	}
	r.mu.Lock()
	r.changes["lastDesiredVersion"] = version
	r.changes["lastDesiredStatus"] = map[string]any{"code": code, "description": description}
	r.mu.Unlock()
	r.poke()
}

func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run writes the first report and then what changes, until ctx ends.
func (r *reporter) run(ctx context.Context) error {
	r.begin()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reportDelay):
		}
		patch := r.take()
		if len(patch) == 0 {
			continue
		}
		if err := r.write(ctx, patch); err != nil && ctx.Err() == nil {
			r.hub.log.Warn("own state not reported yet", "error", err)
			if !r.putBack(ctx, patch) {
				return nil
			}
		}
	}
}

// begin reports the constant part, and takes back what an earlier life said of
// clients.
func (r *reporter) begin() {
	stored := r.storedClients() // reads from disk: not under the lock
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes["schemaVersion"] = "1.0"
	r.changes["version"] = map[string]any{"version": r.hub.o.Version}
	for _, key := range stored {
		if _, ok := r.clients[key]; !ok {
			r.clients[key] = nil
		}
	}
	r.poke()
}

func (r *reporter) storedClients() []string {
	var reported struct {
		Clients map[string]json.RawMessage `json:"clients"`
	}
	raw := r.hub.twins.Stored(r.hub.self()).Reported
	if err := json.Unmarshal(raw, &reported); err != nil {
		return nil // nothing stored that could be taken back
	}
	keys := make([]string, 0, len(reported.Clients))
	for k := range reported.Clients {
		keys = append(keys, k)
	}
	return keys
}

func (r *reporter) take() map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	patch := r.changes
	if len(r.clients) > 0 {
		patch["clients"] = r.clients
	}
	r.changes, r.clients = make(map[string]any), make(map[string]any)
	return patch
}

// putBack keeps a patch that could not be written for another try after a while. It
// returns false when ctx has ended first.
func (r *reporter) putBack(ctx context.Context, patch map[string]any) bool {
	r.mu.Lock()
	clients, _ := patch["clients"].(map[string]any)
	delete(patch, "clients")
	maps.Copy(patch, r.changes) // what is newer stays
	r.changes = patch
	if clients != nil {
		maps.Copy(clients, r.clients)
		r.clients = clients
	}
	r.mu.Unlock()
	r.poke()
	select {
	case <-ctx.Done():
		return false
	case <-time.After(reportRetry):
		return true
	}
}

func (r *reporter) write(ctx context.Context, patch map[string]any) error {
	raw, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return r.hub.twins.PatchReported(ctx, r.hub.self(), raw)
}

func utcNow() string { return time.Now().UTC().Format(time.RFC3339Nano) }
