package manifest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

func chunked(chunks map[string]string) json.RawMessage {
	settings := map[string]string{"image": "i"}
	for k, v := range chunks {
		settings[k] = v
	}
	b, _ := json.Marshal(settings)
	return json.RawMessage(doc{modules: `{"m":{"type":"docker","status":"running","settings":` + string(b) + `}}`}.text())
}

// numbered cuts text in n chunks.
func numbered(text string, n int) map[string]string {
	chunks := map[string]string{}
	size := (len(text) + n - 1) / n
	for i := range n {
		key := "createOptions"
		if i > 0 {
			key = fmt.Sprintf("createOptions%02d", i)
		}
		chunks[key] = text[min(i*size, len(text)):min((i+1)*size, len(text))]
	}
	return chunks
}

func TestChunks(t *testing.T) {
	long := `{"Env":["` + strings.Repeat("x", 4000) + `"]}`
	for _, n := range []int{1, 8, 100} {
		d, err := manifest.Parse(chunked(numbered(long, n)), manifest.Options{})
		if err != nil || d.Modules["m"].CreateOptions != long {
			t.Errorf("%d chunks: %v", n, err)
		}
	}
	for name, tt := range map[string]struct {
		chunks map[string]string
		want   string
	}{
		"absent":           {nil, "{}"},
		"empty":            {map[string]string{"createOptions": ""}, "{}"},
		"null text":        {map[string]string{"createOptions": "null"}, "{}"},
		"other case":       {map[string]string{"CreateOptions": `{"Tty":`, "createoptions01": `true}`}, `{"Tty":true}`},
		"gap":              {map[string]string{"createOptions": "{", "createOptions02": "}"}, ""},
		"zero":             {map[string]string{"createOptions": "{", "createOptions00": "}"}, ""},
		"first numbered":   {map[string]string{"createOptions01": "{}"}, ""},
		"one digit":        {map[string]string{"createOptions": "{", "createOptions1": "}"}, ""},
		"no number":        {map[string]string{"createOptions": "{}", "createOptionsX1": ""}, ""},
		"three digits":     {map[string]string{"createOptions": "{", "createOptions001": "}"}, ""},
		"doubled by case":  {map[string]string{"createOptions": "{}", "CreateOptions": ""}, ""},
		"text after it":    {map[string]string{"createOptions": "{} {}"}, ""},
		"null is no chunk": {map[string]string{"createOptions": `{"Hostname":null}`}, "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := manifest.Parse(chunked(tt.chunks), manifest.Options{})
			if tt.want == "" {
				if code(err) != 400 {
					t.Fatalf("code %d", code(err))
				}
				return
			}
			if err != nil || d.Modules["m"].CreateOptions != tt.want {
				t.Fatalf("%v: %s", err, d.Modules["m"].CreateOptions)
			}
		})
	}
}

func TestChunkOptionsReadsBack(t *testing.T) {
	for _, n := range []int{2, 512, 513, 1024, 5000, 60000} {
		text := `{"Env":["` + strings.Repeat("é", n) + `"]}`
		chunks := map[string]string{}
		for i, c := range manifest.ChunkOptions(text) {
			if i < 99 && len([]rune(c.Text)) > 512 {
				t.Errorf("chunk %s has %d characters", c.Key, len([]rune(c.Text)))
			}
			chunks[c.Key] = c.Text
		}
		d, err := manifest.Parse(chunked(chunks), manifest.Options{})
		if err != nil || d.Modules["m"].CreateOptions != text {
			t.Errorf("%d characters do not read back: %v", n, err)
		}
	}
}

func TestCanonicalOptions(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"white space and order":      {` { "Tty" : true, "Cmd":["a"] } `, `{"Cmd":["a"],"Tty":true}`},
		"case of members":            {`{"hostconfig":{"binds":["a:b"],"PRIVILEGED":true}}`, `{"HostConfig":{"Binds":["a:b"],"Privileged":true}}`},
		"nulls and defaults":         {`{"Hostname":"","Tty":false,"Cmd":null,"HostConfig":{"Memory":0,"Privileged":false}}`, `{}`},
		"map keys are data":          {`{"ExposedPorts":{"80/tcp":{}},"Labels":{"cmd":"","Cmd":"x"}}`, `{"ExposedPorts":{"80/tcp":{}},"Labels":{"Cmd":"x","cmd":""}}`},
		"endpoints":                  {`{"networkingconfig":{"endpointsconfig":{"host":{},"n":{"aliases":["x"]}}}}`, `{"NetworkingConfig":{"EndpointsConfig":{"host":{},"n":{"Aliases":["x"]}}}}`},
		"empty endpoints stay":       {`{"NetworkingConfig":{"EndpointsConfig":{}}}`, `{"NetworkingConfig":{"EndpointsConfig":{}}}`},
		"ports":                      {`{"HostConfig":{"PortBindings":{"443/tcp":[{"hostPort":"443","HostIp":""}]}}}`, `{"HostConfig":{"PortBindings":{"443/tcp":[{"HostPort":"443"}]}}}`},
		"meaningful zeros":           {`{"StopTimeout":0,"HostConfig":{"Init":false,"MemorySwappiness":0}}`, `{"HostConfig":{"Init":false,"MemorySwappiness":0},"StopTimeout":0}`},
		"unknown members stay":       {`{"Future":{"a":0,"B":null}}`, `{"Future":{"B":null,"a":0}}`},
		"empty entrypoint stays":     {`{"Entrypoint":[""],"Cmd":[]}`, `{"Cmd":[],"Entrypoint":[""]}`},
		"large numbers":              {`{"HostConfig":{"Memory":9007199254740993}}`, `{"HostConfig":{"Memory":9007199254740993}}`},
		"characters are not escaped": {`{"Cmd":["a<b>&c"]}`, `{"Cmd":["a<b>&c"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := manifest.CanonicalOptions(tt.in)
			if err != nil || got != tt.want {
				t.Fatalf("%v\n got %s\nwant %s", err, got, tt.want)
			}
			if again, err := manifest.CanonicalOptions(got); err != nil || again != got {
				t.Errorf("not stable: %s, %v", again, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(doc{modules: module(`"env":{"A":{"value":"1"}},"startupOrder":3`)}.text())
	f.Add(string(chunked(map[string]string{"createOptions": `{"HostConfig":{"Binds":["a:b"],`, "createOptions01": `"PortBindings":{"1/tcp":[{}]}}}`})))
	f.Add(`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"registryCredentials":{"r":{"address":"$upstream:443","username":"u","password":"p"}}}},"systemModules":{"edgeHub":null}}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := manifest.Parse(json.RawMessage(text), manifest.Options{Parent: "p"})
		if err != nil {
			if e, ok := manifest.AsError(err); !ok || e.Code != 400 && e.Code != 412 && e.Code != 417 {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		for name, m := range d.Modules {
			again, err := manifest.CanonicalOptions(m.CreateOptions)
			if err != nil || again != m.CreateOptions {
				t.Fatalf("%s: options not canonical: %q, %q, %v", name, m.CreateOptions, again, err)
			}
			if name == "" || m.Image == "" || m.Type != "docker" || m.Status == "" {
				t.Fatalf("%q: %+v", name, m)
			}
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back manifest.Deployment
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		for name, m := range d.Modules {
			if !back.Modules[name].Same(m) {
				t.Fatalf("%q does not survive saving", name)
			}
		}
	})
}
