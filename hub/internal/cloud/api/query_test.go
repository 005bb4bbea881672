package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// fleet registers devices with tags; the first one is an edge device with a child.
func (s *server) fleet() {
	s.t.Helper()
	c, ctx := s.owner(), s.t.Context()
	edge := must[rest.Device](s.t)(c.PutDevice(ctx, rest.Device{DeviceID: "edge", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist))
	for i := range 5 {
		d := rest.Device{DeviceID: fmt.Sprintf("leaf-%d", i)}
		if i == 0 {
			d.DeviceScope = edge.DeviceScope
		}
		must[rest.Device](s.t)(c.PutDevice(ctx, d, rest.MustNotExist))
		patch := rest.TwinPatch{Tags: json.RawMessage(fmt.Sprintf(`{"floor":%d,"place":{"region":"%s"}}`, i, []string{"US", "EU"}[i%2]))}
		must[rest.Twin](s.t)(c.PatchTwin(ctx, iothub.DeviceIdentity(d.DeviceID), patch, ""))
	}
}

func (s *server) ask(text string, header ...string) (*http.Response, string) {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"query": text})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.call("POST", "/devices/query"+version, s.policyToken("service"), string(body), header...)
}

func TestQueries(t *testing.T) {
	s := start(t)
	s.fleet()
	edge := must[rest.Device](t)(s.owner().GetDevice(t.Context(), "edge"))
	for text, want := range map[string]string{
		"SELECT deviceId FROM devices WHERE tags.floor > 2":                                              `[{"deviceId":"leaf-3"},{"deviceId":"leaf-4"}]`,
		"SELECT deviceId FROM devices WHERE capabilities.iotEdge = true":                                 `[{"deviceId":"edge"}]`,
		"SELECT deviceId FROM devices WHERE array_contains(parentScopes, '" + edge.DeviceScope + "')":    `[{"deviceId":"leaf-0"}]`,
		"SELECT deviceId, moduleId FROM devices.modules":                                                 `[{"deviceId":"edge","moduleId":"$edgeAgent"},{"deviceId":"edge","moduleId":"$edgeHub"}]`,
		"SELECT moduleId FROM devices.modules WHERE connectionState = 'Connected'":                       `[]`,
		"SELECT tags.place.region AS r, COUNT() AS n FROM devices GROUP BY tags.place.region":            `[{"n":2,"r":"EU"},{"n":3,"r":"US"},{"n":1}]`,
		"SELECT properties.desired.$version AS v FROM devices WHERE DeviceId = 'leaf-1' AND version = 3": `[{"v":1}]`,
	} {
		resp, body := s.ask(text)
		if resp.StatusCode != http.StatusOK || body != want || resp.Header.Get("x-ms-item-type") != "Raw" || resp.Header["X-Ms-Continuation"] != nil {
			t.Errorf("%s\n got %d %v %s\nwant %s", text, resp.StatusCode, resp.Header, body, want)
		}
	}
}

func TestQueriesOfWholeTwinsGiveWhatTheirReadGives(t *testing.T) {
	s := start(t)
	s.fleet()
	resp, body := s.ask("SELECT * FROM devices WHERE deviceId = 'leaf-1'")
	var got []rest.Twin
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := must[rest.Twin](t)(s.owner().GetTwin(t.Context(), iothub.DeviceIdentity("leaf-1")))
	if resp.Header.Get("x-ms-item-type") != "Twin" || !reflect.DeepEqual(got, []rest.Twin{want}) {
		t.Errorf("%v\n got %+v\nwant %+v", resp.Header, got, want)
	}
}

func TestQueriesComeByPages(t *testing.T) {
	s := start(t)
	s.fleet()
	const text = "SELECT deviceId FROM devices WHERE is_defined(tags.floor)"
	var pages []string
	token := ""
	for range 10 {
		resp, body := s.ask(text, "x-ms-max-item-count", "2", "x-ms-continuation", token)
		if resp.StatusCode != http.StatusOK {
			t.Fatal(body)
		}
		pages = append(pages, body)
		if token = resp.Header.Get("x-ms-continuation"); token == "" {
			break
		}
		if len(pages) == 1 {
			if err := s.owner().DeleteDevice(t.Context(), "leaf-1", ""); err != nil { // the last of the first page
				t.Fatal(err)
			}
		}
	}
	want := `[{"deviceId":"leaf-0"},{"deviceId":"leaf-1"}]|[{"deviceId":"leaf-2"},{"deviceId":"leaf-3"}]|[{"deviceId":"leaf-4"}]`
	if got := strings.Join(pages, "|"); got != want {
		t.Errorf("got %s", got)
	}
	page, err := s.owner().Query(t.Context(), "SELECT * FROM devices.modules", 1, "")
	if err != nil || len(page.Rows) != 1 {
		t.Fatal(page, err)
	}
	last, err := s.owner().Query(t.Context(), "SELECT * FROM devices.modules", 1, page.Next)
	if err != nil || len(last.Rows) != 1 || last.Next != "" || !strings.Contains(string(last.Rows[0]), "$edgeHub") {
		t.Errorf("%s, %v", last.Rows, err)
	}
}

func TestQueriesThatAreRefused(t *testing.T) {
	s := start(t)
	s.fleet()
	for _, c := range []struct {
		text   string
		header []string
		status int
		code   string
		words  string
	}{
		{"SELECT * FROM devices WHERE tags.x =", nil, 400, "ArgumentInvalid", "line 1, column 37: expected a value"},
		{"", nil, 400, "ArgumentInvalid", "expected SELECT"},
		{"SELECT * FROM devices.jobs", nil, 501, "NotImplemented", "jobs"},
		{"SELECT * FROM devices", []string{"x-ms-max-item-count", "0"}, 400, "ArgumentInvalid", "x-ms-max-item-count"},
		{"SELECT * FROM devices", []string{"x-ms-max-item-count", "many"}, 400, "ArgumentInvalid", "x-ms-max-item-count"},
		{"SELECT * FROM devices", []string{"x-ms-continuation", "nonsense"}, 400, "ArgumentInvalid", "continuation"},
	} {
		resp, body := s.ask(c.text, c.header...)
		if resp.StatusCode != c.status || resp.Header.Get("iothub-errorcode") != c.code || !strings.Contains(body, c.words) || strings.Count(body, ";") != 1 {
			t.Errorf("%q: %d %s", c.text, resp.StatusCode, body)
		}
	}
	if resp, _ := s.ask("SELECT * FROM devices", "x-ms-max-item-count", "100000"); resp.StatusCode != http.StatusOK {
		t.Errorf("a page of more than there can be: %d", resp.StatusCode)
	}
	for policy, want := range map[string]int{access.Owner: 200, "service": 200, "registryRead": 200, "device": 401} {
		resp, body := s.call("POST", "/devices/query"+version, s.policyToken(policy), `{"query":"SELECT * FROM devices"}`)
		if resp.StatusCode != want {
			t.Errorf("%s: %d %s", policy, resp.StatusCode, body)
		}
	}
}
