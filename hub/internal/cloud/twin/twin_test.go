package twin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

var update = flag.Bool("update", false, "write the golden files anew")

var start = time.Date(2026, 11, 23, 4, 0, 0, 123456700, time.UTC)

// TestGoldenTwins replays the steps of testdata/*.json and compares the document
// after each with what the file says.
func TestGoldenTwins(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) { golden(t, file) })
	}
}

type step struct {
	Op     string          `json:"op"` // patch, replace, reported
	Body   json.RawMessage `json:"body"`
	Told   json.RawMessage `json:"told,omitempty"`
	Twin   json.RawMessage `json:"twin,omitempty"`
	Device json.RawMessage `json:"device,omitempty"`
}

func golden(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	if err := json.Unmarshal(raw, &steps); err != nil {
		t.Fatal(err)
	}
	tw := twin.New()
	for i := range steps {
		s := &steps[i]
		told, err := do(tw, s.Op, s.Body, start.Add(time.Duration(i)*time.Hour))
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		s.Told = told
		s.Twin, s.Device = show(t, tw)
	}
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetIndent("", "  ")
	if err := e.Encode(steps); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(got.Bytes(), raw) {
		t.Errorf("result differs from %s:\n%s", file, got.Bytes())
	}
}

func do(tw *twin.Twin, op string, body []byte, now time.Time) (json.RawMessage, error) {
	if op == "reported" {
		return nil, tw.PatchReported(body, now)
	}
	c, err := twin.ParseChange(body)
	if err != nil {
		return nil, err
	}
	if op == "replace" {
		return tw.Replace(c, now)
	}
	return tw.Patch(c, now)
}

func show(t *testing.T, tw *twin.Twin) (whole, device json.RawMessage) {
	t.Helper()
	var doc rest.Twin
	if err := tw.Fill(&doc); err != nil {
		t.Fatal(err)
	}
	whole, err := json.Marshal(map[string]any{"etag": doc.Etag, "version": doc.Version, "tags": doc.Tags, "properties": doc.Properties})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tw.Properties()
	if err != nil {
		t.Fatal(err)
	}
	device, err = json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return whole, device
}

func TestEtagOfCounterSeven(t *testing.T) {
	tw := twin.New()
	tw.Counter = 7
	if tw.Etag() != "AAAAAAAAAAc=" {
		t.Errorf("%s", tw.Etag())
	}
}

func nest(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

func TestLimits(t *testing.T) {
	section := func(s string) string { return `{"properties":{"desired":` + s + `}}` }
	big := func(n int) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := 0; n > 0; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			k := string(rune('a'+i%26)) + string(rune('a'+i/26))
			v := min(n-2, 4000)
			n -= v + 2
			b.WriteString(`"` + k + `":"` + strings.Repeat("x", v) + `"`)
		}
		return b.String() + "}"
	}
	const ok, bad, large = "ok", "invalid", "too large"
	tests := map[string]struct{ body, want string }{
		"not JSON":                  {`{`, bad},
		"two values":                {`{}{}`, bad},
		"not an object":             {`[]`, bad},
		"tags not an object":        {`{"tags":1}`, bad},
		"properties not an object":  {`{"properties":1}`, bad},
		"desired not an object":     {section(`[]`), bad},
		"key with dot":              {section(`{"a.b":1}`), bad},
		"key with blank":            {section(`{"a b":1}`), bad},
		"key with control":          {section(`{"a\u0007":1}`), bad},
		"key with dollar":           {section(`{"$x":1}`), bad},
		"dollar further down":       {section(`{"a":{"$version":1}}`), bad},
		"version at the top":        {section(`{"$version":7,"$metadata":{}}`), ok},
		"key too long":              {section(`{"` + strings.Repeat("k", 1025) + `":1}`), bad},
		"key just right":            {section(`{"` + strings.Repeat("k", 1024) + `":1}`), ok},
		"string too long":           {section(`{"a":"` + strings.Repeat("x", 4097) + `"}`), bad},
		"string just right":         {section(`{"a":"` + strings.Repeat("x", 4096) + `"}`), ok},
		"integer too large":         {section(`{"a":4503599627370496}`), bad},
		"integer just right":        {section(`{"a":4503599627370495}`), ok},
		"integer too small":         {section(`{"a":-4503599627370497}`), bad},
		"smallest integer":          {section(`{"a":-4503599627370496}`), ok},
		"huge fraction":             {section(`{"a":1e999}`), bad},
		"fraction":                  {section(`{"a":1.5e10}`), ok},
		"ten levels":                {section(nest(11)), ok},
		"eleven levels":             {section(nest(12)), bad},
		"levels in arrays":          {section(`{"x":[` + nest(10) + `]}`), bad},
		"desired of 32 KiB":         {section(big(32 << 10)), ok},
		"desired of 32 KiB and one": {section(big(32<<10 + 1)), large},
		"tags of 8 KiB":             {`{"tags":` + big(8<<10) + `}`, ok},
		"tags of 8 KiB and one":     {`{"tags":` + big(8<<10+1) + `}`, large},
		"null sections":             {`{"tags":null,"properties":{"desired":null}}`, ok},
		"reported is not read":      {`{"properties":{"reported":{"a b":1}}}`, ok},
		"whole twins may be sent":   {`{"deviceId":"x","version":4,"tags":{},"properties":{"desired":{"$version":3}}}`, ok},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := do(twin.New(), "patch", []byte(tt.body), start)
			got := ok
			switch {
			case errors.As(err, new(*twin.InvalidError)):
				got = bad
			case errors.Is(err, twin.ErrTooLarge):
				got = large
			case err != nil:
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("%s, want %s: %v", got, tt.want, err)
			}
		})
	}
}

func TestReportedPatchesAreChecked(t *testing.T) {
	for _, body := range []string{`[]`, `{`, `null`, `{"a.b":1}`, `{"a":"` + strings.Repeat("x", 5000) + `"}`} {
		if err := twin.New().PatchReported([]byte(body), start); !errors.As(err, new(*twin.InvalidError)) {
			t.Errorf("%.20s: %v", body, err)
		}
	}
	tw := twin.New()
	for i := range 8 {
		body := `{"` + string(rune('a'+i)) + `":"` + strings.Repeat("x", 4094) + `"}`
		if err := tw.PatchReported([]byte(body), start); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.PatchReported([]byte(`{"z":"xxxxxxx"}`), start); err != nil {
		t.Fatal(err)
	}
	if err := tw.PatchReported([]byte(`{"y":0}`), start); !errors.Is(err, twin.ErrTooLarge) {
		t.Errorf("outgrew its limit: %v", err)
	}
}

// FuzzPatch looks for patches that break what every twin must keep.
func FuzzPatch(f *testing.F) {
	f.Add([]byte(`{"tags":{"a":null},"properties":{"desired":{"a":{"b":[1,{"c":null}]}}}}`), []byte(`{"a":{"b":null}}`))
	f.Add([]byte(`{"properties":{"desired":null}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, change, reported []byte) {
		tw := twin.New()
		for _, op := range []string{"patch", "replace", "patch"} {
			if _, err := do(tw, op, change, start); err != nil {
				return
			}
		}
		if err := tw.PatchReported(reported, start); err != nil {
			return
		}
		if tw.Version != 6 || tw.Reported.Version != 2 || tw.Counter != 4 {
			t.Errorf("version %d, reported %d, etag %d", tw.Version, tw.Reported.Version, tw.Counter)
		}
		for _, s := range []twin.Section{tw.Desired, tw.Reported} {
			sameShape(t, s.Values, s.Meta)
		}
	})
}

// sameShape checks that metadata mirrors values and that no null is stored.
func sameShape(t *testing.T, values, meta map[string]any) {
	if _, ok := meta["$lastUpdated"]; !ok {
		t.Errorf("no stamp beside %v", values)
	}
	for k := range meta {
		if _, ok := values[k]; !ok && !strings.HasPrefix(k, "$") {
			t.Errorf("metadata of %q without a value", k)
		}
	}
	for k, v := range values {
		child, ok := meta[k].(map[string]any)
		if !ok {
			t.Errorf("no metadata of %q", k)
			continue
		}
		switch v := v.(type) {
		case nil:
			t.Errorf("%q is null", k)
		case map[string]any:
			sameShape(t, v, child)
		}
	}
}
