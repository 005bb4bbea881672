//go:build e2e

package e2e

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestAgent brings a device up and tests what its agent does beside deploying.
func TestAgent(t *testing.T) {
	p := newPath(t, rig.Options{DeviceConfig: imagePolicies}, 10*time.Minute)
	if _, err := p.Bring(p.within(t, 5*time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"an image that the device's policy does not let run is reported", p.untrusted},
		{"a module that becomes unhealthy is reported, and restarted if its policy says so", p.unhealthy},
		{"logs and the support bundle are uploaded", p.uploads},
		{"and to a storage server that is not ours", p.storage},
		{"a safe deployment that does not become healthy is taken back", p.takenBack},
		{"one that does is accepted, a new agent in it that gives up root", p.accepted},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

// files is a server in the cloud's network that keeps what is put there.
type files struct {
	mu   sync.Mutex
	kept map[string][]byte
	head map[string]http.Header
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPut || r.URL.RawQuery != "token=hush" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[r.URL.Path], f.head[r.URL.Path] = body, r.Header
	w.WriteHeader(http.StatusCreated)
}

func (f *files) find(t *testing.T, prefix, suffix string) ([]byte, http.Header) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, body := range f.kept {
		if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			return body, f.head[name]
		}
		names = append(names, name)
	}
	t.Fatalf("no %s*%s among %q", prefix, suffix, names)
	return nil, nil
}

// agentMethod calls a method of the agent.
func (p *path) agentMethod(t *testing.T, ctx context.Context, name, payload string) (status int, body json.RawMessage) {
	t.Helper()
	out, err := p.IoTHub(ctx, "method", rig.EdgeID, "$edgeAgent", name, "--payload", payload)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status  int             `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answer.Status, answer.Payload
}

// task begins a task and waits until it is completed.
func (p *path) task(t *testing.T, ctx context.Context, name, payload string) {
	t.Helper()
	status, body := p.agentMethod(t, ctx, name, payload)
	var task struct{ Status, Message, CorrelationID string }
	if err := json.Unmarshal(body, &task); err != nil || status != http.StatusOK {
		t.Fatalf("%s answered %d %s", name, status, body)
	}
	eventually(t, ctx, name, func() error {
		_, body := p.agentMethod(t, ctx, "GetTaskStatus", fmt.Sprintf(`{"schemaVersion":"1.0","correlationId":%q}`, task.CorrelationID))
		if err := json.Unmarshal(body, &task); err != nil {
			return err
		}
		if task.Status == "Failed" {
			t.Fatal(task.Message)
		}
		if task.Status != "Completed" {
			return fmt.Errorf("task is %s", task.Status)
		}
		return nil
	})
}

func (p *path) uploads(t *testing.T) {
	ctx := p.within(t, time.Minute)
	l, err := rig.Cloud.Listen("10.90.1.2:8099")
	if err != nil {
		t.Fatal(err)
	}
	kept := &files{kept: map[string][]byte{}, head: map[string]http.Header{}}
	server := &http.Server{Handler: kept, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	defer func() { server.Close(); <-served }()
	eventually(t, ctx, "the sensor's first acknowledged message", func() error {
		out, err := p.EdgeCtl(ctx, "logs", "temperature-sensor")
		if err == nil && !strings.Contains(out, `"msg":"acknowledged"`) {
			err = fmt.Errorf("its log is %.300q", out)
		}
		return err
	})
	const target = `"schemaVersion":"1.0","sasUrl":"http://10.90.1.2:8099/in?token=hush"`
	p.task(t, ctx, "UploadModuleLogs", `{`+target+`,"encoding":"gzip","items":[{"id":"sensor","filter":{"regex":"acknowledged","tail":50}}]}`)
	p.task(t, ctx, "UploadModuleLogs", `{`+target+`,"contentType":"json","items":[{"id":"edgeAgent"}]}`)
	p.task(t, ctx, "UploadSupportBundle", `{`+target+`,"edgeRuntimeOnly":true}`)

	folder := "/in/" + rig.HubName + "/" + rig.EdgeID + "/"
	zipped, head := kept.find(t, folder+"temperature-sensor-", ".log.gz")
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !bytes.Contains(text, []byte(`"msg":"acknowledged"`)) || head.Get("x-ms-blob-type") == "" || head.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v, %v: %.500s", err, head, text)
	}
	doc, _ := kept.find(t, folder+"edgeAgent-", ".json")
	var list []struct{ Text, Device string }
	if err := json.Unmarshal(doc, &list); err != nil || len(list) == 0 || list[0].Device != rig.EdgeID {
		t.Errorf("%v: %.500s", err, doc)
	}
	if strings.Contains(string(doc), "hush") {
		t.Error("the agent's log holds the address that it uploads to")
	}
	bundle, _ := kept.find(t, folder+"support-bundle-", ".zip")
	archive, err := zip.NewReader(bytes.NewReader(bundle), int64(len(bundle)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(archive.File, func(f *zip.File) bool { return f.Name == "logs/edgeHub_log.txt" }) {
		t.Errorf("%d files in the bundle", len(archive.File))
	}
}

// safely deploys the manifest in force, changed, with the demand for safety.
func (p *path) safely(t *testing.T, ctx context.Context, agentEnv map[string]any, change func(modules map[string]any)) {
	t.Helper()
	p.apply(t, ctx, func(d map[string]any) {
		agent := d["systemModules"].(map[string]any)["edgeAgent"].(map[string]any)
		for k, v := range map[string]string{"SafeDeployment": "true", "SafeDeploymentTimeoutSecs": "8", "SafeDeploymentSettleSecs": "2"} {
			agent["env"].(map[string]any)[k] = map[string]any{"value": v}
		}
		change(d["modules"].(map[string]any))
		if agentEnv != nil {
			maps.Copy(agent["env"].(map[string]any), agentEnv)
		}
	})
}

// safeState reads what the agent reports of the safe deployment.
func (p *path) safeState(ctx context.Context) (state, reason string, err error) {
	out, err := p.IoTHub(ctx, "twin", "show", rig.EdgeID, "$edgeAgent")
	if err != nil {
		return "", "", err
	}
	var twin struct {
		Properties struct {
			Reported struct {
				SafeDeployment struct{ State, Reason string }
			}
		}
	}
	err = json.Unmarshal([]byte(out), &twin)
	s := twin.Properties.Reported.SafeDeployment
	return s.State, s.Reason, err
}

func (p *path) takenBack(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	const image = "breakwater/filter:moving"
	if _, err := p.CopyImage(ctx, "breakwater/filter:dev", image, nil); err != nil {
		t.Fatal(err)
	}
	good := p.deploy(t, func(modules map[string]any) {
		modules["filter"].(map[string]any)["settings"].(map[string]any)["image"] = "localhost:5000/" + image
	}).Modules["filter"].Settings.ImageHash
	before := p.pids(t)
	// A program that ends at once, under the same tag: it lacks what it needs in this place.
	if _, err := p.CopyImage(ctx, "breakwater/edgeagent:dev", image, nil); err != nil {
		t.Fatal(err)
	}
	p.safely(t, ctx, nil, func(modules map[string]any) {
		modules["filter"].(map[string]any)["version"] = "1.1"
		modules["second"] = module("localhost:5000/breakwater/temperature-sensor:dev", "{}")
	})
	eventually(t, ctx, "the trial", func() error {
		if s, _, err := p.safeState(ctx); err != nil || s != "trial" {
			return fmt.Errorf("state %q, %v", s, err)
		}
		return nil
	})
	eventually(t, ctx, "the way back", func() error {
		s, reason, err := p.safeState(ctx)
		if err != nil || s != "returned" {
			return fmt.Errorf("state %q, %v", s, err)
		}
		report, version, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		if report.LastDesiredStatus.Code != 500 || !strings.Contains(reason, "filter") || report.LastDesiredVersion >= version {
			return fmt.Errorf("reason %q, report %+v", reason, report)
		}
		filter := report.Modules["filter"]
		if filter.RuntimeStatus != "running" || filter.Settings.ImageHash != good || good == "" || len(report.Modules) != 2 {
			return fmt.Errorf("modules %+v, filter was %s", report.Modules, good)
		}
		return nil
	})
	p.onlyChanged(t, before, "filter")
}

func (p *path) accepted(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	before := p.pids(t)
	// The new agent needs its time to come up.
	user := map[string]any{
		"EDGEAGENTUSER_ID":          map[string]any{"value": "13622"},
		"SafeDeploymentTimeoutSecs": map[string]any{"value": "60"},
	}
	p.safely(t, ctx, user, func(modules map[string]any) {
		filter := modules["filter"].(map[string]any)
		filter["settings"].(map[string]any)["image"] = "localhost:5000/breakwater/filter:dev"
		filter["version"] = "2.0"
	})
	eventually(t, ctx, "acceptance", func() error {
		if s, reason, err := p.safeState(ctx); err != nil || s != "accepted" {
			return fmt.Errorf("state %q, %s, %v", s, reason, err)
		}
		return nil
	})
	report, err := p.WaitDeployed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Modules) != 3 {
		t.Errorf("modules %+v", report.Modules)
	}
	if p.pids(t)["edgeAgent"] == before["edgeAgent"] {
		t.Error("the agent was not replaced")
	}
	for name, pid := range p.pids(t) {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			for line := range strings.Lines(string(text)) {
				fields := strings.Fields(line)
				if strings.HasPrefix(line, "Rss") {
					t.Logf("%s %s", name, strings.Join(fields, " "))
				}
				if name == "edgeAgent" && (fields[0] == "Uid:" || fields[0] == "Gid:") && strings.Join(fields[1:], " ") != "13622 13622 13622 13622" {
					t.Errorf("the agent runs with %q", fields)
				}
			}
		}
	}
}
