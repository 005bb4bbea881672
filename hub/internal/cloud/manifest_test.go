package cloud_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func (b *bench) apply(body string) error {
	m, err := deployment.ParseManifest([]byte(body))
	if err != nil {
		return err
	}
	return b.Apply(b.t.Context(), "edge", m)
}

func (b *bench) desired(module string) string {
	b.t.Helper()
	p, err := b.Twin(iothub.ModuleIdentity("edge", module))
	if err != nil {
		b.t.Fatal(err)
	}
	raw := string(p.Properties.Desired)
	// Only what the manifest said, without metadata.
	var out []string
	c, err := twin.ParseChange([]byte(`{"properties":{"desired":` + raw + `}}`))
	if err != nil {
		b.t.Fatal(err)
	}
	for k, v := range c.Desired {
		out = append(out, k+"="+strings.TrimSpace(jsonText(b.t, v)))
	}
	return strings.Join(sorted(out), " ")
}

const agent = `"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{"type":"docker"},"systemModules":{},"modules":{"a":{"v":1}}}}`

func TestManifestMakesModulesAndReplacesDesired(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	if err := b.apply(`{"modulesContent":{` + agent + `,"temp":{"properties.desired":{"a":1,"b":{"c":2}}}}}`); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		list, err := b.Registry().Modules("edge")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if count() != 3 {
		t.Errorf("%d modules", count())
	}
	m, err := b.Registry().Module(iothub.ModuleIdentity("edge", "temp"))
	if err != nil || m.Authentication.Type != "none" || m.ManagedBy != "IotEdge" {
		t.Errorf("%+v, %v", m, err)
	}
	// Another module; temp is not named and stays.
	if err := b.apply(`{"content":{"modulesContent":{"filter":{"properties.desired":{"x":1}}}}}`); err != nil {
		t.Fatal(err)
	}
	if count() != 4 || b.desired("temp") != `a=1 b={"c":2}` {
		t.Errorf("%d modules, temp %s", count(), b.desired("temp"))
	}
	// Paths set only what they name; a full section replaces.
	if err := b.apply(`{"modulesContent":{"temp":{"properties.desired.b.d":3,"properties.desired.e":null},"$edgeAgent":{"properties.desired.modules.b":{"v":2}},"filter":{"properties.desired":{"y":2}}}}`); err != nil {
		t.Fatal(err)
	}
	if got := b.desired("temp"); got != `a=1 b={"c":2,"d":3}` {
		t.Errorf("temp %s", got)
	}
	if got := b.desired("filter"); got != `y=2` {
		t.Errorf("filter %s", got)
	}
	// To take away what is not there changes nothing, not even on the way there.
	if err := b.apply(`{"modulesContent":{"temp":{"properties.desired.none.x":null,"properties.desired.a.x":null}}}`); err != nil {
		t.Fatal(err)
	}
	if got := b.desired("temp"); got != `a=1 b={"c":2,"d":3}` {
		t.Errorf("temp %s", got)
	}
	if got := b.desired("$edgeAgent"); !strings.Contains(got, `modules={"a":{"v":1},"b":{"v":2}}`) {
		t.Errorf("agent %s", got)
	}
}

func TestEqualManifestChangesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	body := `{"modulesContent":{` + agent + `}}`
	for range 2 {
		if err := b.apply(body); err != nil {
			t.Fatal(err)
		}
	}
	tw, err := b.Twin(iothub.ModuleIdentity("edge", "$edgeAgent"))
	if err != nil || !strings.Contains(string(tw.Properties.Desired), `"$version":2`) {
		t.Errorf("%s, %v", tw.Properties.Desired, err)
	}
}

func TestRemovedModuleIsToldAsNull(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	if err := b.apply(`{"modulesContent":{` + agent + `}}`); err != nil {
		t.Fatal(err)
	}
	f := newFake()
	hub := iothub.ModuleIdentity("edge", "$edgeHub")
	b.connect(hub, f, head.DesiredChanges)
	for _, body := range []string{`{"routes":{"r1":"x","r2":"y"}}`, `{"routes":{"r2":"y"}}`} {
		if err := b.apply(`{"modulesContent":{"$edgeHub":{"properties.desired":` + body + `}}}`); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, f.patches, "the first patch")
	if got := receive(t, f.patches, "the second patch"); got != `3 {"$version":3,"routes":{"r1":null,"r2":"y"}}` {
		t.Errorf("told %s", got)
	}
}

func TestRefusedManifests(t *testing.T) {
	tests := map[string]struct {
		body string
		want registry.Code
	}{
		"not JSON":              {`{`, deployment.InvalidContent},
		"empty":                 {`{}`, deployment.InvalidContent},
		"no modules":            {`{"modulesContent":{}}`, deployment.InvalidContent},
		"module name":           {`{"modulesContent":{"a/b":{"properties.desired":{}}}}`, deployment.InvalidContent},
		"other key":             {`{"modulesContent":{"a":{"properties.reported":{}}}}`, deployment.InvalidContent},
		"empty path":            {`{"modulesContent":{"a":{"properties.desired.":{}}}}`, deployment.InvalidContent},
		"hole in the path":      {`{"modulesContent":{"a":{"properties.desired.x..y":{}}}}`, deployment.InvalidContent},
		"desired not an object": {`{"modulesContent":{"a":{"properties.desired":1}}}`, deployment.InvalidContent},
		"agent incomplete":      {`{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.0"}}}}`, deployment.InvalidContent},
		"not an edge device":    {`{"modulesContent":{"a":{"properties.desired":{}}}}`, registry.InvalidOperation},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.device(registry.DeviceChange{DeviceID: "edge"})
			var refusal *registry.Error
			if err := b.apply(tt.body); !errors.As(err, &refusal) || refusal.Code != tt.want {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOneBadModuleLeavesAllAsTheyWere(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	err := b.apply(`{"modulesContent":{"a":{"properties.desired":{"x":1}},"b":{"properties.desired":{"bad key":1}}}}`)
	if !errors.As(err, new(*twin.InvalidError)) {
		t.Fatal(err)
	}
	if list, err := b.Registry().Modules("edge"); err != nil || len(list) != 2 {
		t.Errorf("%d modules, %v", len(list), err)
	}
}

// Empty objects count nothing towards what a section may have, and their metadata does not
// either; but the disk takes no twin of any size.
func TestModuleThatIsTooLargeForTheDiskLeavesAllAsTheyWere(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	var many []string
	for i := range 9000 {
		many = append(many, fmt.Sprintf(`"%x":{}`, i))
	}
	body := "{" + strings.Join(many, ",") + "}"
	err := b.apply(`{"modulesContent":{"a":{"properties.desired":{"x":1}},"b":{"properties.desired":` + body + `}}}`)
	if !errors.Is(err, twin.ErrTooLarge) {
		t.Error(err)
	}
	if list, err := b.Registry().Modules("edge"); err != nil || len(list) != 2 {
		t.Errorf("%d modules, %v", len(list), err)
	}
	s := b.connect(iothub.DeviceIdentity("edge"), newFake())
	if _, err := s.PatchReported(t.Context(), json.RawMessage(body), 0); !errors.Is(err, head.ErrTooLarge) {
		t.Errorf("reported: %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"modulesContent":{` + agent + `,"m":{"properties.desired.x.y":[1,null]}}}`))
	f.Add([]byte(`{"content":{"modulesContent":{"m":{"properties.desired":{}}}}}`))
	if raw, err := os.ReadFile("../../../deploy/manifests/development.json"); err == nil {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := deployment.ParseManifest(body)
		var refusal *registry.Error
		if err != nil && !errors.As(err, &refusal) {
			t.Error(err)
		}
	})
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
