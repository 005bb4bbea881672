//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// imagePolicies are for edged's configuration: images of strangers run only when the
// deployment says which content they have.
const imagePolicies = `
[[image_verification.policy]]
images = ["localhost:5000/breakwater/*"]
require = "any"

[[image_verification.policy]]
images = ["localhost:5000/strangers/*"]
require = "digest"
`

// untrusted deploys a stranger's image, as a new module and in place of one that runs, and
// then in a way that the policy takes.
func (p *path) untrusted(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	digest, err := p.CopyImage(ctx, "breakwater/temperature-sensor:dev", "strangers/sensor:dev", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := p.pids(t)
	const refused, own = "localhost:5000/strangers/sensor:dev", "localhost:5000/breakwater/filter:dev"
	p.apply(t, ctx, func(d map[string]any) {
		modules := d["modules"].(map[string]any)
		modules["stranger"] = module(refused, "{}")
		modules["filter"].(map[string]any)["settings"].(map[string]any)["image"] = refused
	})
	eventually(t, ctx, "the refusal", func() error {
		report, version, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		s := report.LastDesiredStatus
		if report.LastDesiredVersion != version || s.Code != 500 || strings.Count(s.Description, "image not trusted") != 2 ||
			!strings.Contains(s.Description, "stranger") || !strings.Contains(s.Description, "filter") {
			return fmt.Errorf("version %d of %d, %+v", report.LastDesiredVersion, version, s)
		}
		if _, made := report.Modules["stranger"]; made {
			return fmt.Errorf("the stranger is reported as %+v", report.Modules["stranger"])
		}
		if f := report.Modules["filter"]; f.Settings.Image != own || f.RuntimeStatus != "running" || f.RestartCount != 0 {
			return fmt.Errorf("filter is %+v", f)
		}
		return nil
	})
	p.onlyChanged(t, before)
	report := p.deploy(t, func(modules map[string]any) {
		modules["stranger"] = module("localhost:5000/strangers/sensor@"+digest, "{}")
		modules["filter"].(map[string]any)["settings"].(map[string]any)["image"] = own
	})
	if report.Modules["stranger"].RuntimeStatus != "running" {
		t.Errorf("by its digest it is %+v", report.Modules["stranger"])
	}
	p.deploy(t, func(modules map[string]any) { delete(modules, "stranger") })
	p.onlyChanged(t, before)
}

// unhealthy runs two modules with a health check that the test can make fail; only one of
// them is to be restarted then.
func (p *path) unhealthy(t *testing.T) {
	folder := filepath.Join(p.Dir, "probe")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	// A program that fails when a file is not as it should be: the images have no shell.
	program := filepath.Join(p.Root, "bin", "edgehub")
	if err := copyFile(program, filepath.Join(folder, "edgehub")); err != nil {
		t.Fatal(err)
	}
	checked := filepath.Join(folder, "manifest.json")
	if err := copyFile(p.Manifest, checked); err != nil {
		t.Fatal(err)
	}
	options, err := json.Marshal(map[string]any{
		"HostConfig": map[string]any{"Binds": []string{folder + ":/probe:ro"}},
		"Healthcheck": map[string]any{
			"Test":     []string{"CMD", "/probe/edgehub", "route", "check", "/probe/manifest.json"},
			"Interval": time.Second, "Timeout": 10 * time.Second, "Retries": 2,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := p.pids(t)
	p.deploy(t, func(modules map[string]any) {
		for name, policy := range map[string]string{"patient": "on-unhealthy", "stoic": "never"} {
			m := module("localhost:5000/breakwater/temperature-sensor:dev", string(options))
			m["restartPolicy"] = policy
			modules[name] = m
		}
	})
	began := p.pids(t)
	if err := os.WriteFile(checked, []byte("sick"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.reported(t, "the illness", func(modules map[string]rig.ModuleReport) error {
		stoic, patient := modules["stoic"], modules["patient"]
		if stoic.RuntimeStatus != "unhealthy" || !strings.HasPrefix(stoic.Description, "unhealthy: ") || stoic.RestartCount != 0 {
			return fmt.Errorf("stoic is %+v", stoic)
		}
		if patient.RestartCount == 0 {
			return fmt.Errorf("patient is %+v", patient)
		}
		return nil
	})
	p.onlyChanged(t, began, "patient")
	if err := copyFile(p.Manifest, checked); err != nil {
		t.Fatal(err)
	}
	p.reported(t, "the recovery", func(modules map[string]rig.ModuleReport) error {
		for name, m := range modules {
			if m.RuntimeStatus != "running" || m.Description != "" || (m.RestartCount > 0) != (name == "patient") {
				return fmt.Errorf("%s is %+v", name, m)
			}
		}
		return nil
	})
	report := p.deploy(t, func(modules map[string]any) { delete(modules, "patient"); delete(modules, "stoic") })
	if len(report.Modules) != 2 {
		t.Errorf("modules %+v", report.Modules)
	}
	p.onlyChanged(t, before)
}

// reported waits until the agent reports modules that are as check says.
func (p *path) reported(t *testing.T, what string, check func(map[string]rig.ModuleReport) error) {
	t.Helper()
	ctx := p.within(t, time.Minute)
	eventually(t, ctx, what, func() error {
		report, _, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		return check(report.Modules)
	})
}

// copyFile copies a file's content over another's, whose name and number stay: it may be
// seen inside a container.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
