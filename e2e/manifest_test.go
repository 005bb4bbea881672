//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// deploy changes the manifest in force, applies it and waits until it is carried
// out.
func (p *path) deploy(t *testing.T, change func(modules map[string]any)) rig.AgentReport {
	t.Helper()
	ctx := p.within(t, 2*time.Minute)
	p.apply(t, ctx, func(desired map[string]any) { change(desired["modules"].(map[string]any)) })
	report, err := p.WaitDeployed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// apply changes the agent's part of the manifest in force, and applies it.
func (p *path) apply(t *testing.T, ctx context.Context, change func(desired map[string]any)) {
	t.Helper()
	if p.manifest == nil {
		raw, err := os.ReadFile(p.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &p.manifest); err != nil {
			t.Fatal(err)
		}
	}
	change(desired(t, p.manifest))
	if err := p.Deploy(ctx, p.write(t, p.manifest)); err != nil {
		t.Fatal(err)
	}
}

// module is what a manifest says of a module that is always to run.
func module(image, createOptions string) map[string]any {
	return map[string]any{
		"type": "docker", "status": "running", "restartPolicy": "always",
		"settings": map[string]any{"image": image, "createOptions": createOptions},
	}
}

func desired(t *testing.T, manifest map[string]any) map[string]any {
	t.Helper()
	content := manifest["modulesContent"].(map[string]any)["$edgeAgent"].(map[string]any)
	return content["properties.desired"].(map[string]any)
}

func (p *path) write(t *testing.T, manifest map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (p *path) moduleAdded(t *testing.T) {
	before := p.pids(t)
	report := p.deploy(t, func(modules map[string]any) {
		modules["second-sensor"] = map[string]any{
			"type": "docker", "version": "1.0", "status": "running", "restartPolicy": "always", "startupOrder": 3,
			"settings": map[string]any{
				"image": "localhost:5000/breakwater/temperature-sensor:dev", "createOptions": "{}",
			},
			"env": map[string]any{"MessageCount": map[string]any{"value": "-1"}},
		}
	})
	if report.Modules["second-sensor"].RuntimeStatus != "running" {
		t.Errorf("report is %+v", report.Modules["second-sensor"])
	}
	if p.pids(t)["second-sensor"] == 0 {
		t.Error("second-sensor does not run")
	}
	ctx := p.within(t, time.Minute)
	p.knownToTheHub(t, ctx, "second-sensor")
	p.onlyChanged(t, before)
}

// knownToTheHub waits until the hub has acknowledged a new module's messages.
func (p *path) knownToTheHub(t *testing.T, ctx context.Context, module string) {
	t.Helper()
	eventually(t, ctx, "the hub knows the new module", func() error {
		out, err := p.EdgeCtl(ctx, "logs", module)
		if err == nil && !strings.Contains(out, `"msg":"acknowledged"`) {
			err = errors.New("nothing was acknowledged to it")
		}
		return err
	})
}

func (p *path) moduleChanged(t *testing.T) {
	before := p.pids(t)
	report := p.deploy(t, func(modules map[string]any) {
		env := modules["second-sensor"].(map[string]any)["env"].(map[string]any)
		env["MessageDelay"] = map[string]any{"value": "00:00:02"}
	})
	if got := report.Modules["second-sensor"].Env["MessageDelay"].Value; got != "00:00:02" {
		t.Errorf("reported environment has MessageDelay %q", got)
	}
	p.onlyChanged(t, before, "second-sensor")
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pids(t)["second-sensor"]))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(environ), "MessageDelay=00:00:02\x00") {
		t.Error("the process does not have the new environment")
	}
}

func (p *path) moduleRemoved(t *testing.T) {
	before := p.pids(t)
	delete(before, "second-sensor")
	report := p.deploy(t, func(modules map[string]any) { delete(modules, "second-sensor") })
	if _, ok := report.Modules["second-sensor"]; ok {
		t.Error("second-sensor is still reported")
	}
	containers, err := rig.Containers(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		if c == "second-sensor" {
			t.Error("the container is still there")
		}
	}
	p.onlyChanged(t, before)
}

func (p *path) invalidManifest(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	good, _, err := p.AgentReport(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The cloud refuses such a manifest as a whole; a twin can say it all the same.
	_, err = p.IoTHub(ctx, "twin", "patch", rig.EdgeID, "$edgeAgent", "--desired",
		`{"modules":{"filter":{"restartPolicy":"sometimes"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "agent refuses", func() error {
		report, _, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		if report.LastDesiredStatus.Code != 400 || report.LastDesiredVersion != good.LastDesiredVersion {
			return fmt.Errorf("status %+v at version %d", report.LastDesiredStatus, report.LastDesiredVersion)
		}
		return nil
	})
	_, err = p.IoTHub(ctx, "twin", "patch", rig.EdgeID, "$edgeHub", "--desired",
		`{"routes":{"filterToCloud":{"route":"FROM /messages/* WHERE a == 1 INTO $upstream"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "hub refuses", func() error {
		out, err := p.IoTHub(ctx, "twin", "show", rig.EdgeID, "$edgeHub")
		if err != nil {
			return err
		}
		var twin struct {
			Properties struct {
				Reported struct {
					LastDesiredStatus struct {
						Code        int    `json:"code"`
						Description string `json:"description"`
					} `json:"lastDesiredStatus"`
				} `json:"reported"`
			} `json:"properties"`
		}
		if err := json.Unmarshal([]byte(out), &twin); err != nil {
			return err
		}
		s := twin.Properties.Reported.LastDesiredStatus
		if s.Code != 400 || !strings.Contains(s.Description, "filterToCloud") {
			return fmt.Errorf("hub reports %+v", s)
		}
		return nil
	})
	p.moreArrive(t, ctx, rig.FilterID, 5)
	p.onlyChanged(t, before)
	if err := p.Deploy(ctx, p.write(t, p.manifest)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
	p.onlyChanged(t, before)
}
