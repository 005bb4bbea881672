package registry_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type bench struct {
	*registry.Registry
	t       *testing.T
	s       *store.Store
	twins   *twin.Store
	changes []registry.Change
}

func open(t *testing.T, dir string) *bench {
	t.Helper()
	s, err := store.Open(dir, store.Options{InMemory: dir == ""})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b := &bench{t: t, s: s, twins: twin.NewStore(s)}
	now := func() time.Time { return time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC) }
	b.Registry, err = registry.Open(s, b.twins, now, func(c []registry.Change) { b.changes = append(b.changes, c...) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) put(id, body string, m registry.Match) (rest.Device, error) {
	c, err := registry.ParseDevice(id, []byte(strings.Replace(body, "{", `{"deviceId":"`+id+`",`, 1)))
	if err != nil {
		return rest.Device{}, err
	}
	return b.PutDevice(b.t.Context(), c, m)
}

func (b *bench) must(id, body string, m registry.Match) rest.Device {
	b.t.Helper()
	d, err := b.put(id, body, m)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bench) putModule(id iothub.Identity, body string, m registry.Match) (rest.Module, error) {
	c, err := registry.ParseModule(id, []byte(body))
	if err != nil {
		return rest.Module{}, err
	}
	return b.PutModule(b.t.Context(), c, m)
}

func code(err error) registry.Code {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return registry.Code("not a refusal: " + err.Error())
	}
	return ""
}

const (
	leaf = `{"status":"enabled"}`
	edge = `{"capabilities":{"iotEdge":true}}`
)

func TestPutFollowsIfMatch(t *testing.T) {
	tests := map[string]struct {
		exists bool
		match  string
		want   registry.Code
	}{
		"create":                     {false, "", ""},
		"create what exists":         {true, "", registry.DeviceAlreadyExists},
		"empty etag is none":         {true, `""`, registry.DeviceAlreadyExists},
		"update any":                 {true, "*", ""},
		"update quoted any":          {true, `"*"`, ""},
		"update any that is missing": {false, "*", registry.DeviceNotFound},
		"update by etag":             {true, "ETAG", ""},
		"update by quoted etag":      {true, `"ETAG"`, ""},
		"update by weak etag":        {true, `W/"ETAG"`, ""},
		"update by stale etag":       {true, `"Nzk1MjE0NjM2"`, registry.PreconditionFailed},
		"etag of what is missing":    {false, `"Nzk1MjE0NjM2"`, registry.DeviceNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := open(t, "")
			var before rest.Device
			if tt.exists {
				before = b.must("d", leaf, registry.Absent)
			}
			after, err := b.put("d", leaf, registry.ParseMatch(strings.ReplaceAll(tt.match, "ETAG", before.Etag)))
			if code(err) != tt.want {
				t.Fatalf("%v", err)
			}
			if err == nil && (after.Etag == before.Etag || tt.exists && after.GenerationID != before.GenerationID) {
				t.Errorf("before %+v, after %+v", before, after)
			}
		})
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	b := open(t, "")
	for body, want := range map[string]registry.Code{
		`[]`:                                registry.ArgumentInvalid,
		`{}`:                                registry.ArgumentInvalid,
		`{"deviceId":"other"}`:              registry.ArgumentInvalid,
		`{"deviceId":"d","status":"maybe"}`: registry.ArgumentInvalid,
		`{"deviceId":"d","statusReason":"` + strings.Repeat("x", 129) + `"}`:                                                    registry.ArgumentInvalid,
		`{"deviceId":"d","deviceScope":5}`:                                                                                      registry.ArgumentInvalid,
		`{"deviceId":"d","parentScopes":"x"}`:                                                                                   registry.ArgumentInvalid,
		`{"deviceId":"d","authentication":{"type":"magic"}}`:                                                                    registry.ArgumentInvalid,
		`{"deviceId":"d","authentication":{"type":"sas","symmetricKey":{"primaryKey":"short"}}}`:                                registry.ArgumentInvalid,
		`{"deviceId":"d","authentication":{"type":"sas","symmetricKey":{"primaryKey":"c2hvcnQ="}}}`:                             registry.ArgumentInvalid,
		`{"deviceId":"d","authentication":{"type":"selfSigned"}}`:                                                               registry.ArgumentInvalid,
		`{"deviceId":"d","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"AB"}}}`:                   registry.ArgumentInvalid,
		`{"deviceId":"d","deviceScope":"ms-azure-iot-edge://none-1"}`:                                                           registry.InvalidDeviceScope,
		`{"deviceId":"d","capabilities":{"iotEdge":true},"parentScopes":["ms-azure-iot-edge://a-1","ms-azure-iot-edge://b-1"]}`: registry.InvalidDeviceScope,
	} {
		c, err := registry.ParseDevice("d", []byte(body))
		if err == nil {
			_, err = b.PutDevice(t.Context(), c, registry.Absent)
		}
		if code(err) != want {
			t.Errorf("%.80s: %v, want %s", body, err, want)
		}
	}
	if _, err := registry.ParseDevice("a/b", []byte(`{"deviceId":"a/b"}`)); code(err) != registry.ArgumentInvalid {
		t.Errorf("id with a slash: %v", err)
	}
}

func TestAuthenticationIsCompleted(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))
	thumb := strings.Repeat("ab", 20)
	tests := map[string]struct {
		body string
		want func(a *rest.Authentication) bool
	}{
		"none given": {`{}`, func(a *rest.Authentication) bool { return a.Type == "sas" && twoKeys(a) }},
		"empty keys": {`{"authentication":{"symmetricKey":{"primaryKey":"","secondaryKey":""}}}`, func(a *rest.Authentication) bool { return a.Type == "sas" && twoKeys(a) }},
		"one key": {`{"authentication":{"type":"SAS","symmetricKey":{"primaryKey":"` + key + `"}}}`, func(a *rest.Authentication) bool {
			return a.Type == "sas" && a.SymmetricKey.PrimaryKey.Reveal() == key && a.SymmetricKey.SecondaryKey != ""
		}},
		"thumbprint without type": {`{"authentication":{"x509Thumbprint":{"primaryThumbprint":"` + thumb[:2] + ":" + thumb[2:] + `"}}}`, func(a *rest.Authentication) bool {
			return a.Type == "selfSigned" && string(a.X509Thumbprint.PrimaryThumbprint) == strings.ToUpper(thumb) && a.SymmetricKey.PrimaryKey == ""
		}},
		"certificate authority": {`{"authentication":{"type":"certificateAuthority"}}`, func(a *rest.Authentication) bool { return a.Type == "certificateAuthority" }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := open(t, "")
			c, err := registry.ParseDevice("d", []byte(strings.Replace(strings.Replace(tt.body, "{", `{"deviceId":"d",`, 1), ",}", "}", 1)))
			if err != nil {
				t.Fatal(err)
			}
			d, err := b.PutDevice(t.Context(), c, registry.Absent)
			if err != nil || !tt.want(d.Authentication) {
				t.Errorf("type %s, %v", d.Authentication.Type, err)
			}
		})
	}
}

func twoKeys(a *rest.Authentication) bool {
	return len(a.SymmetricKey.PrimaryKey) == 44 && len(a.SymmetricKey.SecondaryKey) == 44 && a.SymmetricKey.PrimaryKey != a.SymmetricKey.SecondaryKey
}

func TestUpdateWithoutAuthenticationKeepsKeys(t *testing.T) {
	b := open(t, "")
	before := b.must("d", leaf, registry.Absent)
	after := b.must("d", `{"status":"Disabled","statusReason":"lost"}`, registry.Any)
	if *after.Authentication != *before.Authentication || after.Status != "disabled" || after.StatusReason != "lost" {
		t.Errorf("%+v", after)
	}
	if after.StatusUpdatedTime.IsZero() || !before.StatusUpdatedTime.IsZero() {
		t.Errorf("status times %v, %v", before.StatusUpdatedTime, after.StatusUpdatedTime)
	}
}

func TestEdgeDeviceGetsScopeAndSystemModules(t *testing.T) {
	b := open(t, "")
	d := b.must("e", edge, registry.Absent)
	if d.DeviceScope != "ms-azure-iot-edge://e-"+d.GenerationID || len(d.GenerationID) != 18 {
		t.Errorf("scope %s, generation %s", d.DeviceScope, d.GenerationID)
	}
	list, err := b.Modules("e")
	if err != nil || len(list) != 2 || list[0].ModuleID != "$edgeAgent" || list[1].ModuleID != "$edgeHub" {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, m := range list {
		if m.Authentication.Type != "none" || m.ManagedBy != "iotEdge" {
			t.Errorf("%+v", m)
		}
		if _, err := b.twins.Get(iothub.ModuleIdentity("e", m.ModuleID)); err != nil {
			t.Errorf("twin of %s: %v", m.ModuleID, err)
		}
	}
	if err := b.DeleteModule(t.Context(), iothub.ModuleIdentity("e", "$edgeHub"), registry.Any); code(err) != registry.SystemModuleReserved {
		t.Errorf("system module deleted: %v", err)
	}
	b.must("leaf", `{"deviceScope":"`+d.DeviceScope+`"}`, registry.Absent)
	if _, err := b.put("e", `{"capabilities":{"iotEdge":false}}`, registry.Any); code(err) != registry.InvalidOperation {
		t.Errorf("edge device with a child became a leaf: %v", err)
	}
	b.must("leaf", `{"deviceScope":""}`, registry.Any)
	d = b.must("e", `{"capabilities":{"iotEdge":false}}`, registry.Any)
	if list, err := b.Modules("e"); err != nil || len(list) != 0 || d.DeviceScope != "" {
		t.Errorf("%d modules left, scope %q, %v", len(list), d.DeviceScope, err)
	}
}

func TestModules(t *testing.T) {
	b := open(t, "")
	id := iothub.ModuleIdentity("e", "m")
	if _, err := b.putModule(id, `{}`, registry.Absent); code(err) != registry.DeviceNotFound {
		t.Errorf("on no device: %v", err)
	}
	b.must("e", edge, registry.Absent)
	if _, err := b.putModule(id, `{}`, registry.Any); code(err) != registry.ModuleNotFound {
		t.Errorf("update of nothing: %v", err)
	}
	created, err := b.putModule(id, `{"moduleId":"m","deviceId":"e","managedBy":"IotEdge"}`, registry.Absent)
	if err != nil || !twoKeys(created.Authentication) {
		t.Fatalf("%+v, %v", created, err)
	}
	if _, err := b.putModule(id, `{}`, registry.Absent); code(err) != registry.ModuleAlreadyExists {
		t.Errorf("created twice: %v", err)
	}
	// The identity service's second PUT: new keys, no managedBy.
	key := registry.NewKey()
	updated, err := b.putModule(id, `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"`+key+`","secondaryKey":"`+key+`"}}}`, registry.Any)
	if err != nil || updated.GenerationID != created.GenerationID || updated.ManagedBy != "IotEdge" || updated.Authentication.SymmetricKey.PrimaryKey.Reveal() != key {
		t.Errorf("%+v, %v", updated, err)
	}
	for _, body := range []string{`[]`, `{"moduleId":"x"}`, `{"deviceId":"x"}`, `{"managedBy":"` + strings.Repeat("x", 129) + `"}`} {
		if _, err := b.putModule(id, body, registry.Any); code(err) != registry.ArgumentInvalid {
			t.Errorf("%.30s: %v", body, err)
		}
	}
	b.must("plain", leaf, registry.Absent)
	if _, err := b.putModule(iothub.ModuleIdentity("plain", "$edgeHub"), `{}`, registry.Absent); code(err) != registry.InvalidOperation {
		t.Errorf("system module made by a client: %v", err)
	}
	if err := b.DeleteModule(t.Context(), id, registry.ParseMatch(`"x"`)); code(err) != registry.PreconditionFailed {
		t.Errorf("deleted with a stale etag: %v", err)
	}
	if err := b.DeleteModule(t.Context(), id, registry.Absent); err != nil {
		t.Error(err)
	}
	if _, err := b.twins.Get(id); !errors.Is(err, twin.ErrNotFound) {
		t.Errorf("twin left: %v", err)
	}
	for i := range registry.MaxModules {
		if _, err := b.putModule(iothub.ModuleIdentity("e", fmt.Sprint("m", i)), `{}`, registry.Absent); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.putModule(id, `{}`, registry.Absent); code(err) != registry.TooManyModules {
		t.Errorf("one too many: %v", err)
	}
	if err := b.EnsureModules(t.Context(), "e", []string{"m1", "extra"}); code(err) != registry.TooManyModules {
		t.Errorf("one too many by a manifest: %v", err)
	}
}

func TestParentAndChild(t *testing.T) {
	b := open(t, "")
	top := b.must("top", edge, registry.Absent)
	mid := b.must("mid", `{"capabilities":{"iotEdge":true},"parentScopes":["`+top.DeviceScope+`"]}`, registry.Absent)
	if mid.DeviceScope == top.DeviceScope || len(mid.ParentScopes) != 1 || mid.ParentScopes[0] != top.DeviceScope {
		t.Fatalf("%+v", mid)
	}
	// A stale parentScopes beside a new deviceScope, as the CLI sends.
	l := b.must("leaf", `{"deviceScope":"`+mid.DeviceScope+`","parentScopes":["`+top.DeviceScope+`"]}`, registry.Absent)
	if l.DeviceScope != mid.DeviceScope || len(l.ParentScopes) != 1 || l.ParentScopes[0] != mid.DeviceScope {
		t.Fatalf("%+v", l)
	}
	if _, err := b.putModule(iothub.ModuleIdentity("leaf", "m"), `{}`, registry.Absent); err != nil {
		t.Fatal(err)
	}
	chain, err := b.Chain(iothub.ModuleIdentity("leaf", "m"))
	if err != nil || strings.Join(chain, ";") != "leaf/m;leaf;mid;top" {
		t.Errorf("%v, %v", chain, err)
	}
	last := b.changes[len(b.changes)-1]
	if last.ID != iothub.ModuleIdentity("leaf", "m") || strings.Join(last.Scopes, " ") != "mid top" {
		t.Errorf("told %+v", last)
	}
	if _, err := b.put("top", `{"parentScopes":["`+mid.DeviceScope+`"]}`, registry.Any); code(err) != registry.InvalidDeviceScope {
		t.Errorf("loop: %v", err)
	}
	if _, err := b.put("top", `{"parentScopes":["`+top.DeviceScope+`"]}`, registry.Any); code(err) != registry.InvalidDeviceScope {
		t.Errorf("own parent: %v", err)
	}
	kept := b.must("leaf", leaf, registry.Any)
	if kept.DeviceScope != mid.DeviceScope {
		t.Errorf("parent lost: %+v", kept)
	}
	members, err := b.ScopeMembers("mid")
	if err != nil || len(members) != 2 || members[0].DeviceID != "mid" || members[1].DeviceID != "leaf" {
		t.Errorf("%+v, %v", members, err)
	}
	if err := b.DeleteDevice(t.Context(), "mid", registry.Any); err != nil {
		t.Fatal(err)
	}
	if l, err = b.Device("leaf"); err != nil || l.DeviceScope != "" || len(l.ParentScopes) != 0 {
		t.Errorf("orphan %+v, %v", l, err)
	}
	again := b.must("mid", edge, registry.Absent)
	if again.GenerationID <= mid.GenerationID {
		t.Errorf("generation %s after %s", again.GenerationID, mid.GenerationID)
	}
	if _, err := b.put("leaf", `{"deviceScope":"`+mid.DeviceScope+`"}`, registry.Any); code(err) != registry.InvalidDeviceScope {
		t.Errorf("scope of the deleted parent taken: %v", err)
	}
}

func TestNestingHasFiveLevels(t *testing.T) {
	b := open(t, "")
	scope := ""
	var second rest.Device
	for i := range 5 {
		body := edge
		if scope != "" {
			body = `{"capabilities":{"iotEdge":true},"parentScopes":["` + scope + `"]}`
		}
		d := b.must(fmt.Sprint("e", i), body, registry.Absent)
		if scope = d.DeviceScope; i == 1 {
			second = d
		}
	}
	if _, err := b.put("e5", `{"capabilities":{"iotEdge":true},"parentScopes":["`+scope+`"]}`, registry.Absent); code(err) != registry.InvalidDeviceScope {
		t.Errorf("sixth level: %v", err)
	}
	b.must("leaf", `{"deviceScope":"`+scope+`"}`, registry.Absent)
	b.must("e1", `{"parentScopes":[]}`, registry.Any)
	b.must("x", edge, registry.Absent)
	x := b.must("y", edge, registry.Absent)
	b.must("y", `{"parentScopes":["`+b.must("x", leaf, registry.Any).DeviceScope+`"]}`, registry.Any)
	if _, err := b.put("e1", `{"parentScopes":["`+x.DeviceScope+`"]}`, registry.Any); code(err) != registry.InvalidDeviceScope {
		t.Errorf("a tree of four below a second level: %v (%s)", err, second.DeviceID)
	}
}

func TestAnEdgeDeviceHasAHundredChildrenUnlessMoreAreAllowed(t *testing.T) {
	b := open(t, t.TempDir())
	top := b.must("top", `{"capabilities":{"iotEdge":true}}`, registry.Absent)
	child := func(i int) error {
		_, err := b.put(fmt.Sprint("child", i), `{"deviceScope":"`+top.DeviceScope+`"}`, registry.Absent)
		return err
	}
	for i := range 100 {
		if err := child(i); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := child(100); code(err) != registry.InvalidDeviceScope {
		t.Errorf("one more: %v", err)
	}
	b.SetMaxChildren(0) // means the same
	if err := child(100); code(err) != registry.InvalidDeviceScope {
		t.Errorf("one more: %v", err)
	}
	b.SetMaxChildren(101)
	if err := child(100); err != nil {
		t.Error(err)
	}
	if err := child(101); code(err) != registry.InvalidDeviceScope {
		t.Errorf("two more: %v", err)
	}
}

func TestEverythingIsThereAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	b := open(t, dir)
	e := b.must("e", edge, registry.Absent)
	l := b.must("leaf", `{"deviceScope":"`+e.DeviceScope+`"}`, registry.Absent)
	b.must("gone", edge, registry.Absent)
	if err := b.DeleteDevice(t.Context(), "gone", registry.Any); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureModules(t.Context(), "e", []string{"m"}); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	got, err := b.Device("leaf")
	if err != nil || got.Etag != l.Etag || *got.Authentication != *l.Authentication || got.DeviceScope != e.DeviceScope {
		t.Errorf("%+v, %v", got, err)
	}
	list, err := b.Modules("e")
	if err != nil || len(list) != 3 {
		t.Errorf("%d modules, %v", len(list), err)
	}
	if s := b.Statistics(); s.Total != 2 {
		t.Errorf("%+v", s)
	}
	if members, err := b.ScopeMembers("e"); err != nil || len(members) != 2 {
		t.Errorf("%d members, %v", len(members), err)
	}
	if d := b.must("gone", edge, registry.Absent); d.GenerationID <= e.GenerationID {
		t.Errorf("generation %s is not new", d.GenerationID)
	}
}

func TestReturnedDocumentsAreTheCallers(t *testing.T) {
	b := open(t, "")
	d := b.must("d", leaf, registry.Absent)
	if d.ParentScopes == nil {
		t.Error("parentScopes would be left out")
	}
	d.Authentication.Type, d.Capabilities.IoTEdge = "none", true
	if got, err := b.Device("d"); err != nil || got.Authentication.Type != "sas" || got.IsEdge() {
		t.Errorf("changed from outside: %+v", got)
	}
}

func FuzzParseDevice(f *testing.F) {
	f.Add([]byte(`{"deviceId":"d","authentication":{"type":"sas"},"parentScopes":[],"deviceScope":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := registry.ParseDevice("d", body)
		if err != nil && code(err) != registry.ArgumentInvalid {
			t.Error(err)
		}
		if _, err := registry.ParseModule(iothub.ModuleIdentity("d", "m"), body); err != nil && code(err) != registry.ArgumentInvalid {
			t.Error(err)
		}
	})
}
