package edge

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Registry is the cloud's registry, or that of the gateway above: a rest.Client.
type Registry interface {
	OnBehalf(ctx context.Context, actor string, call rest.ModuleCall, o rest.OnBehalfOf) (rest.Answer, error)
}

// below checks that an edge device may act for a target and returns the auth chain
// of the target. Errors wrap head.ErrUnauthorized.
func (h *Hub) below(target iothub.Identity, actor string) (string, error) {
	chain, err := h.auth.Below(target, actor)
	if err != nil {
		return "", fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	return chain, nil
}

// Members lists, for the hub of an edge device below this one, the target: an edge
// device that is it or stands below it, with its modules, those that are directly
// below, and their modules if they are no edge devices. It answers from what is
// known here. Errors wrap head.ErrUnauthorized.
func (h *Hub) Members(actor, target string) (rest.ScopeResult, error) {
	if _, err := h.below(iothub.DeviceIdentity(target), actor); err != nil {
		return rest.ScopeResult{}, err
	}
	return scopeResult(h.scope.Members(target)), nil
}

// Member gives the hub of an edge device below this one a single identity: a device,
// or a module and its device. It asks the cloud first, if that is due: who asks does
// so because it knows nothing, or because what it knows did not hold. Errors wrap
// head.ErrUnauthorized or head.ErrNotFound.
func (h *Hub) Member(ctx context.Context, actor string, target iothub.Identity) (rest.ScopeResult, error) {
	chain, ok := h.scope.Chain(iothub.DeviceIdentity(actor), h.o.Device)
	if !ok {
		return rest.ScopeResult{}, fmt.Errorf("%w: %s is not below this gateway", head.ErrUnauthorized, actor)
	}
	wanted := []iothub.Identity{target.Parent()}
	if target.IsModule() {
		wanted = append(wanted, target)
	}
	for _, id := range wanted {
		if _, err := h.scope.RefreshBelow(ctx, id, chain); err != nil {
			h.log.Debug("identity not refreshed", "id", id.String(), "error", err)
		}
	}
	var list []scope.Entry
	for _, id := range wanted {
		e, ok := h.scope.Lookup(id)
		if !ok {
			return rest.ScopeResult{}, fmt.Errorf("%w: %s", head.ErrNotFound, id)
		}
		list = append(list, e)
	}
	// One that is disabled has no chain, but is told: its parent must drop it.
	if list[len(list)-1].Enabled && list[0].Enabled {
		if _, err := h.below(target, actor); err != nil {
			return rest.ScopeResult{}, err
		}
	} else if !h.scope.ChildOf(target.Parent(), actor) {
		return rest.ScopeResult{}, fmt.Errorf("%w: %s is not directly below %s", head.ErrUnauthorized, target, actor)
	}
	return scopeResult(list), nil
}

// Modules makes a registry call about the modules of an edge device below this one:
// for the hub of actor, or, if actor is the device, for the device itself. o.AuthChain
// is filled in here. Errors wrap head.ErrUnauthorized, or are those of Registry.
func (h *Hub) Modules(ctx context.Context, actor, device string, call rest.ModuleCall, o rest.OnBehalfOf) (rest.Answer, error) {
	id := iothub.DeviceIdentity(device)
	chain, err := h.below(id, actor)
	if err != nil {
		return rest.Answer{}, err
	}
	if e, _ := h.scope.Lookup(id); !e.Edge {
		return rest.Answer{}, fmt.Errorf("%w: %s is no edge device", head.ErrUnauthorized, device)
	}
	o.AuthChain = chain
	answer, err := h.o.Registry.OnBehalf(ctx, h.o.Device, call, o)
	if err != nil {
		return answer, fmt.Errorf("modules of %s: %w", device, err)
	}
	if call == rest.PutModule || call == rest.DeleteModule {
		h.moduleChanged(ctx, device, o, chain)
	}
	return answer, nil
}

// moduleChanged learns of a module that was changed by way of this hub, so that it
// can log in at once.
func (h *Hub) moduleChanged(ctx context.Context, device string, o rest.OnBehalfOf, chain string) {
	name := o.Module
	if name == "" {
		var doc struct {
			ModuleID string `json:"moduleId"`
		}
		if err := json.Unmarshal(o.Document, &doc); err != nil {
			return // the registry would not have taken it
		}
		name = doc.ModuleID
	}
	module := iothub.ModuleIdentity(device, name)
	if err := h.scope.Fetch(ctx, module, chain); err != nil {
		h.log.Warn("changed module not refreshed", "id", module.String(), "error", err)
	}
}

// scopeResult is the other direction of toEntries.
func scopeResult(list []scope.Entry) rest.ScopeResult {
	r := rest.ScopeResult{Devices: []rest.Device{}, Modules: []rest.Module{}}
	for _, e := range list {
		if e.ID.IsModule() {
			r.Modules = append(r.Modules, rest.Module{
				DeviceID: e.ID.Device, ModuleID: e.ID.Module, GenerationID: e.GenerationID, Authentication: authentication(e),
			})
			continue
		}
		d := rest.Device{
			DeviceID: e.ID.Device, GenerationID: e.GenerationID, Status: rest.Enabled, Authentication: authentication(e),
			Capabilities: &rest.Capabilities{IoTEdge: e.Edge}, DeviceScope: e.DeviceScope, ParentScopes: e.ParentScopes,
		}
		if !e.Enabled {
			d.Status = rest.Disabled
		}
		r.Devices = append(r.Devices, d)
	}
	return r
}

func authentication(e scope.Entry) *rest.Authentication {
	a := &rest.Authentication{Type: string(e.Auth)}
	switch e.Auth {
	case scope.SAS:
		if len(e.Primary) > 0 {
			a.SymmetricKey.PrimaryKey = rest.Secret(e.Primary.Base64())
		}
		if len(e.Secondary) > 0 {
			a.SymmetricKey.SecondaryKey = rest.Secret(e.Secondary.Base64())
		}
	case scope.SelfSigned:
		for i, to := range []*rest.Text{&a.X509Thumbprint.PrimaryThumbprint, &a.X509Thumbprint.SecondaryThumbprint} {
			if i < len(e.Thumbprints) {
				*to = rest.Text(e.Thumbprints[i])
			}
		}
	case scope.CertificateAuthority, scope.None:
	}
	return a
}
