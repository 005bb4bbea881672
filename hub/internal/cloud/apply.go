package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ApplyRunning is the code of a manifest that comes while another is being applied.
const ApplyRunning registry.Code = "ApplyConfigurationAlreadyInProgressOnDevice"

// Apply puts a manifest on an edge device: it makes the module identities that are
// missing and replaces the desired properties of each module named, unless they
// are equal already. The agent's come last. Errors: *registry.Error,
// *twin.InvalidError, twin.ErrTooLarge; these write no twin.
// A deployment for many devices that is in force on the device takes it back.
func (h *Hub) Apply(ctx context.Context, device string, m deployment.Manifest) error {
	if _, running := h.applying.LoadOrStore(device, struct{}{}); running {
		return &registry.Error{Code: ApplyRunning, Text: "another manifest is being applied to the device"}
	}
	defer h.applying.Delete(device)
	defer h.deployments.changed()
	return h.apply(ctx, device, m)
}

// apply is Apply for deployments too, which wait for each other.
func (h *Hub) apply(ctx context.Context, device string, m deployment.Manifest) error {
	defer h.deployments.lock(device)()
	d, err := h.registry.Device(device)
	if err != nil {
		return err
	}
	if !d.IsEdge() {
		return &registry.Error{Code: registry.InvalidOperation, Text: "the device is not an edge device"}
	}
	names := m.Modules()
	if err := h.rehearse(device, m, names); err != nil {
		return err
	}
	if err := h.registry.EnsureModules(ctx, device, names); err != nil {
		return err
	}
	slices.SortStableFunc(names, func(a, b string) int { return agentLast(a) - agentLast(b) })
	for _, name := range names {
		_, err := h.updateDesired(ctx, iothub.ModuleIdentity(device, name), func(t *twin.Twin) (json.RawMessage, error) {
			return h.replaceDesired(t, m.Desired(name, t.Desired.Values))
		})
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

// replaceDesired is for updateDesired: it leaves a twin alone that has these values.
func (h *Hub) replaceDesired(t *twin.Twin, values map[string]any) (json.RawMessage, error) {
	if t.SameDesired(values) {
		return nil, twin.ErrUnchanged
	}
	return t.ReplaceDesired(values, h.o.Now())
}

func agentLast(name string) int {
	if name == iothub.AgentModule {
		return 1
	}
	return 0
}

// rehearse applies the manifest to copies, so that one bad module leaves all others
// as they were.
func (h *Hub) rehearse(device string, m deployment.Manifest, names []string) error {
	for _, name := range names {
		t, err := h.twins.Get(iothub.ModuleIdentity(device, name))
		if err != nil {
			t = twin.New()
		}
		_, err = h.replaceDesired(t, m.Desired(name, t.Desired.Values))
		if err == nil {
			err = t.Storable()
		}
		if err != nil && !errors.Is(err, twin.ErrUnchanged) {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}
