package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func (r *Rig) cloudDir() string { return filepath.Join(r.Dir, "cloud") }

// CloudRoot is the file with the certificate that the cloud's clients must trust.
func (r *Rig) CloudRoot() string { return filepath.Join(r.cloudDir(), "root.pem") }

// StartCloud starts iothub and waits until it accepts connections.
func (r *Rig) StartCloud(ctx context.Context) error {
	r.say("starting the cloud: iothub as %s", HubName)
	ready := make(chan struct{})
	said := false
	p, err := r.start(spec{
		name: "iothub", host: Cloud, path: r.bin("iothub"),
		args: []string{"serve", "--data", r.cloudDir(), "--hostname", HubName},
		stdout: func(line string) {
			if !said && strings.HasPrefix(line, "iothub ready") {
				said = true
				close(ready)
			}
		},
	})
	if err != nil {
		return err
	}
	r.cloud = p
	r.memory.add("iothub", p.PID())
	return r.waitReady(ctx, p, ready, 30*time.Second)
}

func (r *Rig) waitReady(ctx context.Context, p *Process, ready <-chan struct{}, limit time.Duration) error {
	select {
	case <-ready:
		return nil
	case <-p.Done():
		return fmt.Errorf("%s ended while starting: %w; see %s", p.Name, p.err, r.logPath(p.Name))
	case <-time.After(limit):
		return fmt.Errorf("%s was not ready within %v; see %s", p.Name, limit, r.logPath(p.Name))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StopCloud ends iothub in an orderly way.
func (r *Rig) StopCloud() error { return r.cloud.Stop(20 * time.Second) }

// KillCloud ends iothub at once.
func (r *Rig) KillCloud() error {
	err := r.cloud.Signal(syscall.SIGKILL)
	<-r.cloud.Done()
	return err
}

// IoTHub runs a subcommand of iothub against the cloud and returns its output.
func (r *Rig) IoTHub(ctx context.Context, args ...string) (string, error) {
	cs, err := os.ReadFile(filepath.Join(r.cloudDir(), "iothubowner.connectionstring"))
	if err != nil {
		return "", fmt.Errorf("connection string of the cloud: %w", err)
	}
	env := []string{"IOTHUB_CONNECTION_STRING=" + strings.TrimSpace(string(cs)), "SSL_CERT_FILE=" + r.CloudRoot()}
	return r.command(ctx, Cloud, env, r.bin("iothub"), args...)
}

// CreateDevices registers the edge device and the leaf below it, and returns the
// edge device's connection string.
func (r *Rig) CreateDevices(ctx context.Context) (string, error) {
	r.say("registering the edge device %s and its leaf %s", EdgeID, LeafID)
	edge, err := r.IoTHub(ctx, "device", "create", EdgeID, "--edge")
	if err != nil {
		return "", err
	}
	leaf, err := r.IoTHub(ctx, "device", "create", LeafID, "--parent", EdgeID, "--gateway", DeviceName)
	if err != nil {
		return "", err
	}
	r.leafConnection = strings.TrimSpace(leaf)
	return strings.TrimSpace(edge), nil
}

// Deploy applies a manifest file to the edge device, with an agent that does not wait
// long before it restarts a module.
func (r *Rig) Deploy(ctx context.Context, manifest string) error {
	r.say("applying the manifest %s", filepath.Base(manifest))
	hasty, err := r.hasty(manifest)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", manifest, err)
	}
	_, err = r.IoTHub(ctx, "deploy", "--device", EdgeID, hasty)
	return err
}

// DeployToAll makes a deployment of the manifest for the edge devices of a condition.
func (r *Rig) DeployToAll(ctx context.Context, id, manifest, condition string) error {
	hasty, err := r.hasty(manifest)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", manifest, err)
	}
	_, err = r.IoTHub(ctx, "deployment", "create", id, hasty, "--condition", condition)
	return err
}

// hasty writes a copy of the manifest whose agent restarts modules after a second, two
// seconds and so on, unless it has a setting for that. Ten seconds and more, the default,
// would be most of what the tests wait for.
func (r *Rig) hasty(manifest string) (string, error) {
	const setting = "CoolOffTimeUnitInSeconds"
	text, err := os.ReadFile(manifest)
	if err != nil {
		return "", err
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", err
	}
	agent := doc
	for _, name := range []string{"modulesContent", "$edgeAgent", "properties.desired", "systemModules", "edgeAgent"} {
		next, ok := agent[name].(map[string]any)
		if !ok {
			return manifest, nil // not what it should be, perhaps on purpose
		}
		agent = next
	}
	env, ok := agent["env"].(map[string]any)
	if !ok {
		env = map[string]any{}
		agent["env"] = env
	}
	if _, set := env[setting]; !set {
		env[setting] = map[string]any{"value": "1"}
	}
	if text, err = json.Marshal(doc); err != nil {
		return "", err
	}
	file := filepath.Join(r.Dir, "manifest.json")
	return file, os.WriteFile(file, text, 0o600)
}

// event is what `iothub monitor --output json` prints of a message.
type event struct {
	Event struct {
		Origin     string `json:"origin"`
		Module     string `json:"module"`
		Properties struct {
			Application map[string]string `json:"application"`
		} `json:"properties"`
		Payload json.RawMessage `json:"payload"`
	} `json:"event"`
}

// Monitor follows the telemetry that arrives in the cloud, from the beginning, and
// keeps the ledger Arrived. each (may be nil) is called with identity and body.
func (r *Rig) Monitor(each func(identity string, body json.RawMessage)) error {
	cs, err := os.ReadFile(filepath.Join(r.cloudDir(), "iothubowner.connectionstring"))
	if err != nil {
		return fmt.Errorf("connection string of the cloud: %w", err)
	}
	r.Arrived.Reset()
	p, err := r.start(spec{
		name: "monitor", host: Cloud, path: r.bin("iothub"),
		args: []string{"monitor", "--since", "beginning", "--output", "json"},
		env:  []string{"IOTHUB_CONNECTION_STRING=" + strings.TrimSpace(string(cs)), "SSL_CERT_FILE=" + r.CloudRoot()},
		stdout: func(line string) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event.Origin == "" {
				r.say("monitor printed something else than an event: %q", line)
				return
			}
			id := e.Event.Origin
			if e.Event.Module != "" {
				id += "/" + e.Event.Module
			}
			app := e.Event.Properties.Application
			if n := app["sequenceNumber"]; n != "" {
				r.Arrived.Add(id, app["batchId"]+"/"+n)
			}
			if each != nil {
				each(id, e.Event.Payload)
			}
		},
	})
	if err != nil {
		return err
	}
	r.monitor = p
	return nil
}

// StopMonitor ends following.
func (r *Rig) StopMonitor() error { return r.monitor.Stop(10 * time.Second) }

// AgentReport is the part of the agent's reported properties that the rig reads.
type AgentReport struct {
	LastDesiredVersion int64 `json:"lastDesiredVersion"`
	LastDesiredStatus  struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"lastDesiredStatus"`
	SystemModules map[string]ModuleReport `json:"systemModules"`
	Modules       map[string]ModuleReport `json:"modules"`
}

// ModuleReport is what the agent reports of a module.
type ModuleReport struct {
	RuntimeStatus    string `json:"runtimeStatus"`
	Description      string `json:"statusDescription"`
	RestartCount     int    `json:"restartCount"`
	ExitCode         int    `json:"exitCode"`
	LastStartTimeUTC string `json:"lastStartTimeUtc"`
	Settings         struct {
		Image     string `json:"image"`
		ImageHash string `json:"imageHash"`
	} `json:"settings"`
	Env map[string]struct {
		Value string `json:"value"`
	} `json:"env"`
}

// All returns the system modules and the others in one map.
func (a AgentReport) All() map[string]ModuleReport {
	all := make(map[string]ModuleReport, len(a.Modules)+2)
	for k, v := range a.SystemModules {
		all[k] = v
	}
	for k, v := range a.Modules {
		all[k] = v
	}
	return all
}

// AgentReport reads the agent's reported properties and the version of its desired
// ones from the cloud.
func (r *Rig) AgentReport(ctx context.Context) (AgentReport, int64, error) {
	out, err := r.IoTHub(ctx, "twin", "show", EdgeID, "$edgeAgent")
	if err != nil {
		return AgentReport{}, 0, err
	}
	var twin struct {
		Properties struct {
			Desired struct {
				Version int64 `json:"$version"`
			} `json:"desired"`
			Reported AgentReport `json:"reported"`
		} `json:"properties"`
	}
	if err := json.Unmarshal([]byte(out), &twin); err != nil {
		return AgentReport{}, 0, fmt.Errorf("twin of the agent: %w", err)
	}
	return twin.Properties.Reported, twin.Properties.Desired.Version, nil
}

// WaitDeployed waits until the agent reports that it has carried out the current
// manifest and that every module of it runs.
func (r *Rig) WaitDeployed(ctx context.Context) (AgentReport, error) {
	var last AgentReport
	err := poll(ctx, time.Second, "wait for the deployment", func() (bool, error) {
		if r.edged != nil && r.edged.Ended() {
			return false, final{fmt.Errorf("edged ended: %w; see %s", r.edged.err, r.logPath("edged"))}
		}
		report, version, err := r.AgentReport(ctx)
		if err != nil {
			return false, err
		}
		last = report
		if report.LastDesiredVersion != version || report.LastDesiredStatus.Code != 200 {
			return false, fmt.Errorf("agent reports version %d of %d, status %d %q", report.LastDesiredVersion,
				version, report.LastDesiredStatus.Code, report.LastDesiredStatus.Description)
		}
		for name, m := range report.All() {
			if m.RuntimeStatus != "running" {
				return false, fmt.Errorf("module %s is %s", name, m.RuntimeStatus)
			}
		}
		return true, nil
	})
	return last, err
}
