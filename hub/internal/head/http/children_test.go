package http_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestCallsOfEdgeDevicesBelow(t *testing.T) {
	const (
		hubPath = "/devices/child/modules/$edgeHub/"
		modules = "/devices/child/modules"
		chain   = `"authChain":"grand;child"`
	)
	tests := []struct {
		name, method, path, body string
		headers                  []string
		err                      error
		auth                     error
		status                   int
		text                     string // the beginning of the answer
		login                    string // who was authenticated
		call                     string // of the backend; "" for none
	}{
		{name: "scope", method: "POST", path: hubPath + "devicesAndModulesInTargetDeviceScope?api-version=2020-06-30-preview", body: `{"pageSize":10,` + chain + `}`,
			status: 200, text: `{"devices":[],"modules":[],"continuationLink":null}`, login: "child/$edgeHub", call: "child lists grand"},
		{name: "scope, with the dollar escaped and in another case", method: "POST", path: "/Devices/child/Modules/%24edgeHub/DevicesAndModulesInTargetDeviceScope", body: `{"authChain":"child"}`,
			status: 200, text: `{"devices"`, login: "child/$edgeHub", call: "child lists child"},
		{name: "identity", method: "POST", path: hubPath + "getDeviceAndModuleOnBehalfOf", body: `{"targetDeviceId":"leaf",` + chain + `}`,
			status: 200, text: `{"devices"`, login: "child/$edgeHub", call: "child asks for leaf"},
		{name: "module identity", method: "POST", path: hubPath + "getDeviceAndModuleOnBehalfOf", body: `{"targetDeviceId":"leaf","targetModuleId":"m",` + chain + `}`,
			status: 200, text: `{"devices"`, login: "child/$edgeHub", call: "child asks for leaf/m"},
		{name: "put for a grandchild", method: "PUT", path: hubPath + "putModuleOnBehalfOf", body: `{` + chain + `,"module":{"moduleId":"m","x":1}}`, headers: []string{`If-Match: "e"`},
			status: 201, text: `{"moduleId":"m"}`, login: "child/$edgeHub", call: `child calls 0 for grand "" "\"e\"" {"moduleId":"m","x":1}`},
		{name: "get for a grandchild", method: "POST", path: hubPath + "getModuleOnBehalfOf", body: `{` + chain + `,"targetModuleId":"m"}`,
			status: 201, text: `{"moduleId":"m"}`, login: "child/$edgeHub", call: `child calls 1 for grand "m" "" `},
		{name: "list for a grandchild", method: "POST", path: hubPath + "getModulesOnTargetDevice", body: `{` + chain + `}`,
			status: 201, text: `{"moduleId":"m"}`, login: "child/$edgeHub", call: `child calls 2 for grand "" "" `},
		{name: "delete for a grandchild", method: "POST", path: hubPath + "deleteModuleOnBehalfOf", body: `{` + chain + `,"moduleId":"m"}`,
			status: 201, text: `{"moduleId":"m"}`, login: "child/$edgeHub", call: `child calls 3 for grand "m" "" `},
		{name: "own modules", method: "GET", path: modules, status: 201, text: `{"moduleId":"m"}`, login: "child", call: `child calls 2 for child "" "" `},
		{name: "own module", method: "GET", path: modules + "/m?api-version=2021-04-12", status: 201, text: `{"moduleId":"m"}`, login: "child", call: `child calls 1 for child "m" "" `},
		{name: "put own module", method: "PUT", path: modules + "/m", body: `{"moduleId":"m"}`, status: 201, text: `{"moduleId":"m"}`, login: "child",
			call: `child calls 0 for child "m" "" {"moduleId":"m"}`},
		{name: "delete own module", method: "DELETE", path: modules + "/$edgeHub", headers: []string{"If-Match: *"}, status: 201, text: `{"moduleId":"m"}`, login: "child",
			call: `child calls 3 for child "$edgeHub" "*" `},

		{name: "another module as actor", method: "POST", path: "/devices/child/modules/other/getModulesOnTargetDevice", body: `{` + chain + `}`, status: 401, text: `{"errorMessage":"`},
		{name: "another module as actor, scope", method: "POST", path: "/devices/child/modules/other/devicesAndModulesInTargetDeviceScope", body: `{` + chain + `}`, status: 401, text: `{"ErrorMessage":"`},
		{name: "wrong token", method: "POST", path: hubPath + "devicesAndModulesInTargetDeviceScope", body: `{` + chain + `}`, headers: []string{"Authorization: x"},
			status: 401, text: `{"ErrorMessage":"`, login: "child/$edgeHub"},
		{name: "wrong token, registry", method: "GET", path: modules, headers: []string{"Authorization: x"}, status: 401, text: `{"errorMessage":"`, login: "child"},
		{name: "identities not known yet", method: "GET", path: modules, auth: head.ErrUnavailable, status: 503, text: `{"errorMessage":"`, login: "child"},
		{name: "foreign target", method: "POST", path: hubPath + "devicesAndModulesInTargetDeviceScope", body: `{` + chain + `}`, err: fmt.Errorf("%w: no", head.ErrUnauthorized),
			status: 401, text: `{"ErrorMessage":"`, login: "child/$edgeHub", call: "child lists grand"},
		{name: "unknown target", method: "POST", path: hubPath + "getDeviceAndModuleOnBehalfOf", body: `{"targetDeviceId":"x",` + chain + `}`, err: fmt.Errorf("%w: x", head.ErrNotFound),
			status: 404, text: `{"ErrorMessage":"`, login: "child/$edgeHub", call: "child asks for x"},
		{name: "refused by the registry", method: "GET", path: modules + "/m", err: fmt.Errorf("modules: %w", &rest.Error{Status: 412, Code: "PreconditionFailed", Message: "etag"}),
			status: 412, text: `{"errorMessage":"ErrorCode:PreconditionFailed;etag"}`, login: "child", call: `child calls 1 for child "m" "" `},
		{name: "registry away", method: "GET", path: modules + "/m", err: errors.New("no route to host"), status: 500, text: `{"errorMessage":"the registry cannot be reached"}`, login: "child",
			call: `child calls 1 for child "m" "" `},
		{name: "no chain", method: "POST", path: hubPath + "devicesAndModulesInTargetDeviceScope", body: `{}`, status: 400, text: `{"ErrorMessage":"`, login: "child/$edgeHub"},
		{name: "no JSON", method: "POST", path: hubPath + "getDeviceAndModuleOnBehalfOf", body: `x`, status: 400, text: `{"ErrorMessage":"`, login: "child/$edgeHub"},
		{name: "bad target", method: "POST", path: hubPath + "getDeviceAndModuleOnBehalfOf", body: `{"targetDeviceId":"a b"}`, status: 400, text: `{"ErrorMessage":"`, login: "child/$edgeHub"},
		{name: "put without a module", method: "PUT", path: hubPath + "putModuleOnBehalfOf", body: `{` + chain + `}`, status: 400, text: `{"errorMessage":"`, login: "child/$edgeHub"},
		{name: "get without a module", method: "POST", path: hubPath + "getModuleOnBehalfOf", body: `{` + chain + `}`, status: 400, text: `{"errorMessage":"`, login: "child/$edgeHub"},
		{name: "put of another module", method: "PUT", path: modules + "/m", body: `{"moduleId":"n"}`, status: 400, text: `{"errorMessage":"`, login: "child"},
		{name: "bad device", method: "GET", path: "/devices/a%20b/modules", status: 400, text: `{"errorMessage":"`},
		{name: "a device itself", method: "GET", path: "/devices/child", status: 404, text: `{"errorMessage":"`},
		{name: "unknown call", method: "POST", path: hubPath + "formatDisk", body: `{}`, status: 404, text: `{"errorMessage":"`},
		{name: "wrong method", method: "GET", path: hubPath + "getModulesOnTargetDevice", status: 405, text: `{"errorMessage":"use POST"}`},
		{name: "wrong method for a module", method: "PATCH", path: modules + "/m", status: 405, text: `{"errorMessage":"use GET, PUT, DELETE"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hub{err: tt.err, auth: tt.auth, scope: rest.ScopeResult{Devices: []rest.Device{}, Modules: []rest.Module{}},
				relay: rest.Answer{Status: 201, Etag: `"7"`, Body: []byte(`{"moduleId":"m"}`)}}
			p := start(t, h, nil)
			r, text := p.do(tt.method, tt.path, tt.body, append([]string{token}, tt.headers...)...)
			if r.StatusCode != tt.status || !strings.HasPrefix(text, tt.text) {
				t.Errorf("status %d, body %s", r.StatusCode, text)
			}
			if r.StatusCode == 201 && r.Header.Get("Etag") != `"7"` {
				t.Errorf("etag %q", r.Header.Get("Etag"))
			}
			var logins []string
			for _, l := range h.logins {
				logins = append(logins, l.Identity.String())
			}
			if strings.Join(logins, " ") != tt.login || strings.Join(h.calls, "|") != tt.call {
				t.Errorf("authenticated %v, calls %q", logins, h.calls)
			}
		})
	}
}
