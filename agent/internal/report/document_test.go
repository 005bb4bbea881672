package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
)

var update = flag.Bool("update", false, "write the golden files")

func input() report.Input {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 678901200, time.UTC)
	a := manifest.Module{Name: "a", Type: "docker", Version: "1.0", Status: manifest.Running, Restart: manifest.RestartAlways,
		Pull: manifest.PullOnCreate, Order: 5, Env: map[string]string{"K": "<v>"}, Image: "a:1", Digest: "sha256:d",
		CreateOptions: `{"Env":["` + strings.Repeat("x", 600) + `"]}`}
	hub := manifest.Module{Name: "edgeHub", Type: "docker", Status: manifest.Running, Restart: manifest.RestartAlways,
		Pull: manifest.PullNever, Order: manifest.DefaultOrder, Image: "hub:1", CreateOptions: "{}"}
	agent := manifest.Module{Name: "edgeAgent", Type: "docker", Status: manifest.Running, Pull: manifest.PullOnCreate}
	return report.Input{
		Build: report.Build{Version: "1.2.3", Build: "b", Commit: "c"}, DesiredVersion: 5, Status: report.Status{Code: 200},
		Runtime: &manifest.Runtime{Type: "docker", MinDockerVersion: "v1.25", Registries: []manifest.Registry{
			{Name: "r", Address: "reg", Username: "u", Password: "pass"}}},
		Platform: report.Platform{OS: "linux", Architecture: "x86_64", Version: "1.6.0"},
		Policy:   plan.DefaultPolicy(),
		Modules: map[string]plan.Current{
			"a": {Engine: plan.Engine{Name: "a", Image: "a:1", ImageHash: "sha256:h", State: plan.Failed, ExitCode: 3, Started: begin, Exited: begin.Add(time.Minute)},
				Applied: &a, Restart: plan.Restart{Count: 2}},
			"edgeHub": {Engine: plan.Engine{Name: "edgeHub", Image: "hub:1", State: plan.Running, Started: begin, Description: "running for 3 minutes"}, Applied: &hub},
			"edgeAgent": {Engine: plan.Engine{Name: "edgeAgent", Image: "agent:1", State: plan.Running, Started: begin, Labels: map[string]string{
				plan.LabelOptions: `{"Tty":true}`, plan.LabelEnv: `{"L":{"value":"1"}}`}}, Applied: &agent},
			"stray": {Engine: plan.Engine{Name: "stray", Image: "x:1", State: plan.Running}},
		},
	}
}

func TestDocument(t *testing.T) {
	for name, change := range map[string]func(*report.Input){
		"full": func(*report.Input) {},
		"before_the_first_deployment": func(in *report.Input) {
			in.Runtime, in.Modules, in.DesiredVersion, in.Status = nil, nil, 0, report.Status{Code: 406}
		},
		"shutdown": func(in *report.Input) {
			in.Ended, in.Status, in.HideCredentials = true, report.NotRunning, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			doc, dropped, err := report.Document(in)
			if err != nil || dropped != nil {
				t.Fatal(err, dropped)
			}
			var b bytes.Buffer
			if err := json.Indent(&b, doc, "", "  "); err != nil {
				t.Fatal(err)
			}
			b.WriteByte('\n')
			file := "testdata/" + name + ".json"
			if *update {
				if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("got %s", b.Bytes())
			}
		})
	}
}

func TestLargeReportLosesOptionsThenEnv(t *testing.T) {
	for name, tt := range map[string]struct {
		options, env int
		dropped      int
	}{"fits": {100, 100, 0}, "options too large": {40000, 100, 1}, "env too large": {40000, 40000, 2}} {
		in := input()
		m := *in.Modules["a"].Applied
		m.CreateOptions = `{"Env":["` + strings.Repeat("x", tt.options) + `"]}`
		m.Env = map[string]string{"K": strings.Repeat("y", tt.env)}
		c := in.Modules["a"]
		c.Applied = &m
		in.Modules["a"] = c
		doc, dropped, err := report.Document(in)
		if err != nil || len(dropped) != tt.dropped || len(doc) > report.MaxSize {
			t.Errorf("%s: %v, dropped %v, %d bytes", name, err, dropped, len(doc))
		}
		if has := strings.Contains(string(doc), "createOptions"); has != (tt.dropped == 0) {
			t.Errorf("%s: createOptions there: %v", name, has)
		}
	}
}
