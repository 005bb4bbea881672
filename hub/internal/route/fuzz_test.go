package route_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// seed adds the inputs of golden files.
func seed(f *testing.F, files ...string) {
	for _, file := range files {
		data, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if input, _, ok := strings.Cut(line, arrow); ok {
				f.Add(strings.NewReplacer("⏎", "\n", "⇥", "\t").Replace(input))
			}
		}
	}
}

func fuzzMessage(t fataler) *iothub.Message {
	m := messageOf(t, `{"p":{"a":"x","num":"12","null":null},"s":{"messageId":"m","connectionModuleId":"m","outputName":"o"},"json":true}`)
	m.Body = []byte(`{"a":1,"s":"x","list":[1,{"x":null}],"t":true}`)
	return m
}

func FuzzParse(f *testing.F) {
	seed(f, "routes.golden")
	m := fuzzMessage(f)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := route.Parse(text)
		if err != nil {
			checkPosition(t, text, err)
			return
		}
		if len(r.Source) == 0 || r.Source[0] != '/' || r.Condition == "" || r.Sink.EndpointID("e") == "" {
			t.Fatalf("%q: %+v", text, r)
		}
		table := route.NewTable(&route.Config{Routes: []route.NamedRoute{{Name: "r", Route: r}}}, "e")
		table.Match(m, nil)
		if strings.ContainsAny(r.Sink.Module+r.Sink.Input, `\"`) {
			return // String does not escape
		}
		again, err := route.Parse("FROM " + r.Source + " WHERE " + r.Condition + "\nINTO " + r.Sink.String())
		if err != nil {
			t.Fatalf("%q, written again: %v", text, err)
		}
		if again.Source != r.Source || again.Condition != r.Condition || again.Sink != r.Sink {
			t.Fatalf("%q: %+v became %+v", text, r, again)
		}
	})
}

func FuzzCondition(f *testing.F) {
	seed(f, "lexer.golden", "precedence.golden", "types.golden", "references.golden", "logic.golden", "functions.golden",
		"body.golden", "dynamic.golden", "text.golden")
	m := fuzzMessage(f)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := route.CompileCondition(text)
		if err != nil {
			checkPosition(t, text, err)
			return
		}
		if first, second := c.Evaluate(m), c.Evaluate(m); first != second {
			t.Fatalf("%q: %v, then %v", text, first, second)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":"1.1","routes":{"a":"FROM /* INTO $upstream","b":{"route":"FROM /* INTO $upstream","priority":1,"timeToLiveSecs":5}},"storeAndForwardConfiguration":{"timeToLiveSecs":-1,"storeLimits":{"maxSizeBytes":5}}}`))
	f.Add([]byte(`{"schemaVersion":"1.3","routes":{},"storeAndForwardConfiguration":{},"mqttBroker":{},"integrity":{}}`))
	f.Add([]byte(`{"schemaVersion":"1.0","routes":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := route.ParseConfig(json.RawMessage(data))
		if err != nil {
			if cfg != nil || !strings.HasPrefix(err.Error(), "Error while parsing desired properties: ") {
				t.Fatalf("%q: %v with %v", data, err, cfg)
			}
			return
		}
		for _, r := range cfg.Routes {
			if r.Name == "" || r.Route == nil || r.Priority > 9 && r.Priority != route.DefaultPriority || r.TTL < 0 {
				t.Fatalf("%q: route %+v", data, r)
			}
		}
		route.NewTable(cfg, "e").Match(fuzzMessage(t), nil)
	})
}

// The scanner reads exactly those objects that the standard decoder reads.
func FuzzEvaluateBody(f *testing.F) {
	for _, body := range []string{
		`{"a":1}`, `{"a":{"b":[1,2,{"c":"d"}]}}`, `{"a":"\u00e4\n\"","b":-1.5e-3}`, ` { } `, `[]`, `{"a":tru}`, `{"a":01}`,
		`{"a":1,"a":2}`, `{"\u0061":null}`, `{"a":1.}`, `{"a":"x` + "\n" + `"}`, "\xff\xfe{\x00}\x00", `{"a":"2024-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(body), uint8(0))
		f.Add([]byte(body), uint8(1))
	}
	c, err := route.CompileCondition(`is_defined($body.a) OR is_defined($body.a.b[1].c) OR $body.b >= $body.a.b[0] OR length($body.a) > 3`)
	if err != nil {
		f.Fatal(err)
	}
	missing, err := route.CompileCondition(`$body.no.such.member = null`)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, encoding uint8) {
		m := messageOf(t, `{"json":true}`)
		m.System.Set(iothub.ContentEncoding, []string{"utf-8", "utf-16", "utf-32"}[encoding%3])
		m.Body = body
		c.Evaluate(m)
		if encoding%3 != 0 || len(body) > 1000 {
			return
		}
		readable := missing.Evaluate(m) == route.True
		text := strings.TrimPrefix(string(body), "\ufeff")
		object := json.Valid([]byte(text)) && strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{")
		var members struct {
			No json.RawMessage `json:"no"`
		}
		if object && (json.Unmarshal([]byte(text), &members) != nil || members.No != nil || strings.Count(text, "[")+strings.Count(text, "{") > 60) {
			return
		}
		if readable != object {
			t.Fatalf("%q: readable %v, want %v", body, readable, object)
		}
	})
}
