//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestAgentUpdate deploys agents that are no good, one after the other. The device has
// to come back by itself each time, and no other module is touched by it.
func TestAgentUpdate(t *testing.T) {
	p := newPath(t, rig.Options{DeviceConfig: "[agent.trial]\nattempts = 2\nsettle = \"5s\"\nlimit = \"30s\"\n"}, 10*time.Minute)
	if _, err := p.Bring(p.within(t, 3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"an image that is not there changes nothing", p.agentNotThere},
		{"one for another kind of processor is taken back", p.agentForeign},
		{"one whose program is missing is taken back, its safe deployment too", p.agentMissing},
		{"one that never asks the daemon for work is taken back without a cloud", p.agentSilent},
		{"a good one stays", p.agentGood},
		{"one that is restarted tells how the modules are", p.agentRestarted},
		{"one that was removed by hand, its image too, is pulled again", p.agentRemoved},
		{"a bad one under the same tag is taken back to what the tag stood for", p.agentMoved},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

const agentImage = "localhost:5000/breakwater/edgeagent:dev"

// updateAgent deploys another agent: an image, and create options beside those of the
// rig.
func (p *path) updateAgent(t *testing.T, ctx context.Context, image string, options, env map[string]any) {
	t.Helper()
	p.apply(t, ctx, func(d map[string]any) {
		agent := d["systemModules"].(map[string]any)["edgeAgent"].(map[string]any)
		all := map[string]any{"HostConfig": map[string]any{
			"Binds": []string{"edgeagent-data:/data"}, "ExtraHosts": []string{"hub.breakwater.test:10.90.1.2"},
		}}
		maps.Copy(all, options)
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		agent["settings"] = map[string]any{"image": image, "createOptions": string(text)}
		agent["env"] = map[string]any{"StorageFolder": map[string]any{"value": "/data"}}
		for k, v := range env {
			agent["env"].(map[string]any)[k] = map[string]any{"value": v}
		}
	})
}

// agentReports waits until the agent, with its good image, reports 500 with these words
// and all other modules running.
func (p *path) agentReports(t *testing.T, ctx context.Context, inStatus, inDescription string) {
	t.Helper()
	p.agentReportsWith(t, ctx, agentImage, inStatus, inDescription)
}

func (p *path) agentReportsWith(t *testing.T, ctx context.Context, image, inStatus, inDescription string) {
	t.Helper()
	eventually(t, ctx, "report of the agent that was no good", func() error {
		report, _, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		agent := report.SystemModules["edgeAgent"]
		if s := report.LastDesiredStatus; s.Code != 500 || !strings.Contains(s.Description, inStatus) {
			return fmt.Errorf("status %+v", s)
		}
		if !strings.Contains(agent.Description, inDescription) || agent.Settings.Image != image {
			return fmt.Errorf("agent %+v", agent)
		}
		for name, m := range report.All() {
			if m.RuntimeStatus != "running" {
				return fmt.Errorf("%s is %s", name, m.RuntimeStatus)
			}
		}
		return nil
	})
}

func (p *path) agentNotThere(t *testing.T) {
	ctx := p.within(t, time.Minute)
	before := p.pids(t)
	p.updateAgent(t, ctx, "localhost:5000/breakwater/edgeagent:none", nil, nil)
	p.agentReports(t, ctx, "edgeagent:none", "")
	p.onlyChanged(t, before)
}

func (p *path) agentForeign(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	before := p.pids(t)
	p.pushForeign(t, ctx, "breakwater/edgeagent:foreign")
	p.updateAgent(t, ctx, "localhost:5000/breakwater/edgeagent:foreign", nil, nil)
	p.agentReports(t, ctx, "exec format error", "edgeagent:foreign was taken back")
	p.onlyChanged(t, before, "edgeAgent")
}

// pushForeign pushes an agent whose program is for another kind of processor.
func (p *path) pushForeign(t *testing.T, ctx context.Context, image string) {
	t.Helper()
	// The head of a program for s390x, 64 bits, big-endian.
	foreign := append([]byte("\x7fELF\x02\x02\x01"), make([]byte, 57)...)
	copy(foreign[16:], []byte{0, 2, 0, 22, 0, 0, 0, 1})
	if _, err := p.CopyImage(ctx, "breakwater/edgeagent:dev", image, map[string][]byte{"edgeagent": foreign}); err != nil {
		t.Fatal(err)
	}
}

func (p *path) agentMissing(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	before := p.pids(t)
	p.updateAgent(t, ctx, agentImage, map[string]any{"Entrypoint": []string{"/missing"}},
		map[string]any{"SafeDeployment": "true", "SafeDeploymentTimeoutSecs": "60"})
	p.agentReports(t, ctx, "/missing", "/missing")
	state, reason, err := p.safeState(ctx)
	if err != nil || state != "returned" || !strings.Contains(reason, "/missing") {
		t.Errorf("safe deployment is %q, %q, %v", state, reason, err)
	}
	p.onlyChanged(t, before, "edgeAgent")
	after := p.pids(t)
	p.moreRouted(t, ctx, 5)
	p.onlyChanged(t, after) // and it is not tried again
}

func (p *path) agentSilent(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	// Its calls go to a socket that is not there. The options win over the agent's own.
	const silent = "IOTEDGE_MANAGEMENTURI=unix:///tmp/nobody.sock"
	p.updateAgent(t, ctx, agentImage, map[string]any{"Env": []string{silent}}, nil)
	begin := time.Now()
	p.agentRuns(t, ctx, "the trial", func(environ string) bool { return strings.Contains(environ, silent) })
	if err := rig.SetLink(ctx, rig.Cloud, false); err != nil {
		t.Fatal(err)
	}
	p.agentRuns(t, ctx, "the way back without a cloud", func(environ string) bool { return !strings.Contains(environ, silent) })
	t.Logf("the old agent runs %.0f s after the update", time.Since(begin).Seconds())
	p.onlyChanged(t, before, "edgeAgent")
	if err := rig.SetLink(ctx, rig.Cloud, true); err != nil {
		t.Fatal(err)
	}
	p.agentReports(t, ctx, "was taken back", "has not asked the daemon for work")
	p.onlyChanged(t, before, "edgeAgent")
}

// agentRuns waits until the agent runs with variables of which is says yes.
func (p *path) agentRuns(t *testing.T, ctx context.Context, what string, is func(environ string) bool) {
	t.Helper()
	eventually(t, ctx, what, func() error {
		pids, err := p.PIDs(ctx)
		if err != nil {
			return err
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids["edgeAgent"]))
		if err == nil && (len(environ) == 0 || !is(string(environ))) {
			err = fmt.Errorf("the other agent runs")
		}
		return err
	})
}

func (p *path) agentGood(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	p.updateAgent(t, ctx, agentImage, nil, map[string]any{"ConfigRefreshFrequencySecs": "1800"})
	report, err := p.WaitDeployed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := report.SystemModules["edgeAgent"].Env["ConfigRefreshFrequencySecs"].Value; got != "1800" {
		t.Errorf("agent with %q", got)
	}
	eventually(t, ctx, "the end of the trial", func() error {
		report, _, err := p.AgentReport(ctx)
		if err == nil && report.SystemModules["edgeAgent"].Description != "" {
			err = fmt.Errorf("agent is described as %q", report.SystemModules["edgeAgent"].Description)
		}
		return err
	})
	p.onlyChanged(t, before, "edgeAgent")
}

// agentRestarted restarts the agent by hand and by its own method, whose answer may be lost
// with it. Its last words in the twin are that it does not run; the new process takes them
// back.
func (p *path) agentRestarted(t *testing.T) {
	for name, restart := range map[string]func(ctx context.Context) (string, error){
		"edgectl": func(ctx context.Context) (string, error) { return p.EdgeCtl(ctx, "restart", "edgeAgent") },
		"method": func(ctx context.Context) (string, error) {
			return p.IoTHub(ctx, "method", rig.EdgeID, "$edgeAgent", "RestartModule", "--payload", `{"schemaVersion":"1.0","id":"edgeAgent"}`)
		},
	} {
		ctx := p.within(t, time.Minute)
		before := p.pids(t)
		began := time.Now()
		out, err := restart(ctx)
		if err != nil && name == "edgectl" {
			t.Fatal(err)
		}
		t.Logf("%s answers after %.1f s: %s %v", name, time.Since(began).Seconds(), out, err)
		p.restarted(t, ctx, "edgeAgent", before["edgeAgent"])
		report, _, err := p.AgentReport(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range report.All() {
			if m.RuntimeStatus != "running" {
				t.Errorf("%s is reported as %s", name, m.RuntimeStatus)
			}
		}
		if _, err := p.WaitDeployed(ctx); err != nil {
			t.Fatal(err)
		}
		p.onlyChanged(t, before, "edgeAgent")
	}
}

// agentRemoved removes container and image of the agent with ctr. The daemon makes the one of
// its configuration, which replaces itself by the one that is deployed.
func (p *path) agentRemoved(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	before := p.pids(t)
	if err := rig.RemoveByHand(ctx, "edgeAgent", agentImage); err != nil {
		t.Fatal(err)
	}
	removed := time.Now()
	p.restarted(t, ctx, "edgeAgent", before["edgeAgent"])
	took := time.Since(removed)
	t.Logf("the agent runs again %.1f s after it was removed", took.Seconds())
	if took > time.Minute {
		t.Error("that is more than 60 s")
	}
	p.agentRuns(t, ctx, "the agent that is deployed", func(environ string) bool {
		return strings.Contains(environ, "ConfigRefreshFrequencySecs=1800")
	})
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
	p.onlyChanged(t, before, "edgeAgent")
}

// agentMoved deploys a good agent by a tag, and then a bad one by the same tag. Neither
// has the memory of the one before.
func (p *path) agentMoved(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	const image = "breakwater/edgeagent:moving"
	before := p.pids(t)
	// As its own content, not another name of that of :dev.
	if _, err := p.CopyImage(ctx, "breakwater/edgeagent:dev", image, map[string][]byte{"good": nil}); err != nil {
		t.Fatal(err)
	}
	forgetful := map[string]any{"StorageFolder": "/elsewhere"}
	p.updateAgent(t, ctx, "localhost:5000/"+image, nil, forgetful)
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
	var good string
	eventually(t, ctx, "the end of the trial", func() error {
		report, _, err := p.AgentReport(ctx)
		agent := report.SystemModules["edgeAgent"]
		if err == nil && (agent.Description != "" || agent.Settings.Image != "localhost:5000/"+image) {
			err = fmt.Errorf("agent with %s is described as %q", agent.Settings.Image, agent.Description)
		}
		good = agent.Settings.ImageHash
		return err
	})
	p.pushForeign(t, ctx, image)
	forgetful["ConfigRefreshFrequencySecs"] = "1700"
	p.updateAgent(t, ctx, "localhost:5000/"+image, nil, forgetful)
	p.agentReportsWith(t, ctx, "localhost:5000/"+image, "exec format error", "edgeagent:moving was taken back")
	report, _, err := p.AgentReport(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := report.SystemModules["edgeAgent"].Settings.ImageHash; good == "" || got != good {
		t.Errorf("the image is %q, was %q", got, good)
	}
	p.onlyChanged(t, before, "edgeAgent")
}
