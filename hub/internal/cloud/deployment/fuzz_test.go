package deployment_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// What is taken can be read again, and put on a device twice with the same result;
// what is not is a refusal.
func FuzzConfiguration(f *testing.F) {
	for _, content := range []string{
		base("x"),
		`{"temp":{"properties.desired.a.b":{"c":null},"properties.desired.a":[1],"properties.desired":{"a":{"d":1.50}}}}`,
		`{"$edgeHub":{"properties.desired.routes.r":null}}`,
		`{"a":{"properties.desired..x":1}}`,
	} {
		f.Add([]byte(`{"content":{"modulesContent":` + content + `},"targetCondition":"tags.place = 'hall'","priority":3,"labels":{"a":"b"},"metrics":{"queries":{"m":"select deviceId from devices"}}}`))
	}
	f.Add([]byte(`{"content":{"deviceContent":{}},"targetCondition":"*"}`))
	f.Add([]byte(`{"content":null,"priority":null}`))
	var doc map[string]any
	if err := json.Unmarshal([]byte(device), &doc); err != nil {
		f.Fatal(err)
	}
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, body []byte) {
		b := &bench{t: t, store: s}
		b.open()
		made, err := b.Put(context.Background(), "c", body, registry.Absent)
		if err != nil {
			if code(err) == "" {
				t.Fatalf("%s: %v", body, err)
			}
			return
		}
		defer func() {
			if err := b.Delete(context.Background(), "c", registry.Absent); err != nil {
				t.Fatal(err)
			}
		}()
		status, modules := b.outcome()
		b.open()
		again, err := b.Get("c")
		if err != nil || !sameDocument(t, again, made) {
			t.Fatalf("%s: %+v became %+v, %v", body, made, again, err)
		}
		b.expect(status, modules)
		for _, name := range b.For(doc).Manifest.Modules() {
			m := b.For(doc).Manifest
			once := m.Desired(name, nil)
			if twice := m.Desired(name, once); !sameDocument(t, once, twice) {
				t.Fatalf("%s: %v became %v", body, once, twice)
			}
		}
		if b.For(doc).Status["c"] == deployment.Applied && len(modules) == 0 {
			t.Fatalf("%s: nothing was applied", body)
		}
	})
}

func sameDocument(t *testing.T, a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	return bytes.Equal(x, y)
}
