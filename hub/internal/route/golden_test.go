package route_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// A golden file holds a case a line, "input --> output". A line that starts with
// "@ " holds the message for the cases below it, as JSON; "# " starts a comment.
// In inputs, ⏎ is a line break and ⇥ a tab.
var update = flag.Bool("update", false, "rewrite the outputs in testdata")

const arrow = " --> "

// golden runs a case for each line of the file and compares the outputs.
func golden(t *testing.T, file string, run func(m *iothub.Message, input string) string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &iothub.Message{}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	cases := 0
	for i, line := range lines {
		switch {
		case line == "" || strings.HasPrefix(line, "# "):
			continue
		case strings.HasPrefix(line, "@ "):
			m = messageOf(t, line[2:])
			continue
		}
		input, want, ok := strings.Cut(line, arrow)
		if !ok {
			t.Fatalf("%s:%d: no arrow", file, i+1)
		}
		cases++
		got := run(m, strings.NewReplacer("⏎", "\n", "⇥", "\t").Replace(input))
		if got != want {
			t.Errorf("%s:%d: %s\n got %s\nwant %s", file, i+1, input, got, want)
		}
		lines[i] = input + arrow + got
	}
	if cases == 0 {
		t.Fatalf("%s: no cases", file)
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// messageOf reads a message: "p" and "s" are properties, a null is a property
// without value; "body" is JSON, "json": true says that it can be queried.
func messageOf(t fataler, text string) *iothub.Message {
	t.Helper()
	var in struct {
		P, S map[string]*string
		Body json.RawMessage
		Text *string
		JSON bool
	}
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		t.Fatalf("message %s: %v", text, err)
	}
	m := &iothub.Message{Body: in.Body}
	if in.Text != nil {
		m.Body = []byte(*in.Text)
	}
	for list, values := range map[*iothub.Properties]map[string]*string{&m.Properties: in.P, &m.System: in.S} {
		for name, v := range values {
			if v == nil {
				list.SetNull(name)
			} else {
				list.Set(name, *v)
			}
		}
	}
	if in.JSON {
		m.System.Set(iothub.ContentType, "application/json")
		m.System.Set(iothub.ContentEncoding, "utf-8")
	}
	return m
}

func evaluate(m *iothub.Message, condition string) string {
	c, err := route.CompileCondition(condition)
	if err != nil {
		return "error: " + err.Error()
	}
	return c.Evaluate(m).String()
}

func TestConditionsAgainstGoldenFiles(t *testing.T) {
	for _, file := range []string{
		"lexer.golden", "precedence.golden", "types.golden", "references.golden",
		"logic.golden", "functions.golden", "body.golden", "dynamic.golden", "text.golden",
	} {
		t.Run(strings.TrimSuffix(file, ".golden"), func(t *testing.T) { golden(t, file, evaluate) })
	}
}

func TestRoutesAgainstGoldenFile(t *testing.T) {
	golden(t, "routes.golden", func(_ *iothub.Message, input string) string {
		r, err := route.Parse(input)
		if err != nil {
			return "error: " + err.Error()
		}
		out := "from " + r.Source + " where " + r.Condition + " into " + r.Sink.EndpointID("edge1")
		for _, w := range r.Warnings {
			out += "; warning: " + w
		}
		return out
	})
}

// Every source of table 2.1 against every message of table 2.2.
func TestSourcesAgainstGoldenFile(t *testing.T) {
	messages := []struct{ name, text string }{
		{"twin", `{"s":{"messageType":"TWINCHANGENOTIFICATION","connectionModuleId":"$edgeHub"}}`},
		{"leaf", `{"s":{"connectionDeviceId":"d"}}`},
		{"m", `{"s":{"connectionModuleId":"m"}}`},
		{"m/o", `{"s":{"connectionModuleId":"M","outputName":"o"}}`},
		{"m/o2", `{"s":{"connectionModuleId":"m","outputName":"o2"}}`},
		{"m2/o", `{"s":{"connectionModuleId":"m2","outputName":"o"}}`},
		{"star/a/b", `{"s":{"connectionModuleId":"*","outputName":"a/b/"}}`},
	}
	golden(t, "sources.golden", func(_ *iothub.Message, source string) string {
		r, err := route.Parse("FROM " + source + " INTO $upstream")
		if err != nil {
			return "error: " + err.Error()
		}
		table := route.NewTable(&route.Config{Routes: []route.NamedRoute{{Name: "r", Route: r}}}, "edge1")
		var out []string
		for _, m := range messages {
			if len(table.Match(messageOf(t, m.text), nil)) > 0 {
				out = append(out, m.name)
			}
		}
		if out == nil {
			out = []string{"never"}
		}
		for _, w := range r.Warnings {
			out = append(out, "("+w+")")
		}
		return strings.Join(out, " ")
	})
}

// fataler is what tests, fuzz targets and properties have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}
