package manifest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// doc makes a manifest; parts replace the defaults.
type doc struct {
	schema, runtime, system, modules, extra string
}

func (d doc) text() string {
	def := func(s, v string) string {
		if s == "" {
			return v
		}
		return s
	}
	return fmt.Sprintf(`{"$version":7,"schemaVersion":%s,"runtime":%s,"systemModules":%s,"modules":%s%s}`,
		def(d.schema, `"1.1"`), def(d.runtime, `{"type":"docker","settings":{"minDockerVersion":"v1.25"}}`),
		def(d.system, `{}`), def(d.modules, `{}`), d.extra)
}

func module(fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return `{"m":{"type":"docker","status":"running","settings":{"image":"img"}` + fields + `}}`
}

func withSettings(settings string) string {
	return `{"m":{"type":"docker","status":"running","settings":{` + settings + `}}}`
}

func code(err error) int {
	if err == nil {
		return 200
	}
	if e, ok := manifest.AsError(err); ok {
		return e.Code
	}
	return -1
}

func TestFingerprintIsThatOfTheContainer(t *testing.T) {
	base := manifest.Module{Name: "m", Type: "docker", Status: manifest.Running, Image: "m:1", Env: map[string]string{"a": "1", "b": "2"}, CreateOptions: "{}"}
	for name, c := range map[string]struct {
		change func(*manifest.Module)
		same   bool
	}{
		"status":         {func(m *manifest.Module) { m.Status = manifest.Stopped }, true},
		"order of env":   {func(m *manifest.Module) { m.Env = map[string]string{"b": "2", "a": "1"} }, true},
		"image":          {func(m *manifest.Module) { m.Image = "m:2" }, false},
		"type":           {func(m *manifest.Module) { m.Type = "other" }, false},
		"version":        {func(m *manifest.Module) { m.Version = "2" }, false},
		"digest":         {func(m *manifest.Module) { m.Digest = "d" }, false},
		"options":        {func(m *manifest.Module) { m.CreateOptions = `{"Tty":true}` }, false},
		"restart policy": {func(m *manifest.Module) { m.Restart = manifest.RestartAlways }, false},
		"pull policy":    {func(m *manifest.Module) { m.Pull = manifest.PullNever }, false},
		"startup order":  {func(m *manifest.Module) { m.Order = 3 }, false},
		"env":            {func(m *manifest.Module) { m.Env = map[string]string{"a": "1"} }, false},
	} {
		m := base
		c.change(&m)
		if same := m.Fingerprint() == base.Fingerprint(); same != c.same || same != (m.Same(base) && m.Image == base.Image) {
			t.Errorf("%s: same %t", name, same)
		}
	}
}

func TestParseCodes(t *testing.T) {
	tests := []struct {
		name string
		text string
		code int
		path string
	}{
		{"schema 1.0", doc{schema: `"1.0"`}.text(), 200, ""},
		{"schema 1.1", doc{schema: `"1.1"`}.text(), 200, ""},
		{"schema 1.1.0", doc{schema: `"1.1.0"`}.text(), 200, ""},
		{"schema 1.1.1", doc{schema: `"1.1.1"`}.text(), 412, "schemaVersion"},
		{"schema 1.2", doc{schema: `"1.2"`}.text(), 412, "schemaVersion"},
		{"schema 2.0", doc{schema: `"2.0"`}.text(), 412, "schemaVersion"},
		{"schema 0.9", doc{schema: `"0.9"`}.text(), 412, "schemaVersion"},
		{"schema empty", doc{schema: `""`}.text(), 412, "schemaVersion"},
		{"schema abc", doc{schema: `"abc"`}.text(), 412, "schemaVersion"},
		{"schema without minor", doc{schema: `"1"`}.text(), 412, "schemaVersion"},
		{"schema a number", doc{schema: `1.1`}.text(), 412, "schemaVersion"},
		{"schema null", doc{schema: `null`}.text(), 412, "schemaVersion"},
		{"schema missing", `{"runtime":{}}`, 412, "schemaVersion"},
		{"empty", `{}`, 417, ""},
		{"only version", `{"$version":3,"$metadata":{}}`, 417, ""},
		{"not an object", `[]`, 400, ""},
		{"not JSON", `{`, 400, ""},
		{"no runtime", `{"schemaVersion":"1.1","systemModules":{}}`, 400, "runtime"},
		{"no systemModules", `{"schemaVersion":"1.1","runtime":{"type":"docker"}}`, 400, "systemModules"},
		{"runtime type", doc{runtime: `{"type":"podman"}`}.text(), 400, "runtime.type"},
		{"runtime without settings", doc{runtime: `{"type":"docker"}`}.text(), 200, ""},
		{"modules null", doc{modules: `null`}.text(), 200, ""},
		{"edgeHub null", doc{system: `{"edgeAgent":null,"edgeHub":null}`}.text(), 200, ""},
		{"unknown members", doc{extra: `,"whatever":{"a":[1]}`}.text(), 200, ""},
		{"configuration tolerated", doc{modules: module(`"configuration":{"id":"x"}`)}.text(), 200, ""},
		{"integrity does not block", doc{extra: `,"integrity":{"header":{},"signature":{"bytes":"x"}}`}.text(), 200, ""},
		{"type missing", doc{modules: `{"m":{"status":"running","settings":{"image":"i"}}}`}.text(), 400, "modules.m.type"},
		{"status missing", doc{modules: `{"m":{"type":"docker","settings":{"image":"i"}}}`}.text(), 400, "modules.m.status"},
		{"status failed", doc{modules: `{"m":{"type":"docker","status":"failed","settings":{"image":"i"}}}`}.text(), 400, "modules.m.status"},
		{"settings missing", doc{modules: `{"m":{"type":"docker","status":"running"}}`}.text(), 400, "modules.m.settings"},
		{"image missing", doc{modules: withSettings(``)}.text(), 400, "modules.m.settings.image"},
		{"image blank", doc{modules: withSettings(`"image":"  "`)}.text(), 400, "modules.m.settings.image"},
		{"policy unknown", doc{modules: module(`"restartPolicy":"sometimes"`)}.text(), 400, "modules.m.restartPolicy"},
		{"policy null on a user module", doc{modules: module(`"restartPolicy":null`)}.text(), 200, ""},
		{"policy null on the hub", doc{system: `{"edgeHub":{"type":"docker","status":"running","restartPolicy":null,"settings":{"image":"h"}}}`}.text(), 400, "systemModules.edgeHub.restartPolicy"},
		{"hub without status", doc{system: `{"edgeHub":{"type":"docker","settings":{"image":"h"}}}`}.text(), 400, "systemModules.edgeHub.status"},
		{"agent without status", doc{system: `{"edgeAgent":{"type":"docker","settings":{"image":"a"}}}`}.text(), 200, ""},
		{"pull policy unknown", doc{modules: module(`"imagePullPolicy":"always"`)}.text(), 400, "modules.m.imagePullPolicy"},
		{"order null", doc{modules: module(`"startupOrder":null`)}.text(), 400, "modules.m.startupOrder"},
		{"order negative", doc{modules: module(`"startupOrder":-1`)}.text(), 400, "modules.m.startupOrder"},
		{"order too large", doc{modules: module(`"startupOrder":4294967296`)}.text(), 400, "modules.m.startupOrder"},
		{"order largest", doc{modules: module(`"startupOrder":4294967295`)}.text(), 200, ""},
		{"env without object", doc{modules: module(`"env":{"K":"v"}`)}.text(), 400, "env.K"},
		{"env name with =", doc{modules: module(`"env":{"A=B":{"value":"v"}}`)}.text(), 400, "env.A=B"},
		{"name reserved", doc{modules: strings.ReplaceAll(module(""), `"m"`, `"edgeHub"`)}.text(), 400, "modules.edgeHub"},
		{"cloud name reserved", doc{modules: strings.ReplaceAll(module(""), `"m"`, `"$edgeAgent"`)}.text(), 400, "modules.$edgeAgent"},
		{"name no engine hosts", doc{modules: strings.ReplaceAll(module(""), `"m"`, `"a b"`)}.text(), 400, "modules.a b"},
		{"name not beginning with a letter", doc{modules: strings.ReplaceAll(module(""), `"m"`, `"_a"`)}.text(), 400, "modules._a"},
		{"options no object", doc{modules: withSettings(`"image":"i","createOptions":"[]"`)}.text(), 400, "createOptions"},
		{"options no JSON", doc{modules: withSettings(`"image":"i","createOptions":"{"`)}.text(), 400, "createOptions"},
		{"options no string", doc{modules: withSettings(`"image":"i","createOptions":{}`)}.text(), 400, "createOptions"},
		{"credentials without password", doc{runtime: `{"type":"docker","settings":{"registryCredentials":{"r":{"address":"a","username":"u"}}}}`}.text(), 400, "registryCredentials.r.password"},
		{"credentials blank address", doc{runtime: `{"type":"docker","settings":{"registryCredentials":{"r":{"address":" ","username":"u","password":"p"}}}}`}.text(), 400, "registryCredentials.r.address"},
		{"upper-case members and enumerations", `{"SCHEMAVERSION":"1.1","Runtime":{"TYPE":"DOCKER"},"SystemModules":{"EDGEHUB":{"Type":"Docker","STATUS":"Running","RestartPolicy":"Always","ImagePullPolicy":"Never","Settings":{"IMAGE":"h"}}}}`, 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := manifest.Parse(json.RawMessage(tt.text), manifest.Options{})
			if code(err) != tt.code {
				t.Fatalf("code %d, want %d (%v)", code(err), tt.code, err)
			}
			if e, ok := manifest.AsError(err); ok && !strings.HasSuffix(e.Path, tt.path) {
				t.Errorf("path %q, want ...%q", e.Path, tt.path)
			}
		})
	}
}

func TestParseTexts(t *testing.T) {
	_, err := manifest.Parse(json.RawMessage(`{}`), manifest.Options{})
	e, _ := manifest.AsError(err)
	if want := "This device has an empty configuration for the edge agent. Please set a deployment manifest."; e.Description() != want {
		t.Errorf("417: %q", e.Description())
	}
	_, err = manifest.Parse(json.RawMessage(doc{system: "3"}.text()), manifest.Options{})
	e, _ = manifest.AsError(err)
	if want := "Agent configuration format is invalid."; e.Description() != want {
		t.Errorf("400: %q", e.Description())
	}
	_, err = manifest.Parse(json.RawMessage(doc{schema: `"2.5"`}.text()), manifest.Options{})
	e, _ = manifest.AsError(err)
	if !strings.Contains(e.Description(), "2.5") || !strings.Contains(e.Description(), "1.1") {
		t.Errorf("412 names neither version: %q", e.Description())
	}
}

func TestParseDefaults(t *testing.T) {
	d, err := manifest.Parse(json.RawMessage(doc{
		system: `{"edgeAgent":{"type":"docker","settings":{"image":"reg.example.com/agent:1"}},
		          "edgeHub":{"type":"docker","status":"stopped","settings":{"image":"hub"}}}`,
		modules: module(`"env":{"A":{"value":"1"},"N":{"value":null},"I":{"value":5}}`),
	}.text()), manifest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Version != 7 || d.Runtime.MinDockerVersion != "v1.25" {
		t.Errorf("version %d, runtime %+v", d.Version, d.Runtime)
	}
	m, hub, agent := d.Modules["m"], d.Modules["edgeHub"], d.Modules["edgeAgent"]
	if m.Restart != manifest.RestartOnUnhealthy || m.Pull != manifest.PullOnCreate || m.Order != manifest.DefaultOrder ||
		m.Version != "" || m.CreateOptions != "{}" || m.Image != "img:latest" {
		t.Errorf("user module: %+v", m)
	}
	if m.Env["A"] != "1" || m.Env["N"] != "" || m.Env["I"] != "5" || len(m.Env) != 3 {
		t.Errorf("env: %v", m.Env)
	}
	if hub.Restart != manifest.RestartAlways || hub.Status != manifest.Stopped {
		t.Errorf("hub: %+v", hub)
	}
	if agent.Order != 0 || agent.Status != manifest.Running || agent.Restart != manifest.RestartAlways {
		t.Errorf("agent: %+v", agent)
	}
}

func TestImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	tests := []struct{ in, parent, want string }{
		{"img", "", "img:latest"},
		{" repo/img ", "", "repo/img:latest"},
		{"repo/img:1", "", "repo/img:1"},
		{"reg:5000/a/b:2", "", "reg:5000/a/b:2"},
		{"repo/img@" + digest, "", "repo/img@" + digest},
		{"repo/img:1@" + digest, "", "repo/img:1@" + digest},
		{"$upstream:443/img", "parent", "parent:443/img:latest"},
		{"$upstream:5000/a/img:3", "parent", "parent:5000/a/img:3"},
		{"$upstream:443/img", "", ""},
		{"$upstream/img", "parent", ""},
		{"$upstream:0443/img", "parent", ""},
		{"$other:443/img", "parent", ""},
		{"a:b:c", "", ""},
		{"repo//img", "", ""},
		{"repo/:tag", "", ""},
		{"repo/img:", "", ""},
		{"repo/img@nonsense", "", ""},
		{"re po/img", "", ""},
		{"/img", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			b, _ := json.Marshal(tt.in)
			d, err := manifest.Parse(json.RawMessage(doc{modules: withSettings(`"image":` + string(b))}.text()), manifest.Options{Parent: tt.parent})
			if tt.want == "" {
				if code(err) != 400 {
					t.Fatalf("accepted: %v", err)
				}
				return
			}
			if err != nil || d.Modules["m"].Image != tt.want {
				t.Fatalf("%v, image %q", err, d.Modules["m"].Image)
			}
		})
	}
}

func TestSameImage(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a:1", "a:1", true},
		{"a", "docker.io/library/a:latest", true},
		{"u/a:1", "docker.io/u/a:1", true},
		{"reg.x/a:1", "a:1", false},
		{"localhost/a:1", "docker.io/localhost/a:1", false},
		{"a:1", "a:2", false},
	} {
		if got := manifest.SameImage(tt.a, tt.b); got != tt.want {
			t.Errorf("%s = %s: %v", tt.a, tt.b, got)
		}
	}
}

func TestCredentials(t *testing.T) {
	raw := doc{runtime: `{"type":"docker","settings":{"registryCredentials":{
		"first":{"address":"REG.example.com","username":"one","password":"p"},
		"second":{"address":"reg.example.com","username":"two","password":"p"},
		"hub":{"address":"https://index.docker.io/v1/","username":"hub","password":"p"},
		"up":{"address":"$upstream:443","username":"up","password":"p"}}}}`}.text()
	d, err := manifest.Parse(json.RawMessage(raw), manifest.Options{Parent: "parent"})
	if err != nil {
		t.Fatal(err)
	}
	env := []manifest.Registry{{Address: "env.example.com", Username: "env"}, {Address: "reg.example.com", Username: "late"}}
	for image, want := range map[string]string{
		"reg.example.com/a:1":   "one",
		"parent:443/a:1":        "up",
		"user/img:1":            "hub",
		"img:1":                 "hub",
		"docker.io/user/img:1":  "hub",
		"env.example.com/x:1":   "env",
		"other.example.com/x:1": "",
	} {
		r, _ := manifest.Credential(image, d.Runtime.Registries, env)
		if r.Username != want {
			t.Errorf("%s: %q, want %q", image, r.Username, want)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", d.Runtime, d.Runtime, d.Runtime); strings.Contains(text, `"p"`) || strings.Contains(text, " p}") {
		t.Errorf("password printed: %s", text)
	}
}
