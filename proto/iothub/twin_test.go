package iothub_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"pgregory.net/rapid"
)

func TestMergePatch(t *testing.T) {
	tests := []struct{ name, doc, patch, want string }{
		{"adds and replaces", `{"a":1,"b":2}`, `{"b":3,"c":"x"}`, `{"a":1,"b":3,"c":"x"}`},
		{"null removes", `{"a":1,"b":{"c":1,"d":2}}`, `{"a":null,"b":{"c":null}}`, `{"b":{"d":2}}`},
		{"null for an absent member", `{"a":1}`, `{"b":null}`, `{"a":1}`},
		{"emptied object stays", `{"a":{"b":1}}`, `{"a":{"b":null}}`, `{"a":{}}`},
		{"object over scalar, nulls dropped", `{"a":1}`, `{"a":{"b":null,"c":{"d":null}}}`, `{"a":{"c":{}}}`},
		{"scalar over object", `{"a":{"b":1}}`, `{"a":false}`, `{"a":false}`},
		{"array is replaced as a whole", `{"a":[1,2,3]}`, `{"a":[{"b":1}]}`, `{"a":[{"b":1}]}`},
		{"hub members of the patch are ignored, of the section kept", `{"$version":4,"a":1}`, `{"$version":9,"$metadata":{"x":1},"a":2}`, `{"$version":4,"a":2}`},
		{"deeper names of the hub's are plain", `{}`, `{"a":{"$version":1}}`, `{"a":{"$version":1}}`},
		{"numbers keep their text", `{"a":1.50}`, `{"b":123456789012345678901,"c":1e3}`, `{"a":1.50,"b":123456789012345678901,"c":1e3}`},
		{"no section yet", ``, `{"a":"<&>"}`, `{"a":"<&>"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := iothub.MergePatch(json.RawMessage(tt.doc), json.RawMessage(tt.patch))
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestTwinFunctionsRefuseWhatIsNoObject(t *testing.T) {
	for _, bad := range []string{`null`, `[]`, `1`, `"x"`, `{`, `{"a":1} {}`, `{"a":1}x`} {
		raw, ok := json.RawMessage(bad), json.RawMessage(`{}`)
		if _, err := iothub.MergePatch(ok, raw); !errors.Is(err, iothub.ErrNotObject) {
			t.Errorf("patch %s: %v", bad, err)
		}
		if _, err := iothub.MergePatch(raw, ok); !errors.Is(err, iothub.ErrNotObject) {
			t.Errorf("section %s: %v", bad, err)
		}
		if _, err := iothub.DiffPatch(raw, ok); !errors.Is(err, iothub.ErrNotObject) {
			t.Errorf("diff from %s: %v", bad, err)
		}
		if _, err := iothub.WithVersion(raw, 1); !errors.Is(err, iothub.ErrNotObject) {
			t.Errorf("version of %s: %v", bad, err)
		}
	}
	if _, err := iothub.MergePatch(nil, nil); !errors.Is(err, iothub.ErrNotObject) {
		t.Errorf("empty patch: %v", err)
	}
}

func TestDiffPatch(t *testing.T) {
	tests := []struct{ name, from, to, want string }{
		{"equal", `{"a":{"b":[1]},"$version":1}`, `{"$version":7,"a":{"b":[1]}}`, `{}`},
		{"vanished, new, changed", `{"a":1,"b":2}`, `{"b":3,"c":4}`, `{"a":null,"b":3,"c":4}`},
		{"nested", `{"a":{"b":1,"c":2},"d":{"e":1}}`, `{"a":{"b":1}}`, `{"a":{"c":null},"d":null}`},
		{"scalar to object to scalar", `{"a":1,"b":{"c":1}}`, `{"a":{"x":1},"b":2}`, `{"a":{"x":1},"b":2}`},
		{"new empty object", `{}`, `{"a":{}}`, `{"a":{}}`},
		{"null counts as absent", `{"a":null,"b":1}`, `{"b":null}`, `{"b":null}`},
		{"from nothing", ``, `{"$version":3,"$metadata":{},"a":1}`, `{"a":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := iothub.DiffPatch(json.RawMessage(tt.from), json.RawMessage(tt.to))
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// section draws an object without null members, as a stored section is.
func section(depth int) *rapid.Generator[map[string]any] {
	value := []*rapid.Generator[any]{
		rapid.Int().AsAny(), rapid.Bool().AsAny(), rapid.String().AsAny(),
		rapid.SliceOfN(rapid.IntRange(0, 3), 0, 3).AsAny(),
	}
	if depth > 0 {
		value = append(value, rapid.Deferred(func() *rapid.Generator[any] { return section(depth - 1).AsAny() }))
	}
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "<d>"}), rapid.OneOf(value...), 0, 4)
}

func TestDiffPatchTurnsOneSectionIntoTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := encode(t, section(3).Draw(t, "from")), encode(t, section(3).Draw(t, "to"))
		patch, err := iothub.DiffPatch(from, to)
		if err != nil {
			t.Fatal(err)
		}
		got, err := iothub.MergePatch(from, patch)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, to) {
			t.Fatalf("%s + %s = %s, want %s", from, patch, got, to)
		}
		if bytes.Equal(from, to) != (string(patch) == "{}") {
			t.Fatalf("patch from %s to %s: %s", from, to, patch)
		}
	})
}

// encode writes v as MergePatch does, through the identity patch.
func encode(t *rapid.T, v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	b, err = iothub.MergePatch(b, json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVersion(t *testing.T) {
	tests := []struct {
		section string
		want    int64
		ok      bool
	}{
		{`{"$version":12,"a":1}`, 12, true},
		{`{"a":{"$version":12}}`, 0, false},
		{`{"$version":"12"}`, 0, false},
		{`{"$VERSION":12}`, 0, false},
		{`{}`, 0, false}, {``, 0, false}, {`[]`, 0, false},
	}
	for _, tt := range tests {
		if v, ok := iothub.Version(json.RawMessage(tt.section)); v != tt.want || ok != tt.ok {
			t.Errorf("Version(%s) = %d, %v", tt.section, v, ok)
		}
	}
	for section, want := range map[string]string{
		``: `{"$version":5}`, `{"b":"<", "$version":1}`: `{"$version":5,"b":"<"}`,
	} {
		if got, err := iothub.WithVersion(json.RawMessage(section), 5); err != nil || string(got) != want {
			t.Errorf("WithVersion(%s) = %s, %v", section, got, err)
		}
	}
}

func nested(levels int, inner string) string {
	return strings.Repeat(`{"a":`, levels) + inner + strings.Repeat(`}`, levels)
}

func TestCheckPatch(t *testing.T) {
	long := strings.Repeat("x", 4097)
	tests := []struct {
		name, patch, path string
		ok                bool
	}{
		{"empty", `{}`, "", true},
		{"all kinds", `{"a":1,"b":"x","c":null,"d":[1,[2],{"e":1}],"f":{"g":1.5e300}}`, "", true},
		{"hub members at the top", `{"$version":1,"$metadata":{"a b":1}}`, "", true},
		{"ten levels below the top", nested(11, `1`), "", true},
		{"eleven", nested(12, `1`), "a.a.a.a.a.a.a.a.a.a.a", false},
		{"objects in arrays are levels", nested(11, `[{}]`), "a.a.a.a.a.a.a.a.a.a.a[0]", false},
		{"largest integers", `{"a":4503599627370495,"b":-4503599627370496}`, "", true},
		{"too large", `{"a":4503599627370496}`, "a", false},
		{"too small", `{"a":[-4503599627370497]}`, "a[0]", false},
		{"beyond 64 bits", `{"a":99999999999999999999}`, "a", false},
		{"null in an array", `{"x":{"a":[1,null]}}`, "x.a[1]", false},
		{"longest string", `{"a":"` + long[1:] + `"}`, "", true},
		{"too long a string", `{"a":"` + long + `"}`, "a", false},
		{"too long a name", `{"` + long[:1025] + `":1}`, long[:64] + "...", false},
		{"dot", `{"a":{"b.c":1}}`, "a.b.c", false},
		{"dollar below the top", `{"a":{"$version":1}}`, "a.$version", false},
		{"other dollar at the top", `{"$x":1}`, "$x", false},
		{"hash", `{"a#":1}`, "a#", false},
		{"blank", `{"a b":1}`, "a b", false},
		{"control character", `{"\u0001":1}`, "\x01", false},
		{"no object", `[]`, "", false},
		{"too much", `{"a":["` + strings.Repeat(`xxxxxxxx","`, 3000) + `"]}`, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := iothub.CheckPatch(json.RawMessage(tt.patch))
			if tt.ok {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var invalid *iothub.ValidationError
			if !errors.As(err, &invalid) || invalid.Path != tt.path || invalid.Reason == "" {
				t.Errorf("error %#v; want path %q", err, tt.path)
			}
		})
	}
}

func FuzzTwinPatch(f *testing.F) {
	for _, s := range []string{`{"a":{"b":null}}`, `{"a":[{"b":[null]}],"$version":3}`, `{"a":1e5,"b":-0}`, `[`, `{"a":1}{}`} {
		f.Add(`{"a":{"c":1},"$version":1}`, s)
	}
	f.Fuzz(func(t *testing.T, doc, patch string) {
		d, p := json.RawMessage(doc), json.RawMessage(patch)
		_ = iothub.CheckPatch(p)
		merged, err := iothub.MergePatch(d, p)
		if err != nil {
			return
		}
		again, err := iothub.MergePatch(merged, p)
		if err != nil || !bytes.Equal(merged, again) {
			t.Fatalf("%s applied twice: %s, then %s, %v", patch, merged, again, err)
		}
		clean, err := iothub.MergePatch(nil, d)
		if err != nil {
			return
		}
		way, err := iothub.DiffPatch(clean, merged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := iothub.MergePatch(clean, way); err != nil {
			t.Fatal(err)
		}
	})
}
