package deployment_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// bench is a list whose clock goes on a second with each look.
type bench struct {
	*deployment.List
	t       *testing.T
	store   *store.Store
	changes int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b := &bench{t: t, store: s}
	b.open()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var err error
	b.List, err = deployment.Open(b.store, func() time.Time { at = at.Add(time.Second); return at }, func() { b.changes++ })
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) put(id, condition string, priority int, content string) {
	b.t.Helper()
	body := fmt.Sprintf(`{"id":%q,"targetCondition":%q,"priority":%d,"content":{"modulesContent":%s}}`, id, condition, priority, content)
	if _, err := b.Put(context.Background(), id, []byte(body), registry.Absent); err != nil {
		b.t.Fatal(err)
	}
}

// base is the content of a base deployment that is known by its mark.
func base(mark string) string {
	return fmt.Sprintf(`{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{},"systemModules":{},"mark":%q}},"$edgeHub":{"properties.desired":{"routes":{"r":%q}}},"temp":{"properties.desired":{"of":%q,"keep":1}}}`, mark, mark, mark)
}

const device = `{"deviceId":"e1","tags":{"place":"hall"},"capabilities":{"iotEdge":true}}`

// outcome says what is in force on the device: the status of each configuration, and
// the modules' desired properties.
func (b *bench) outcome() (status string, modules map[string]string) {
	b.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(device), &doc); err != nil {
		b.t.Fatal(err)
	}
	o := b.For(doc)
	var list []string
	for _, id := range slices.Sorted(maps.Keys(o.Status)) {
		list = append(list, id+" "+o.Status[id])
	}
	modules = map[string]string{}
	for _, name := range o.Manifest.Modules() {
		raw, err := json.Marshal(o.Manifest.Desired(name, map[string]any{"old": true}))
		if err != nil {
			b.t.Fatal(err)
		}
		modules[name] = string(raw)
	}
	if o.Applies != (len(modules) > 0) {
		b.t.Errorf("applies is %v with %d modules", o.Applies, len(modules))
	}
	return strings.Join(list, ", "), modules
}

func (b *bench) expect(status string, modules map[string]string) {
	b.t.Helper()
	got, has := b.outcome()
	if got != status {
		b.t.Errorf("status %s, want %s", got, status)
	}
	for name, want := range modules {
		if has[name] != want {
			b.t.Errorf("%s has %s, want %s", name, has[name], want)
		}
	}
}

func TestOutcomeOfBases(t *testing.T) {
	b := newBench(t)
	b.expect("", nil)
	b.put("elsewhere", "tags.place = 'yard'", 50, base("elsewhere"))
	b.put("nowhere", "", 60, base("nowhere"))
	b.expect("", nil)
	b.put("low", "tags.place = 'hall'", 1, base("low"))
	b.expect("low Applied", map[string]string{"temp": `{"keep":1,"of":"low"}`})
	b.put("high", "*", 2, base("high"))
	b.expect("high Applied, low Targeted", map[string]string{"temp": `{"keep":1,"of":"high"}`, "$edgeHub": `{"routes":{"r":"high"}}`})
	b.put("later", "deviceId = 'e1'", 2, base("later"))
	b.expect("high Targeted, later Applied, low Targeted", map[string]string{"temp": `{"keep":1,"of":"later"}`})
	if err := b.Delete(t.Context(), "later", registry.Absent); err != nil {
		t.Fatal(err)
	}
	b.expect("high Applied, low Targeted", map[string]string{"temp": `{"keep":1,"of":"high"}`})
}

func TestOutcomeOfLayers(t *testing.T) {
	b := newBench(t)
	b.put("alone", "*", 5, `{"$edgeAgent":{"properties.desired.modules.a":{"v":1}}}`)
	b.expect("alone Targeted", nil)
	b.put("base", "*", 3, base("base"))
	b.put("under", "*", 2, `{"temp":{"properties.desired.under":1}}`)
	b.put("routes", "*", 4, `{"$edgeHub":{"properties.desired.routes.extra":"R"},"temp":{"properties.desired.of":"routes","properties.desired.keep":null}}`)
	b.expect("alone Applied, base Applied, routes Applied, under Targeted", map[string]string{
		"$edgeAgent": `{"mark":"base","modules":{"a":{"v":1}},"runtime":{},"schemaVersion":"1.1","systemModules":{}}`,
		"$edgeHub":   `{"routes":{"extra":"R","r":"base"}}`,
		"temp":       `{"of":"routes"}`,
	})
	// What replaces all of a module, or a path above, leaves nothing of what is below.
	b.put("whole", "*", 6, `{"temp":{"properties.desired":{"whole":true}},"$edgeHub":{"properties.desired.routes":{"only":"R"}}}`)
	b.expect("alone Applied, base Applied, routes Targeted, under Targeted, whole Applied", map[string]string{
		"$edgeHub": `{"routes":{"only":"R"}}`,
		"temp":     `{"whole":true}`,
	})
}

func TestOutcomesShareNothing(t *testing.T) {
	b := newBench(t)
	b.put("base", "*", 1, base("base"))
	var doc map[string]any
	if err := json.Unmarshal([]byte(device), &doc); err != nil {
		t.Fatal(err)
	}
	first := b.For(doc).Manifest
	first.Desired("$edgeHub", nil)["routes"].(map[string]any)["r"] = "spoiled"
	b.expect("base Applied", map[string]string{"$edgeHub": `{"routes":{"r":"base"}}`})
}

func code(err error) registry.Code {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestChangesThatAreRefused(t *testing.T) {
	b := newBench(t)
	b.put("have", "*", 1, base("have"))
	content := `"content":{"modulesContent":` + base("have") + `}`
	for name, c := range map[string]struct {
		id, body, match string
		want            registry.Code
	}{
		"exists":              {"have", `{` + content + `}`, "", deployment.Exists},
		"is not there":        {"none", `{` + content + `}`, "*", deployment.NotFound},
		"another etag":        {"have", `{` + content + `}`, `"old"`, registry.PreconditionFailed},
		"other content":       {"have", `{"content":{"modulesContent":` + base("other") + `}}`, "*", deployment.ContentFixed},
		"no JSON":             {"new", `{`, "", registry.ArgumentInvalid},
		"other id":            {"new", `{"id":"x",` + content + `}`, "", registry.ArgumentInvalid},
		"capital letters":     {"New", `{` + content + `}`, "", registry.ArgumentInvalid},
		"brackets":            {"a]]b", `{` + content + `}`, "", registry.ArgumentInvalid},
		"too long":            {strings.Repeat("x", 129), `{` + content + `}`, "", registry.ArgumentInvalid},
		"priority below 0":    {"new", `{"priority":-1,` + content + `}`, "", registry.ArgumentInvalid},
		"no content":          {"new", `{"priority":1}`, "", deployment.InvalidContent},
		"null content":        {"new", `{"content":null}`, "", deployment.InvalidContent},
		"content no object":   {"new", `{"content":[1]}`, "", deployment.InvalidContent},
		"device content":      {"new", `{"content":{"deviceContent":{"properties.desired.x":1}}}`, "", deployment.InvalidContent},
		"more than is stored": {"new", `{"content":{"modulesContent":{"m":{"properties.desired.x":"` + strings.Repeat("x", store.MaxValue) + `"}}}}`, "", registry.ArgumentInvalid},
		"bad manifest":        {"new", `{"content":{"modulesContent":{"$edgeAgent":{"properties.desired":{}}}}}`, "", deployment.InvalidContent},
		"bad condition":       {"new", `{"targetCondition":"tags.x =",` + content + `}`, "", deployment.InvalidCondition},
		"modules' condition":  {"new", `{"targetCondition":"FROM devices.modules WHERE x = 1",` + content + `}`, "", deployment.InvalidCondition},
		"condition too long":  {"new", `{"targetCondition":"` + strings.Repeat("(", 40) + "deviceId = '" + strings.Repeat("x", 8060) + "'" + strings.Repeat(")", 40) + `",` + content + `}`, "", deployment.InvalidCondition},
		"bad metric":          {"new", `{"metrics":{"queries":{"m":"select"}},` + content + `}`, "", deployment.InvalidMetrics},
		"bad condition, have": {"have", `{"targetCondition":"("}`, "*", deployment.InvalidCondition},
	} {
		if _, err := b.Put(t.Context(), c.id, []byte(c.body), registry.ParseMatch(c.match)); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Delete(t.Context(), "none", registry.Absent); code(err) != deployment.NotFound {
		t.Error(err)
	}
	if err := b.Delete(t.Context(), "have", registry.ParseMatch(`"old"`)); code(err) != registry.PreconditionFailed {
		t.Error(err)
	}
	if b.changes != 1 || len(b.All(10)) != 1 {
		t.Errorf("%d changes, %d configurations", b.changes, len(b.All(10)))
	}
	for i := range deployment.Max - 1 {
		b.put(fmt.Sprintf("c%d", i), "", 0, base("c"))
	}
	if _, err := b.Put(t.Context(), "more", []byte(`{`+content+`}`), registry.Absent); code(err) != deployment.TooMany {
		t.Error(err)
	}
}

func TestUpdatesKeepTheContentAndOutliveARestart(t *testing.T) {
	b := newBench(t)
	b.put("c", "*", 1, base("c"))
	before, err := b.Get("c")
	if err != nil || before.Etag != "MQ==" {
		t.Fatal(before, err)
	}
	// As tools do it: the document that was read, changed.
	change := before
	change.Priority, change.Labels, change.TargetCondition = 7, map[string]string{"env": "dev"}, "tags.place = 'yard'"
	change.Metrics.Queries = map[string]string{"m": "select deviceId from devices"}
	body, err := json.Marshal(change)
	if err != nil {
		t.Fatal(err)
	}
	after, err := b.Put(t.Context(), "c", body, registry.ParseMatch(`"`+before.Etag+`"`))
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	stored, err := b.Get("c")
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []rest.Configuration{after, stored} {
		if got.Etag != "Mg==" || got.Priority != 7 || got.Labels["env"] != "dev" || !got.Created.Equal(before.Created.Time) || !got.Updated.After(before.Updated.Time) ||
			got.Metrics.Queries["m"] == "" || !strings.Contains(got.SystemMetrics.Queries["targetedCount"], "(tags.place = 'yard')") ||
			!strings.Contains(got.SystemMetrics.Queries["reportedFailedCount"], "configurations.[[c]].status = 'Applied' and ") {
			t.Errorf("%+v", got)
		}
	}
	b.expect("", nil)
}
