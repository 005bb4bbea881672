package api

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Page sizes of scope listings, in devices.
const (
	defaultPage = 100
	maxPage     = 1000
)

func pageSize(n int) int {
	if n <= 0 {
		return defaultPage
	}
	return min(n, maxPage)
}

// inScope refuses when the edge device of the path may not act for id. That id
// exists is checked first, because edge hubs tell the two cases apart.
func (a *API) inScope(r *request, id iothub.Identity) error {
	if _, err := a.hub.Registry().Chain(id); err != nil {
		return err
	}
	if err := a.hub.Access().InScope(id, r.id.Device); err != nil {
		a.log.Info("scope request not allowed", "actor", r.id.Device, "target", id, "error", err)
		return refuse(unauthorizedAccess, "the target is not in the scope of the caller")
	}
	return nil
}

// first returns the device that begins an auth chain; the rest is not trusted.
func first(authChain string) (string, error) {
	target, _, _ := strings.Cut(strings.TrimLeft(authChain, ";"), ";")
	id, err := iothub.ParseIdentity(target)
	if err != nil {
		return "", refuse(registry.ArgumentInvalid, "authChain does not begin with an id")
	}
	return id.Device, nil
}

// nestedScope lists an edge device, its direct children, and the modules of all that are
// no edge devices below it: those are asked for by themselves.
func (a *API) nestedScope(r *request) (answer, error) {
	var in rest.ScopePage
	if err := json.Unmarshal(r.body, &in); err != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "the body is not a scope request")
	}
	target, err := first(in.AuthChain)
	if err != nil {
		return answer{}, err
	}
	if err := a.inScope(r, iothub.DeviceIdentity(target)); err != nil {
		return answer{}, err
	}
	result, next, err := a.scopePage(target, string(in.ContinuationLink), pageSize(in.PageSize))
	result.ContinuationLink = rest.Text(next)
	return answer{doc: result}, err
}

// flatScope is the older form, with the same content.
func (a *API) flatScope(r *request) (answer, error) {
	q := r.URL.Query()
	size := 0
	if v := q.Get("deviceCount"); v != "" {
		var err error
		if size, err = strconv.Atoi(v); err != nil {
			return answer{}, refuse(registry.ArgumentInvalid, "deviceCount is not a number")
		}
	}
	result, next, err := a.scopePage(r.id.Device, q.Get("continuationToken"), pageSize(size))
	if next != "" {
		q.Set("continuationToken", next)
		link := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}
		result.ContinuationLink = rest.Text(link.String())
	}
	return answer{doc: result}, err
}

// scopePage returns the devices behind the one that the token names, and the
// token of the next page. The edge device itself comes first, then its children
// by id; children that come or go meanwhile do not shift the pages.
func (a *API) scopePage(edge, token string, size int) (rest.ScopeResult, string, error) {
	result := rest.ScopeResult{Devices: []rest.Device{}, Modules: []rest.Module{}}
	members, err := a.hub.Registry().ScopeMembers(edge)
	if err != nil {
		return result, "", err
	}
	if token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return result, "", refuse(registry.ArgumentInvalid, "the continuation is not one of this hub")
		}
		start := 1
		for start < len(members) && string(after) != edge && members[start].DeviceID <= string(after) {
			start++
		}
		members = members[start:]
	}
	next := ""
	if len(members) > size {
		members = members[:size]
		next = base64.RawURLEncoding.EncodeToString([]byte(members[size-1].DeviceID))
	}
	for _, d := range members {
		a.hub.FillDevice(&d)
		result.Devices = append(result.Devices, d)
		if d.DeviceID != edge && d.IsEdge() {
			continue
		}
		list, err := a.hub.Registry().Modules(d.DeviceID)
		if err != nil {
			continue // deleted meanwhile
		}
		for _, m := range list {
			a.hub.FillModule(&m)
			result.Modules = append(result.Modules, m)
		}
	}
	return result, next, nil
}

func (a *API) nestedTarget(r *request) (answer, error) {
	var in rest.ScopeTarget
	if err := json.Unmarshal(r.body, &in); err != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "the body is not a scope request")
	}
	return a.scopeTarget(r, iothub.Identity{Device: in.TargetDeviceID, Module: string(in.TargetModuleID)})
}

func (a *API) flatTarget(r *request) (answer, error) {
	q := r.URL.Query()
	return a.scopeTarget(r, iothub.Identity{Device: q.Get("targetDeviceId"), Module: q.Get("targetModuleId")})
}

// scopeTarget gives one device, and for a module the module and its device.
func (a *API) scopeTarget(r *request, id iothub.Identity) (answer, error) {
	if err := a.inScope(r, id); err != nil {
		return answer{}, err
	}
	d, err := a.hub.Registry().Device(id.Device)
	if err != nil {
		return answer{}, err
	}
	a.hub.FillDevice(&d)
	result := rest.ScopeResult{Devices: []rest.Device{d}, Modules: []rest.Module{}}
	if id.IsModule() {
		m, err := a.hub.Registry().Module(id)
		if err != nil {
			return answer{}, err
		}
		a.hub.FillModule(&m)
		result.Modules = append(result.Modules, m)
	}
	return answer{doc: result}, nil
}

// onBehalf reads the body of a registry call for a child and checks the child.
func (a *API) onBehalf(r *request) (target string, module json.RawMessage, name string, err error) {
	var in struct {
		AuthChain      string          `json:"authChain"`
		Module         json.RawMessage `json:"module"`
		TargetModuleID string          `json:"targetModuleId"`
		ModuleID       string          `json:"moduleId"`
	}
	if json.Unmarshal(r.body, &in) != nil {
		return "", nil, "", refuse(registry.ArgumentInvalid, "the body is not a request on behalf of a device")
	}
	if target, err = first(in.AuthChain); err != nil {
		return "", nil, "", err
	}
	if err := a.inScope(r, iothub.DeviceIdentity(target)); err != nil {
		return "", nil, "", err
	}
	d, err := a.hub.Registry().Device(target)
	if err != nil {
		return "", nil, "", err
	}
	if !d.IsEdge() {
		return "", nil, "", refuse(unauthorizedAccess, "the target is not an edge device")
	}
	name = in.TargetModuleID
	if name == "" {
		name = in.ModuleID
	}
	return target, in.Module, name, nil
}

func (a *API) putModuleOnBehalf(r *request) (answer, error) {
	target, module, _, err := a.onBehalf(r)
	if err != nil {
		return answer{}, err
	}
	var ids struct {
		ModuleID string `json:"moduleId"`
	}
	if json.Unmarshal(module, &ids) != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "module is missing")
	}
	return a.putModuleOf(r, iothub.ModuleIdentity(target, ids.ModuleID), module)
}

func (a *API) getModuleOnBehalf(r *request) (answer, error) {
	target, _, name, err := a.onBehalf(r)
	if err != nil {
		return answer{}, err
	}
	return a.module(a.hub.Registry().Module(iothub.ModuleIdentity(target, name)))
}

func (a *API) listModulesOnBehalf(r *request) (answer, error) {
	target, _, _, err := a.onBehalf(r)
	if err != nil {
		return answer{}, err
	}
	return a.modules(a.hub.Registry().Modules(target))
}

func (a *API) deleteModuleOnBehalf(r *request) (answer, error) {
	target, _, name, err := a.onBehalf(r)
	if err != nil {
		return answer{}, err
	}
	return answer{}, a.hub.Registry().DeleteModule(r.Context(), iothub.ModuleIdentity(target, name), r.match())
}
