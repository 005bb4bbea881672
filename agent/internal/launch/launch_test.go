package launch_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

func host(parent string) launch.Host {
	return launch.Host{
		HubName: "hub.example.com", DeviceID: "dev", Parent: parent, HostName: "gateway",
		WorkloadURI: "unix:///run/workload.sock", ManagementURI: "unix:///run/mgmt.sock",
		SocketsURI: "unix:///var/lib/aziot/edged/mnt/", APIVersion: "2022-08-03", NetworkID: "azure-iot-edge",
		LogLevel: "info", Upstream: "Mqtt",
	}
}

func module(name, options string, env map[string]string) manifest.Module {
	return manifest.Module{Name: name, Type: "docker", Image: "reg.example.com/i:1", Env: env, CreateOptions: options, Pull: manifest.PullOnCreate}
}

func build(t *testing.T, h launch.Host, m manifest.Module) (launch.Spec, map[string]string) {
	t.Helper()
	s, err := h.Build(m, launch.Identity{ModuleID: manifest.CloudID(m.Name), Generation: "gen"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, e := range s.Env {
		if _, dup := env[e.Key]; dup {
			t.Errorf("%s is given twice", e.Key)
		}
		env[e.Key] = e.Value
	}
	return s, env
}

// TestEnvironment is the table of spec edgeagent 4.1.
func TestEnvironment(t *testing.T) {
	common := map[string]string{
		"IOTEDGE_WORKLOADURI": "unix:///run/workload.sock", "IOTEDGE_MODULEGENERATIONID": "gen", "IOTEDGE_DEVICEID": "dev",
		"IOTEDGE_IOTHUBHOSTNAME": "hub.example.com", "IOTEDGE_AUTHSCHEME": "sasToken", "IOTEDGE_APIVERSION": "2022-08-03",
		"RuntimeLogLevel": "info", "UpstreamProtocol": "Mqtt",
	}
	agent := map[string]string{
		"EdgeDeviceHostName": "gateway", "IOTEDGE_MANAGEMENTURI": "unix:///run/mgmt.sock", "Mode": "iotedged",
		"IOTEDGE_WORKLOADLISTEN_MNTURI": "unix:///var/lib/aziot/edged/mnt/", "NetworkId": "azure-iot-edge", "IOTEDGE_MODULEID": "$edgeAgent",
	}
	for _, tt := range []struct {
		module, parent string
		own            map[string]string
	}{
		{"edgeAgent", "", agent},
		{"edgeAgent", "parent", merge(agent, map[string]string{"IOTEDGE_GATEWAYHOSTNAME": "parent"})},
		{"edgeHub", "", map[string]string{"IOTEDGE_MODULEID": "$edgeHub", "EdgeDeviceHostName": "gateway"}},
		{"edgeHub", "parent", map[string]string{"IOTEDGE_MODULEID": "$edgeHub", "EdgeDeviceHostName": "gateway", "IOTEDGE_GATEWAYHOSTNAME": "parent"}},
		{"m", "", map[string]string{"IOTEDGE_MODULEID": "m", "IOTEDGE_GATEWAYHOSTNAME": "gateway"}},
		{"m", "parent", map[string]string{"IOTEDGE_MODULEID": "m", "IOTEDGE_GATEWAYHOSTNAME": "gateway", "IOTEDGE_PARENTHOSTNAME": "parent"}},
	} {
		_, env := build(t, host(tt.parent), module(tt.module, "{}", nil))
		if want := merge(common, tt.own); !maps.Equal(env, want) {
			t.Errorf("%s below %q:\n got %v\nwant %v", tt.module, tt.parent, env, want)
		}
	}
}

func merge(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func TestUsersOwnVariables(t *testing.T) {
	_, env := build(t, host(""), module("m", "{}", map[string]string{
		"IOTEDGE_DEVICEID": "other", "IOTEDGE_GATEWAYHOSTNAME": "other", "runtimeloglevel": "debug", "upstreamProtocol": "Amqp", "Own": "x",
	}))
	if env["IOTEDGE_DEVICEID"] != "dev" || env["IOTEDGE_GATEWAYHOSTNAME"] != "gateway" || env["Own"] != "x" {
		t.Errorf("env %v", env)
	}
	if env["runtimeloglevel"] != "debug" || env["RuntimeLogLevel"] != "" || env["UpstreamProtocol"] != "" {
		t.Errorf("a variable of the module's own is doubled: %v", env)
	}
}

func TestCreateOptions(t *testing.T) {
	const socket = "/var/lib/aziot/edged/mnt/m.sock:/run/workload.sock"
	network := `"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{}}}`
	for name, tt := range map[string]struct{ module, options, want string }{
		"nothing":  {"m", `{}`, `{"HostConfig":{"Binds":["` + socket + `"]},` + network + `}`},
		"own bind": {"m", `{"HostConfig":{"Binds":["/a:/b"],"Privileged":true}}`, `{"HostConfig":{"Binds":["/a:/b","` + socket + `"],"Privileged":true},` + network + `}`},
		"own network": {"m", `{"NetworkingConfig":{"EndpointsConfig":{"mine":{}}}}`,
			`{"HostConfig":{"Binds":["` + socket + `"]},"NetworkingConfig":{"EndpointsConfig":{"mine":{}}}}`},
		"host network idiom": {"m", `{"HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`,
			`{"HostConfig":{"Binds":["` + socket + `"],"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`},
		"host network mode alone": {"m", `{"HostConfig":{"NetworkMode":"host"}}`, `{"HostConfig":{"Binds":["` + socket + `"],"NetworkMode":"host"}}`},
		"own labels":              {"m", `{"Labels":{"own":"x","` + plan.LabelModule + `":"y"}}`, `{"HostConfig":{"Binds":["` + socket + `"]},` + network + `}`},
		"image is overwritten":    {"m", `{"Image":"other"}`, `{"HostConfig":{"Binds":["` + socket + `"]},` + network + `}`},
		"hub has the host's name": {"edgeHub", `{}`, `{"HostConfig":{"Binds":["` + strings.Replace(socket, "/m.sock", "/edgeHub.sock", 1) + `"]},
			"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["gateway"]}}}}`},
		"agent": {"edgeAgent", `{"Tty":true}`, `{"HostConfig":{"Binds":["` + strings.Replace(socket, "/m.sock", "/edgeAgent.sock", 1) + `","/run/mgmt.sock:/run/mgmt.sock"]},
			"Labels":{"` + plan.LabelOptions + `":"{\"Tty\":true}","` + plan.LabelEnv + `":"{}"},` + network + `,"Tty":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			m := module(tt.module, tt.options, nil)
			s, _ := build(t, host(""), m)
			if labels := s.CreateOptions["Labels"].(map[string]any); m.Name != manifest.AgentName {
				if labels[plan.LabelModule] != m.Fingerprint() || labels[plan.LabelGeneration] != "gen" || labels["own"] != nil && labels["own"] != "x" {
					t.Errorf("labels %v", labels)
				}
				delete(s.CreateOptions, "Labels")
			}
			got, err := json.Marshal(s.CreateOptions)
			if err != nil {
				t.Fatal(err)
			}
			var want any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			w, _ := json.Marshal(want)
			if string(got) != string(w) {
				t.Errorf("\n got %s\nwant %s", got, w)
			}
		})
	}
}

func TestSharedSocketWithoutFolder(t *testing.T) {
	h := host("")
	h.SocketsURI, h.NetworkID = "", ""
	s, _ := build(t, h, module("m", "{}", nil))
	delete(s.CreateOptions, "Labels")
	b, _ := json.Marshal(s.CreateOptions)
	if string(b) != `{"HostConfig":{"Binds":["/run/workload.sock:/run/workload.sock"]}}` {
		t.Errorf("%s", b)
	}
}

func TestOptionsWithoutPlaceAreRefused(t *testing.T) {
	for _, options := range []string{`{"HostConfig":[]}`, `{"HostConfig":{"Binds":"x"}}`, `{"NetworkingConfig":3}`, `{"Labels":[]}`} {
		for _, name := range []string{"m", "edgeAgent"} {
			if _, err := host("").Build(module(name, options, nil), launch.Identity{}, nil); err == nil {
				t.Errorf("%s: accepted for %s", options, name)
			}
		}
	}
}

func TestPullPolicyAndCredentials(t *testing.T) {
	h := host("")
	h.Registries = []manifest.Registry{{Address: "reg.example.com", Username: "env"}}
	m := module("m", "{}", nil)
	m.Pull = manifest.PullNever
	s, err := h.Build(m, launch.Identity{}, nil)
	if err != nil || s.PullPolicy != "Never" || s.Auth == nil || s.Auth.Username != "env" {
		t.Errorf("%v %+v", err, s)
	}
	s, _ = h.Build(m, launch.Identity{}, []manifest.Registry{{Address: "reg.example.com", Username: "manifest"}})
	if s.Auth.Username != "manifest" {
		t.Errorf("credentials of %s", s.Auth.Username)
	}
	if !slices.IsSortedFunc(s.Env, func(a, b launch.EnvVar) int { return strings.Compare(a.Key, b.Key) }) {
		t.Error("env is not sorted")
	}
}
