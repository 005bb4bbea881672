package api

import (
	"net/http"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// route is one operation. In the pattern {d} and {m} stand for device and module
// id, {d} also for the id of something else, {t} for a lock token; other words match in
// any case.
type route struct {
	method  string
	pattern []string
	allow   rule // nil: for the identity of the path itself, as for a connection
	handle  func(*API, *request) (answer, error)
}

// rule decides whether a caller may use a route for an identity.
type rule func(a *API, c access.Caller, id iothub.Identity) bool

// policy allows policies that have one of these rights.
func policy(any access.Right) rule {
	return func(_ *API, c access.Caller, _ iothub.Identity) bool { return c.Rights.Has(any) }
}

// orEdgeDevice also allows an edge device on what is its own (spec iothub-service
// 1.4).
func orEdgeDevice(any access.Right) rule {
	return func(a *API, c access.Caller, id iothub.Identity) bool {
		if c.Rights.Has(any) {
			return true
		}
		if c.Identity != iothub.DeviceIdentity(id.Device) {
			return false
		}
		d, err := a.hub.Registry().Device(id.Device)
		return err == nil && d.IsEdge()
	}
}

// edgeHub allows the $edgeHub module that the path names.
func edgeHub(_ *API, c access.Caller, id iothub.Identity) bool {
	return strings.EqualFold(id.Module, iothub.HubModule) &&
		c.Identity == iothub.ModuleIdentity(id.Device, iothub.HubModule)
}

func (a *API) table() []route {
	read, write := access.RegistryRead, access.RegistryWrite
	service := access.ServiceConnect
	var table []route
	add := func(method, pattern string, allow rule, handle func(*API, *request) (answer, error)) {
		table = append(table, route{method, strings.Split(pattern, "/"), allow, handle})
	}
	const get, put, patch, post, del = http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete

	add(post, "devices/query", policy(service|read), (*API).query)
	add(post, "devices", policy(write), unsupported("bulk registry operations"))
	add(get, "devices", policy(read), (*API).listDevices)
	add(get, "devices/{d}", policy(read), (*API).getDevice)
	add(put, "devices/{d}", policy(write), (*API).putDevice)
	add(del, "devices/{d}", policy(write), (*API).deleteDevice)
	add(del, "devices/{d}/commands", policy(service), (*API).purgeMessages)
	add(post, "devices/{d}/applyConfigurationContent", policy(write|service), (*API).applyConfiguration)
	add(get, "devices/{d}/modules", orEdgeDevice(read), (*API).listModules)
	add(get, "devices/{d}/modules/{m}", orEdgeDevice(read), (*API).getModule)
	add(put, "devices/{d}/modules/{m}", orEdgeDevice(write), (*API).putModule)
	add(del, "devices/{d}/modules/{m}", orEdgeDevice(write), (*API).deleteModule)

	add(get, "configurations", policy(read|service), (*API).listConfigurations)
	add(post, "configurations/testQueries", policy(read|service), (*API).testQueries)
	add(get, "configurations/{d}", policy(read|service), (*API).getConfiguration)
	add(put, "configurations/{d}", policy(write|service), (*API).putConfiguration)
	add(del, "configurations/{d}", policy(write|service), (*API).deleteConfiguration)

	for _, path := range []string{"twins/{d}", "twins/{d}/modules/{m}"} {
		add(get, path, policy(service), (*API).getTwin)
		add(patch, path, policy(service), (*API).patchTwin)
		add(put, path, policy(service), (*API).replaceTwin)
		add(post, path+"/methods", policy(service), (*API).invokeMethod)
	}

	for _, path := range []string{"devices/{d}/messages/", "devices/{d}/modules/{m}/messages/"} {
		add(post, path+"devicebound", policy(service), (*API).sendToDevice)
		add(post, path+"events", nil, (*API).sendEvents)
		add(get, path+"devicebound", nil, (*API).receiveMessage)
		add(del, path+"devicebound/{t}", nil, (*API).completeMessage)
		add(post, path+"devicebound/{t}/abandon", nil, (*API).abandonMessage)
	}
	const feedback = "messages/servicebound/feedback"
	add(get, feedback, policy(service), (*API).receiveFeedback)
	add(del, feedback+"/{t}", policy(service), (*API).completeFeedback)
	add(post, feedback+"/{t}/abandon", policy(service), (*API).abandonFeedback)

	const hub = "devices/{d}/modules/{m}/"
	add(get, hub+"devicesAndModulesInDeviceScope", edgeHub, (*API).flatScope)
	add(get, hub+"deviceAndModuleInDeviceScope", edgeHub, (*API).flatTarget)
	add(post, hub+"devicesAndModulesInTargetDeviceScope", edgeHub, (*API).nestedScope)
	add(post, hub+"getDeviceAndModuleOnBehalfOf", edgeHub, (*API).nestedTarget)
	add(put, hub+"putModuleOnBehalfOf", edgeHub, (*API).putModuleOnBehalf)
	add(post, hub+"getModuleOnBehalfOf", edgeHub, (*API).getModuleOnBehalf)
	add(post, hub+"getModulesOnTargetDevice", edgeHub, (*API).listModulesOnBehalf)
	add(post, hub+"deleteModuleOnBehalfOf", edgeHub, (*API).deleteModuleOnBehalf)

	add(get, "certificates", policy(read), (*API).listCertificates)
	add(get, "certificates/{d}", policy(read), (*API).getCertificate)
	add(put, "certificates/{d}", policy(write), (*API).putCertificate)
	add(del, "certificates/{d}", policy(write), (*API).deleteCertificate)
	add(post, "certificates/{d}/generateVerificationCode", policy(write), (*API).certificateCode)
	add(post, "certificates/{d}/verify", policy(write), (*API).verifyCertificate)

	add(get, "statistics/devices", policy(read), (*API).deviceStatistics)
	add(get, "statistics/service", policy(read), (*API).serviceStatistics)
	add(get, "admin/events", policy(service), (*API).streamEvents)
	add(get, "admin/eventhub", policy(service), (*API).getEventHub)
	return table
}

func unsupported(what string) func(*API, *request) (answer, error) {
	return func(*API, *request) (answer, error) {
		return answer{}, refuse(notImplemented, "this hub does not support %s", what)
	}
}

// find looks for the operation of a request with this path, and fills in what the
// path says.
func (a *API) find(r *request, path []string) (route, error) {
	known := false
	for _, rt := range a.routes {
		id, token, ok := match(rt.pattern, path)
		if !ok {
			continue
		}
		if rt.method == r.Method {
			r.id, r.token = id, token
			return rt, nil
		}
		known = true
	}
	if known {
		return route{}, refuse(methodNotAllowed, "the path has no operation for this verb")
	}
	return route{}, refuse(notFound, "the path is unknown")
}

func match(pattern, path []string) (id iothub.Identity, token string, ok bool) {
	if len(pattern) != len(path) {
		return id, "", false
	}
	for i, want := range pattern {
		switch {
		case want == "{d}":
			id.Device = path[i]
		case want == "{m}":
			id.Module = path[i]
		case want == "{t}":
			token = path[i]
		case !strings.EqualFold(want, path[i]):
			return id, "", false
		}
	}
	return id, token, true
}
