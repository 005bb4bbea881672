//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// nodeModule deploys the module of the stock Node SDK beside the others, sees what
// it sends and what it passes on arrive in the cloud under its own name, has it
// answer a method, and removes it again.
func (p *path) nodeModule(t *testing.T) {
	const name, id = "module-node", rig.EdgeID + "/module-node"
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	report := p.deploy(t, func(modules map[string]any) {
		modules[name] = map[string]any{
			"type": "docker", "version": "1.0", "status": "running", "restartPolicy": "always", "startupOrder": 3,
			"settings": map[string]any{"image": "localhost:5000/breakwater/module-node:dev", "createOptions": "{}"},
		}
		routes := p.routes()
		routes["sensorToNode"] = `FROM /messages/modules/temperature-sensor/* INTO BrokeredEndpoint("/modules/module-node/inputs/input1")`
		routes["nodeToCloud"] = "FROM /messages/modules/module-node/* INTO $upstream"
	})
	if got := report.Modules[name].RuntimeStatus; got != "running" {
		t.Errorf("%s is reported as %q", name, got)
	}
	eventually(t, ctx, "messages of "+id, func() error {
		own, passedOn := 0, 0
		for _, key := range p.Arrived.Keys(id) {
			if strings.HasPrefix(key, "node-") {
				own++
			} else {
				passedOn++
			}
		}
		if own < 3 || passedOn < 3 {
			return fmt.Errorf("%d of its own and %d of the sensor arrived", own, passedOn)
		}
		return nil
	})
	out, err := p.IoTHub(ctx, "method", rig.EdgeID, name, "echo", "--payload", `{"question":42}`)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status  int `json:"status"`
		Payload struct {
			Echo struct {
				Question int `json:"question"`
			} `json:"echo"`
		} `json:"payload"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Status != 200 || answer.Payload.Echo.Question != 42 {
		t.Errorf("echo answered %q, %v", out, err)
	}
	p.onlyChanged(t, before)
	p.deploy(t, func(modules map[string]any) {
		delete(modules, name)
		maps.DeleteFunc(p.routes(), func(route string, _ any) bool { return route == "sensorToNode" || route == "nodeToCloud" })
	})
	if p.pids(t)[name] != 0 {
		t.Error("the module still runs")
	}
	p.onlyChanged(t, before)
}

// routes are those of the manifest in force.
func (p *path) routes() map[string]any {
	hub := p.manifest["modulesContent"].(map[string]any)["$edgeHub"].(map[string]any)
	return hub["properties.desired"].(map[string]any)["routes"].(map[string]any)
}
