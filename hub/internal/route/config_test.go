package route_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
)

const (
	storeLine = `"storeAndForwardConfiguration":{"timeToLiveSecs":60}`
	anyRoute  = `"FROM /* INTO $upstream"`
)

func parseConfig(t *testing.T, text string) *route.Config {
	t.Helper()
	cfg, err := route.ParseConfig(json.RawMessage(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return cfg
}

func TestConfigSchemaVersionIsFrom10To13(t *testing.T) {
	for version, accepted := range map[string]bool{
		`"1.0"`: true, `"1.1"`: true, `"1.2"`: true, `"1.3"`: true, `"1.1.0"`: true, `"1.0.7"`: true,
		`"1.4"`: false, `"2.0"`: false, `"0.9"`: false, `"1"`: false, `""`: false, `"1."`: false, `"a.b"`: false,
		`"1.0 "`: false, `"1.-1"`: false, `"1.99999999999999999999"`: false, `"1.0.0.0.0"`: false,
		`null`: false, `1.1`: false, `{}`: false,
	} {
		_, err := route.ParseConfig(json.RawMessage(`{"schemaVersion":` + version + `,"routes":{},` + storeLine + `}`))
		if (err == nil) != accepted {
			t.Errorf("schemaVersion %s: %v, want accepted %v", version, err, accepted)
		}
		if err != nil && !strings.Contains(err.Error(), "schemaVersion") {
			t.Errorf("schemaVersion %s: the error does not name it: %v", version, err)
		}
	}
	if _, err := route.ParseConfig(json.RawMessage(`{"routes":{}}`)); err == nil {
		t.Error("no schemaVersion: accepted")
	}
}

func TestConfigReadsStringAndObjectRoutes(t *testing.T) {
	cfg := parseConfig(t, `{"schemaVersion":"1.1","$version":7,"routes":{
		"b":{"route":"FROM /messages/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")","priority":0,"timeToLiveSecs":3600},
		"a":"FROM /* WHERE x = 'y' INTO $upstream",
		"c":{"route":"FROM /* INTO $upstream","priority":2000000000,"timeToLiveSecs":null},
		"d":{"route":"FROM /* INTO $upstream","priority":9,"timeToLiveSecs":4294967295}},
		"storeAndForwardConfiguration":{"timeToLiveSecs":-1,"storeLimits":{"maxSizeBytes":1073741824}}}`)
	want := []struct {
		name     string
		priority uint32
		ttl      time.Duration
	}{{"a", route.DefaultPriority, 0}, {"b", 0, time.Hour}, {"c", route.DefaultPriority, 0}, {"d", 9, 4294967295 * time.Second}}
	if len(cfg.Routes) != len(want) {
		t.Fatalf("routes %v", cfg.Routes)
	}
	for i, w := range want {
		if r := cfg.Routes[i]; r.Name != w.name || r.Priority != w.priority || r.TTL != w.ttl || r.Route == nil {
			t.Errorf("route %d: %+v, want %+v", i, r, w)
		}
	}
	if cfg.TTL >= 0 || cfg.MaxSizeBytes != 1<<30 || cfg.SchemaVersion != "1.1" {
		t.Errorf("config %+v", cfg)
	}
	if got := cfg.Routes[1].Route.Sink.EndpointID("edge1"); got != "edge1/b/in" {
		t.Errorf("endpoint %q", got)
	}
}

func TestConfigDefaultsToTheDocumentedTTL(t *testing.T) {
	for _, text := range []string{
		`{"schemaVersion":"1.0"}`,
		`{"schemaVersion":"1.0","routes":null}`,
		`{"schemaVersion":"1.1","routes":{},"storeAndForwardConfiguration":{}}`,
	} {
		if cfg := parseConfig(t, text); cfg.TTL != route.DefaultTTL || len(cfg.Routes) != 0 || cfg.MaxSizeBytes != 0 {
			t.Errorf("%s: %+v", text, cfg)
		}
	}
	if cfg := parseConfig(t, `{"schemaVersion":"1.0","storeAndForwardConfiguration":{"timeToLiveSecs":0}}`); cfg.TTL != 0 {
		t.Errorf("a TTL of zero became %v", cfg.TTL)
	}
}

func TestConfigOfSchema10SkipsBlankRoutes(t *testing.T) {
	cfg := parseConfig(t, `{"schemaVersion":"1.0","routes":{"a":"","b":" \n","c":null,"d":`+anyRoute+`}}`)
	if len(cfg.Routes) != 1 || cfg.Routes[0].Name != "d" {
		t.Errorf("routes %v", cfg.Routes)
	}
}

func TestConfigKeepsBrokerAndIntegrityFromTheirSchemaOn(t *testing.T) {
	for _, c := range []struct {
		version           string
		broker, integrity bool
	}{{"1.0", false, false}, {"1.1", false, false}, {"1.2", true, false}, {"1.3", true, true}} {
		cfg := parseConfig(t, `{"schemaVersion":"`+c.version+`","routes":{},`+storeLine+
			`,"mqttBroker":{"authorizations":[]},"integrity":{"header":{}}}`)
		if (cfg.MQTTBroker != nil) != c.broker || (cfg.Integrity != nil) != c.integrity {
			t.Errorf("%s: broker %s, integrity %s", c.version, cfg.MQTTBroker, cfg.Integrity)
		}
	}
}

func TestConfigErrorNamesThePath(t *testing.T) {
	with := func(version, routes, more string) string {
		return fmt.Sprintf(`{"schemaVersion":%q,"routes":%s,%s%s}`, version, routes, storeLine, more)
	}
	for _, c := range []struct{ text, want string }{
		{``, `: expected a JSON object`},
		{`null`, `: expected a JSON object`},
		{`[]`, `: expected a JSON object`},
		{`{"schemaVersion":"1.1"`, `unexpected end of JSON input`},
		{`{}`, `schemaVersion: missing`},
		{`{"schemaVersion":"1.1",` + storeLine + `}`, `routes: missing`},
		{with("1.1", `null`, ``), `routes: missing`},
		{with("1.1", `[]`, ``), `routes: expected a JSON object`},
		{with("1.0", `"x"`, ``), `routes: expected a JSON object`},
		{`{"schemaVersion":"1.1","routes":{}}`, `storeAndForwardConfiguration: missing`},
		{with("1.1", `{"":`+anyRoute+`}`, ``), `routes: a route has an empty name`},
		{with("1.1", `{"r":""}`, ``), `routes.r: the route is empty`},
		{with("1.1", `{"r":null}`, ``), `routes.r: expected a string or an object`},
		{with("1.1", `{"r":5}`, ``), `routes.r: expected a string or an object`},
		{with("1.1", `{"r":[]}`, ``), `routes.r: expected a string or an object`},
		{with("1.0", `{"r":{"route":"FROM /* INTO $upstream"}}`, ``), `routes.r: expected a string`},
		{with("1.1", `{"r":{}}`, ``), `routes.r.route: expected a string`},
		{with("1.1", `{"r":{"route":" "}}`, ``), `routes.r.route: the route is empty`},
		{with("1.1", `{"r":{"route":"FORM"}}`, ``), `routes.r.route: line 1, column 1: expected FROM`},
		{with("1.1", `{"r":"FROM /* INTO nowhere"}`, ``), `routes.r: line 1, column 14: unknown endpoint`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"priority":10}}`, ``), `routes.r.priority: 10: expected 0 to 9 or 2000000000`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"priority":-1}}`, ``), `routes.r.priority: -1`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"priority":"1"}}`, ``), `routes.r.priority: "1"`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"priority":1.5}}`, ``), `routes.r.priority: 1.5`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"timeToLiveSecs":-1}}`, ``), `routes.r.timeToLiveSecs: -1`},
		{with("1.1", `{"r":{"route":`+anyRoute+`,"timeToLiveSecs":4294967296}}`, ``), `routes.r.timeToLiveSecs: 4294967296`},
		{`{"schemaVersion":"1.0","storeAndForwardConfiguration":5}`, `storeAndForwardConfiguration: expected a JSON object`},
		{`{"schemaVersion":"1.0","storeAndForwardConfiguration":{"timeToLiveSecs":"x"}}`, `storeAndForwardConfiguration.timeToLiveSecs: "x"`},
		{`{"schemaVersion":"1.0","storeAndForwardConfiguration":{"storeLimits":5}}`, `storeAndForwardConfiguration.storeLimits: expected`},
		{`{"schemaVersion":"1.0","storeAndForwardConfiguration":{"storeLimits":{"maxSizeBytes":1e30}}}`, `storeAndForwardConfiguration.storeLimits.maxSizeBytes: 1e30`},
		{with("1.2", `{}`, `,"mqttBroker":[]`), `mqttBroker: expected an object`},
		{with("1.3", `{}`, `,"integrity":"x"`), `integrity: expected an object`},
	} {
		cfg, err := route.ParseConfig(json.RawMessage(c.text))
		if err == nil {
			t.Errorf("%s: accepted", c.text)
			continue
		}
		if cfg != nil {
			t.Errorf("%s: a configuration comes with the error", c.text)
		}
		if !strings.HasPrefix(err.Error(), "Error while parsing desired properties: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestConfigErrorListsAllFaults(t *testing.T) {
	_, err := route.ParseConfig(json.RawMessage(`{"schemaVersion":"1.1","routes":{
		"bad1":"FROM /* INTO x","good":` + anyRoute + `,"bad2":{"route":"FROM","priority":11}}}`))
	var faults *route.ConfigError
	if !errors.As(err, &faults) {
		t.Fatalf("error %v", err)
	}
	var paths []string
	for _, p := range faults.Problems {
		paths = append(paths, p.Path)
	}
	want := "routes.bad1 routes.bad2.priority routes.bad2.route storeAndForwardConfiguration"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("paths %q, want %q", got, want)
	}
	var syntax *route.Error
	if !errors.As(err, &syntax) || syntax.Line != 1 || syntax.Col != 14 || syntax.Offset != 13 {
		t.Errorf("no position in %v", err)
	}
	many := map[string]string{}
	for i := range 100 {
		many[fmt.Sprint("r", i)] = "x"
	}
	routes, _ := json.Marshal(many)
	_, err = route.ParseConfig(json.RawMessage(`{"schemaVersion":"1.0","routes":` + string(routes) + `}`))
	if !strings.HasSuffix(err.Error(), "; and 90 more") {
		t.Errorf("the text of many faults is not bounded: %v", err)
	}
}
