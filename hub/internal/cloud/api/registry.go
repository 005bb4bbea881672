package api

import (
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// maxList is the default and the most of a device list.
const maxList = 1000

func (r *request) match() registry.Match { return registry.ParseMatch(r.Header.Get("If-Match")) }

func (a *API) device(d rest.Device, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	a.hub.FillDevice(&d)
	return answer{doc: d, etag: d.Etag}, nil
}

func (a *API) module(m rest.Module, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	a.hub.FillModule(&m)
	return answer{doc: m, etag: m.Etag}, nil
}

func (a *API) modules(list []rest.Module, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	for i := range list {
		a.hub.FillModule(&list[i])
	}
	return answer{doc: list}, nil
}

func (a *API) listDevices(r *request) (answer, error) {
	top := maxList
	if v := r.URL.Query().Get("top"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return answer{}, refuse(registry.ArgumentInvalid, "top is not a positive number")
		}
		top = min(n, maxList)
	}
	list := a.hub.Registry().Devices(top)
	for i := range list {
		a.hub.FillDevice(&list[i])
	}
	return answer{doc: list}, nil
}

func (a *API) getDevice(r *request) (answer, error) {
	return a.device(a.hub.Registry().Device(r.id.Device))
}

func (a *API) putDevice(r *request) (answer, error) {
	c, err := registry.ParseDevice(r.id.Device, r.body)
	if err != nil {
		return answer{}, err
	}
	return a.device(a.hub.Registry().PutDevice(r.Context(), c, r.match()))
}

func (a *API) deleteDevice(r *request) (answer, error) {
	return answer{}, a.hub.Registry().DeleteDevice(r.Context(), r.id.Device, r.match())
}

func (a *API) listModules(r *request) (answer, error) {
	return a.modules(a.hub.Registry().Modules(r.id.Device))
}

func (a *API) getModule(r *request) (answer, error) {
	return a.module(a.hub.Registry().Module(r.id))
}

func (a *API) putModule(r *request) (answer, error) { return a.putModuleOf(r, r.id, r.body) }

func (a *API) putModuleOf(r *request, id iothub.Identity, body []byte) (answer, error) {
	c, err := registry.ParseModule(id, body)
	if err != nil {
		return answer{}, err
	}
	return a.module(a.hub.Registry().PutModule(r.Context(), c, r.match()))
}

func (a *API) deleteModule(r *request) (answer, error) {
	return answer{}, a.hub.Registry().DeleteModule(r.Context(), r.id, r.match())
}

func (a *API) applyConfiguration(r *request) (answer, error) {
	m, err := deployment.ParseManifest(r.body)
	if err != nil {
		return answer{}, err
	}
	return answer{}, a.hub.Apply(r.Context(), r.id.Device, m)
}

func (a *API) deviceStatistics(*request) (answer, error) {
	return answer{doc: a.hub.Registry().Statistics()}, nil
}

func (a *API) serviceStatistics(*request) (answer, error) {
	return answer{doc: map[string]int{"connectedDeviceCount": a.hub.ConnectedDevices()}}, nil
}
