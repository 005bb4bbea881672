//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestLocalDeployment runs a device whose deployment is a file. The cloud has none for it,
// and is soon away.
func TestLocalDeployment(t *testing.T) {
	folder := t.TempDir()
	l := &local{path: newPath(t, rig.Options{Local: folder}, 5*time.Minute), folder: folder}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"modules run as the file says, and the cloud is told nothing", l.comesUp},
		{"an added module is started and nothing else restarted", l.moduleAdded},
		{"without a cloud a changed environment restarts that module only", l.moduleChanged},
		{"a bad file changes nothing and is in the log, and modules are supervised", l.badFile},
		{"nor does it for an agent that starts with it", l.startsWithABadFile},
		{"a good file counts again, and what waited for the cloud arrives", l.goodAgain},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

// local is a device with its deployment in a folder of the machine.
type local struct {
	*path
	folder  string
	version int
	config  map[string]any // what is in force
	sent    []string       // of the sensor's readings for the filter, those before the cloud was away
}

// put replaces the file as editors do it: by another one.
func (l *local) put(t *testing.T, text []byte) {
	t.Helper()
	next := filepath.Join(l.folder, "next")
	if err := os.WriteFile(next, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(l.folder, "deployment.json")); err != nil {
		t.Fatal(err)
	}
}

// change puts a changed deployment into the file.
func (l *local) change(t *testing.T, change func(modules map[string]any)) {
	t.Helper()
	change(l.config["modules"].(map[string]any))
	l.version++
	l.put(t, l.file(t, l.config))
}

func (l *local) file(t *testing.T, config map[string]any) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{"version": l.version, "deploymentConfig": config})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// deployment is that of the development manifest, for an agent and a hub that do not look
// for theirs in the cloud.
func (l *local) deployment(t *testing.T) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(l.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	var manifest map[string]any
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	config := desired(t, manifest)
	system := config["systemModules"].(map[string]any)
	agent, hub := system["edgeAgent"].(map[string]any), system["edgeHub"].(map[string]any)
	options := fmt.Sprintf(`{"HostConfig":{"Binds":["edgeagent-data:/data","%s:/local:ro"],"ExtraHosts":["hub.breakwater.test:10.90.1.2"]}}`, l.folder)
	agent["settings"].(map[string]any)["createOptions"] = options
	for module, env := range map[*map[string]any]map[string]string{
		&agent: {"ConfigSource": "local", "LocalConfigPath": "/local/deployment.json", "CoolOffTimeUnitInSeconds": "1"},
		&hub: {
			"ConfigSource":           "local",
			"routes__sensorToFilter": `FROM /messages/modules/temperature-sensor/outputs/temperatureOutput WHERE $body.machine.temperature > 21.5 INTO BrokeredEndpoint("/modules/filter/inputs/input1")`,
			"routes__filterToCloud":  `FROM /messages/modules/filter/outputs/output1 INTO $upstream`,
		},
	} {
		all := (*module)["env"].(map[string]any)
		for k, v := range env {
			all[k] = map[string]any{"value": v}
		}
	}
	return config
}

// run waits until exactly these modules run, beside edgeAgent and edgeHub.
func (l *local) run(t *testing.T, ctx context.Context, modules ...string) {
	t.Helper()
	eventually(t, ctx, "the modules of the file", func() error {
		pids, err := l.PIDs(ctx)
		if err != nil {
			return err
		}
		for _, name := range append(modules, "edgeAgent", "edgeHub") {
			if pids[name] == 0 {
				return fmt.Errorf("%s does not run", name)
			}
			delete(pids, name)
		}
		if len(pids) > 0 {
			return fmt.Errorf("%v run, too", pids)
		}
		return nil
	})
}

// agentSays waits until the agent's log has all the texts in one line, and returns how many
// such lines there are.
func (l *local) agentSays(t *testing.T, ctx context.Context, texts ...string) (lines int) {
	t.Helper()
	eventually(t, ctx, fmt.Sprintf("%q in the log of edgeAgent", texts), func() error {
		out, err := l.EdgeCtl(ctx, "logs", "edgeAgent")
		if err != nil {
			return err
		}
		lines = 0
	line:
		for line := range strings.Lines(out) {
			for _, text := range texts {
				if !strings.Contains(line, text) {
					continue line
				}
			}
			lines++
		}
		if lines == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	return lines
}

func (l *local) comesUp(t *testing.T) {
	ctx := l.within(t, 2*time.Minute)
	l.config = l.deployment(t)
	l.change(t, func(map[string]any) {})
	if err := l.BringLocal(ctx); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	l.run(t, ctx, "filter", "temperature-sensor")
	if err := l.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	l.moreArrive(t, ctx, rig.FilterID, 5)
	t.Logf("messages arrive %.1f s after the start of the daemon", time.Since(begin).Seconds())
	report, version, err := l.AgentReport(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.All()) > 0 || report.LastDesiredVersion != 0 {
		t.Errorf("reported to the cloud, whose version is %d: %+v", version, report)
	}
}

func (l *local) moduleAdded(t *testing.T) {
	ctx := l.within(t, time.Minute)
	before := l.pids(t)
	l.change(t, func(modules map[string]any) {
		modules["second-sensor"] = module("localhost:5000/breakwater/temperature-sensor:dev", "{}")
	})
	l.run(t, ctx, "filter", "temperature-sensor", "second-sensor")
	l.knownToTheHub(t, ctx, "second-sensor")
	l.onlyChanged(t, before)
}

// moduleChanged takes the cloud away for what follows.
func (l *local) moduleChanged(t *testing.T) {
	ctx := l.within(t, time.Minute)
	if err := errors.Join(l.StopMonitor(), l.KillCloud()); err != nil {
		t.Fatal(err)
	}
	var err error
	if _, l.sent, err = l.SensorAcked(ctx); err != nil {
		t.Fatal(err)
	}
	before := l.pids(t)
	begin := time.Now()
	l.change(t, func(modules map[string]any) {
		modules["second-sensor"].(map[string]any)["env"] = map[string]any{"MessageDelay": map[string]any{"value": "00:00:02"}}
	})
	l.restarted(t, ctx, "second-sensor", before["second-sensor"])
	t.Logf("the module runs anew after %.1f s", time.Since(begin).Seconds())
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", l.pids(t)["second-sensor"]))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(environ), "MessageDelay=00:00:02\x00") {
		t.Error("the process does not have the new environment")
	}
	l.moreRouted(t, ctx, 5)
	l.onlyChanged(t, before, "second-sensor")
}

// badFile puts a file that is no deployment, and one that is no JSON, in the place of the
// good one. A module that ends meanwhile is started again as the good one says.
func (l *local) badFile(t *testing.T) {
	ctx := l.within(t, time.Minute)
	before := l.pids(t)
	noDeployment := maps.Clone(l.config)
	noDeployment["schemaVersion"] = "7"
	bad := []struct {
		text []byte
		said []string
	}{
		{l.file(t, noDeployment), []string{"deployment refused; the last good one stays in force", "schemaVersion"}},
		{l.file(t, l.config)[:200], []string{"deployment not read; the last good one stays in force", "/local/deployment.json", "not JSON"}},
	}
	for _, b := range bad {
		l.put(t, b.text)
		l.agentSays(t, ctx, b.said...)
	}
	if err := l.KillModule(ctx, "filter"); err != nil {
		t.Fatal(err)
	}
	l.restarted(t, ctx, "filter", before["filter"])
	l.moreRouted(t, ctx, 5)
	for _, b := range bad {
		if n := l.agentSays(t, ctx, b.said...); n != 1 {
			t.Errorf("said %d times: %q", n, b.said)
		}
	}
	l.onlyChanged(t, before, "filter")
}

func (l *local) startsWithABadFile(t *testing.T) {
	ctx := l.within(t, time.Minute)
	before := l.pids(t)
	if _, err := l.EdgeCtl(ctx, "restart", "edgeAgent"); err != nil {
		t.Fatal(err)
	}
	l.restarted(t, ctx, "edgeAgent", before["edgeAgent"])
	if err := l.KillModule(ctx, "second-sensor"); err != nil {
		t.Fatal(err)
	}
	l.restarted(t, ctx, "second-sensor", before["second-sensor"])
	l.onlyChanged(t, before, "edgeAgent", "second-sensor")
}

func (l *local) goodAgain(t *testing.T) {
	ctx := l.within(t, time.Minute)
	before := l.pids(t)
	l.change(t, func(modules map[string]any) { delete(modules, "second-sensor") })
	l.run(t, ctx, "filter", "temperature-sensor")
	delete(before, "second-sensor")
	l.onlyChanged(t, before)
	_, routed, err := l.SensorAcked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StartCloud(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	waited := absent(routed, l.sent)
	eventually(t, ctx, "what waited arrives", func() error {
		if missing := l.Arrived.Missing(rig.FilterID, waited); len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing", len(missing), len(waited))
		}
		return nil
	})
	t.Logf("all %d messages that waited have arrived", len(waited))
	l.onlyChanged(t, before)
}
