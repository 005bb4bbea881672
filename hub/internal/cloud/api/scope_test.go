package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// nested has edge top, edge mid below it, and below mid the leaves leaf0..leaf4,
// of which leaf0 has a module; and a stranger.
type nested struct {
	*server
	owner    *rest.Client
	top, mid *rest.Client // as their $edgeHub
	tokens   map[string]string
}

func newNested(t *testing.T) *nested {
	t.Helper()
	n := &nested{server: start(t), tokens: map[string]string{}}
	n.owner = n.server.owner()
	edge := &rest.Capabilities{IoTEdge: true}
	put := func(d rest.Device) rest.Device {
		return must[rest.Device](t)(n.owner.PutDevice(t.Context(), d, rest.MustNotExist))
	}
	hub := func(id string) *rest.Client {
		m := must[rest.Module](t)(n.owner.PutModule(t.Context(), rest.Module{DeviceID: id, ModuleID: "$edgeHub", Authentication: rest.SAS("", "")}, rest.MustExist))
		n.tokens[id] = n.token(iothub.ModuleIdentity(id, "$edgeHub"), m.Authentication)
		return n.client(n.tokens[id])
	}
	top := put(rest.Device{DeviceID: "top", Capabilities: edge})
	mid := put(rest.Device{DeviceID: "mid", Capabilities: edge, ParentScopes: []string{top.DeviceScope}})
	for i := range 5 {
		put(rest.Device{DeviceID: fmt.Sprint("leaf", i), DeviceScope: mid.DeviceScope})
	}
	put(rest.Device{DeviceID: "stranger"})
	must[rest.Module](t)(n.owner.PutModule(t.Context(), rest.Module{DeviceID: "leaf0", ModuleID: "m"}, rest.MustNotExist))
	n.top, n.mid = hub("top"), hub("mid")
	return n
}

func names(r rest.ScopeResult) string {
	var list []string
	for _, d := range r.Devices {
		list = append(list, d.DeviceID)
	}
	for _, m := range r.Modules {
		list = append(list, m.DeviceID+"/"+m.ModuleID)
	}
	return strings.Join(list, " ")
}

func TestNestedScope(t *testing.T) {
	n := newNested(t)
	list := func(c *rest.Client, actor, chain string, size int) string {
		var pages []string
		err := c.ScopeAll(t.Context(), actor, rest.ScopePage{PageSize: size, AuthChain: chain}, func(r rest.ScopeResult) error {
			pages = append(pages, names(r))
			return nil
		})
		if err != nil {
			return fmt.Sprint("status ", rest.StatusOf(err))
		}
		return strings.Join(pages, " | ")
	}
	for _, tt := range []struct {
		client       *rest.Client
		actor, chain string
		size         int
		want         string
	}{
		{n.top, "top", "top", 10, "top mid top/$edgeAgent top/$edgeHub"},
		{n.top, "top", "mid;top", 4, "mid leaf0 leaf1 leaf2 mid/$edgeAgent mid/$edgeHub leaf0/m | leaf3 leaf4"},
		{n.top, "top", "mid;top", 1, "mid mid/$edgeAgent mid/$edgeHub | leaf0 leaf0/m | leaf1 | leaf2 | leaf3 | leaf4"},
		{n.mid, "mid", "mid", 6, "mid leaf0 leaf1 leaf2 leaf3 leaf4 mid/$edgeAgent mid/$edgeHub leaf0/m"},
		{n.mid, "mid", "top;mid", 10, "status 401"},
		{n.mid, "mid", "ghost;mid", 10, "status 404"},
		{n.mid, "mid", "leaf0;mid", 10, "status 400"},
		{n.mid, "mid", "", 10, "status 400"},
		{n.mid, "top", "top", 10, "status 401"},
		{n.owner, "mid", "mid", 10, "status 401"},
	} {
		if got := list(tt.client, tt.actor, tt.chain, tt.size); got != tt.want {
			t.Errorf("%s in %q by %d: %s, want %s", tt.actor, tt.chain, tt.size, got, tt.want)
		}
	}
}

func TestNestedTarget(t *testing.T) {
	n := newNested(t)
	for _, tt := range []struct {
		client *rest.Client
		actor  string
		target iothub.Identity
		want   string
	}{
		{n.mid, "mid", iothub.DeviceIdentity("leaf0"), "leaf0"},
		{n.mid, "mid", iothub.ModuleIdentity("leaf0", "m"), "leaf0 leaf0/m"},
		{n.top, "top", iothub.ModuleIdentity("leaf0", "m"), "leaf0 leaf0/m"},
		{n.top, "top", iothub.ModuleIdentity("top", "$edgeAgent"), "top top/$edgeAgent"},
		{n.mid, "mid", iothub.DeviceIdentity("top"), "status 401"},
		{n.mid, "mid", iothub.DeviceIdentity("stranger"), "status 401"},
		{n.mid, "mid", iothub.DeviceIdentity("ghost"), "status 404"},
		{n.mid, "mid", iothub.ModuleIdentity("leaf0", "ghost"), "status 404"},
	} {
		r, err := tt.client.ScopeGet(t.Context(), tt.actor, tt.target, tt.actor)
		got := names(r)
		if err != nil {
			got = fmt.Sprint("status ", rest.StatusOf(err))
		}
		if got != tt.want {
			t.Errorf("%s for %s: %s, want %s", tt.actor, tt.target, got, tt.want)
		}
	}
}

func TestScopeDocumentsHaveWhatEdgeHubDereferences(t *testing.T) {
	n := newNested(t)
	_, body := n.call("POST", "/devices/mid/modules/%24edgeHub/devicesAndModulesInTargetDeviceScope?api-version=2020-06-30-preview", n.tokens["mid"], `{"pageSize":2,"authChain":"mid"}`)
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"devices", "modules", "continuationLink"} {
		if _, ok := doc[k]; !ok {
			t.Errorf("no %s in %s", k, body)
		}
	}
	for _, list := range []string{"devices", "modules"} {
		for _, v := range doc[list].([]any) {
			o := v.(map[string]any)
			auth, ok := o["authentication"].(map[string]any)
			if !ok || auth["symmetricKey"] == nil || auth["x509Thumbprint"] == nil || auth["type"] == nil {
				t.Errorf("authentication of %v", o)
			}
			if _, ok := o["parentScopes"]; list == "devices" && (!ok || o["capabilities"] == nil) {
				t.Errorf("%v", o)
			}
		}
	}
}

func TestFlatScope(t *testing.T) {
	n := newNested(t)
	target := "/devices/mid/modules/$edgeHub/devicesAndModulesInDeviceScope?deviceCount=4&continuationToken=&api-version=2018-08-30-preview"
	var pages []string
	for target != "" && len(pages) < 10 {
		resp, body := n.call("GET", target, n.tokens["mid"], "")
		var r rest.ScopeResult
		if err := json.Unmarshal([]byte(body), &r); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		pages = append(pages, names(r))
		target = string(r.ContinuationLink)
	}
	if got := strings.Join(pages, " | "); got != "mid leaf0 leaf1 leaf2 mid/$edgeAgent mid/$edgeHub leaf0/m | leaf3 leaf4" {
		t.Error(got)
	}
	for query, want := range map[string]string{
		"targetDeviceId=leaf0&targetModuleId=":  "leaf0",
		"targetDeviceId=leaf0&targetModuleId=m": "leaf0 leaf0/m",
		"targetDeviceId=stranger":               "status 401",
		"targetDeviceId=ghost":                  "status 404",
	} {
		resp, body := n.call("GET", "/devices/mid/modules/$edgeHub/deviceAndModuleInDeviceScope?"+query+"&api-version=2018-08-30-preview", n.tokens["mid"], "")
		got := fmt.Sprint("status ", resp.StatusCode)
		var r rest.ScopeResult
		if resp.StatusCode == http.StatusOK && json.Unmarshal([]byte(body), &r) == nil {
			got = names(r)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestRegistryOnBehalfOfAChild(t *testing.T) {
	n := newNested(t)
	call := func(method, name, body string, header ...string) (int, string) {
		resp, answer := n.call(method, "/devices/top/modules/$edgeHub/"+name+"?api-version=2020-06-30-preview", n.tokens["top"], body, header...)
		return resp.StatusCode, answer
	}
	for _, tt := range []struct {
		method, name, body, ifMatch string
		status                      int
		has                         string
	}{
		{"PUT", "putModuleOnBehalfOf", `{"authChain":"mid;top","module":{"deviceId":"mid","moduleId":"x","managedBy":"IotEdge"}}`, "", 200, `"moduleId":"x"`},
		{"PUT", "putModuleOnBehalfOf", `{"authChain":"mid;top","module":{"deviceId":"mid","moduleId":"x"}}`, "", 409, "ModuleAlreadyExistsOnDevice"},
		{"PUT", "putModuleOnBehalfOf", `{"authChain":"mid;top","module":{"deviceId":"mid","moduleId":"x"}}`, "*", 200, `"managedBy":"IotEdge"`},
		{"PUT", "putModuleOnBehalfOf", `{"authChain":"mid;top"}`, "", 400, "ArgumentInvalid"},
		{"POST", "getModuleOnBehalfOf", `{"authChain":"mid;top","targetModuleId":"x"}`, "", 200, `"moduleId":"x"`},
		{"POST", "getModulesOnTargetDevice", `{"authChain":"mid;top"}`, "", 200, `"moduleId":"x"`},
		{"POST", "deleteModuleOnBehalfOf", `{"authChain":"mid;top","moduleId":"x"}`, "", 204, ""},
		{"POST", "deleteModuleOnBehalfOf", `{"authChain":"mid;top","moduleId":"x"}`, "", 404, "ModuleNotFound"},
		{"POST", "getModulesOnTargetDevice", `{"authChain":"stranger;top"}`, "", 401, "IotHubUnauthorizedAccess"},
		{"POST", "getModulesOnTargetDevice", `{"authChain":"leaf0;mid;top"}`, "", 401, "IotHubUnauthorizedAccess"},
		{"POST", "getModulesOnTargetDevice", `{`, "", 400, "ArgumentInvalid"},
	} {
		status, body := call(tt.method, tt.name, tt.body, "If-Match", tt.ifMatch)
		if status != tt.status || !strings.Contains(body, tt.has) {
			t.Errorf("%s %s: %d %s", tt.name, tt.body, status, body)
		}
	}
}
