package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

const baseContent = `{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{},"systemModules":{}}}}}`

func TestConfigurations(t *testing.T) {
	s := start(t)
	s.fleet()
	c, ctx := s.owner(), t.Context()
	made := must[rest.Configuration](t)(c.PutConfiguration(ctx, rest.Configuration{ID: "base", SchemaVersion: "2.0", Content: json.RawMessage(baseContent),
		TargetCondition: "deviceId = 'edge'", Priority: 3, Metrics: rest.ConfigurationMetrics{Queries: map[string]string{
			"floors": "select deviceId from devices where is_defined(tags.floor)"}}}, rest.MustNotExist))
	if made.Metrics.Results["floors"] != 5 || made.SystemMetrics.Results["targetedCount"] != 1 || len(made.SystemMetrics.Results) != 4 ||
		made.SystemMetrics.Queries["targetedCount"] != "select deviceId from devices where capabilities.iotEdge = true and (deviceId = 'edge')" {
		t.Errorf("%+v", made)
	}
	if list := must[[]rest.Configuration](t)(c.ListConfigurations(ctx)); len(list) != 1 || list[0].ID != "base" || list[0].Metrics.Results["floors"] != 5 {
		t.Errorf("%+v", list)
	}
	made.Content, made.TargetCondition = nil, ""
	changed := must[rest.Configuration](t)(c.PutConfiguration(ctx, made, made.Etag))
	if changed.SystemMetrics.Results["targetedCount"] != 0 || changed.SystemMetrics.Queries["targetedCount"] != "" || string(changed.Content) != baseContent {
		t.Errorf("%+v", changed)
	}
	if err := c.DeleteConfiguration(ctx, "base"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetConfiguration(ctx, "base"); rest.StatusOf(err) != http.StatusNotFound {
		t.Error(err)
	}
}

func TestConfigurationsOverHTTP(t *testing.T) {
	s := start(t)
	owner := s.policyToken(access.Owner)
	for _, c := range []struct {
		method, path, body, match string
		status                    int
		code                      string
	}{
		{"GET", "/configurations/none", "", "", 404, "ConfigurationNotFound"},
		{"PUT", "/configurations/c", `{"content":` + baseContent + `}`, `"*"`, 404, "ConfigurationNotFound"},
		{"PUT", "/configurations/c", `{"content":` + baseContent + `}`, "", 200, ""},
		{"PUT", "/configurations/c", `{"content":` + baseContent + `}`, "", 409, "ConfigurationAlreadyExists"},
		{"PUT", "/configurations/c", `{}`, `"old"`, 412, "PreconditionFailed"},
		{"PUT", "/configurations/c", `{"content":{"modulesContent":{"m":{"properties.desired":{}}}}}`, "*", 400, "CannotModifyImmutableConfigurationContent"},
		{"PUT", "/configurations/d", `{"content":{}}`, "", 400, "InvalidConfigurationContent"},
		{"PUT", "/configurations/d", `{"targetCondition":"=","content":` + baseContent + `}`, "", 400, "InvalidConfigurationTargetCondition"},
		{"PUT", "/configurations/d", `{"metrics":{"queries":{"m":"x"}},"content":` + baseContent + `}`, "", 400, "InvalidConfigurationCustomMetricsQuery"},
		{"GET", "/configurations", "", "", 200, ""},
		{"DELETE", "/configurations/c", "", "", 204, ""},
		{"DELETE", "/configurations/c", "", "", 404, "ConfigurationNotFound"},
		{"POST", "/configurations", "", "", 405, "GenericMethodNotAllowed"},
	} {
		var header []string
		if c.match != "" {
			header = []string{"If-Match", c.match}
		}
		resp, body := s.call(c.method, c.path+version, owner, c.body, header...)
		if resp.StatusCode != c.status || resp.Header.Get("iothub-errorcode") != c.code {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
		if c.method == "PUT" && c.status == 200 && (resp.Header.Get("ETag") != `"MQ=="` || !strings.Contains(body, `"contentType":null`) || !strings.Contains(body, `"labels":{}`)) {
			t.Errorf("%v %s", resp.Header, body)
		}
	}
	resp, body := s.call("GET", "/configurations"+version+"&top=0", owner, "")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	for policy, want := range map[string]int{access.Owner: 200, "service": 200, "registryReadWrite": 200, "registryRead": 200, "device": 401} {
		if resp, body := s.call("GET", "/configurations"+version, s.policyToken(policy), ""); resp.StatusCode != want {
			t.Errorf("%s: %d %s", policy, resp.StatusCode, body)
		}
	}
	if resp, body := s.call("DELETE", "/configurations/c"+version, s.policyToken("registryRead"), ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestQueriesCanBeTested(t *testing.T) {
	s := start(t)
	resp, body := s.call("POST", "/configurations/testQueries"+version, s.policyToken("service"),
		`{"targetCondition":"tags.x = 'y'","customMetricQueries":{"good":"select deviceId from devices","bad":"select"}}`)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, `{"targetConditionError":null,"customMetricQueryErrors":{"bad":"line 1, column 7:`) || strings.Contains(body, "good") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if _, body := s.call("POST", "/configurations/testQueries"+version, s.policyToken("service"), `{"targetCondition":"tags.x"}`); body != `{"targetConditionError":null,"customMetricQueryErrors":{}}` {
		t.Error(body)
	}
	if _, body := s.call("POST", "/configurations/testQueries"+version, s.policyToken("service"), `{"targetCondition":"tags.x ="}`); !strings.Contains(body, "column 9") {
		t.Error(body)
	}
}
