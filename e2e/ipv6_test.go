//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestIPv6 runs the path with a module network that has IPv6, and a leaf that has nothing
// else.
func TestIPv6(t *testing.T) {
	p := newPath(t, rig.Options{DeviceConfig: "\n[moby_runtime.network]\nname = \"azure-iot-edge\"\nipv6 = true\n"}, 5*time.Minute)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"everything comes up and the agent reports 200 with its modules", p.comesUp},
		{"edgectl check finds the network as it is configured", p.ipv6Checks},
		{"messages of the module and of a leaf that has only IPv6 arrive in the cloud", p.leafOverIPv6},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

func (p *path) ipv6Checks(t *testing.T) {
	ctx := p.within(t, time.Minute)
	out, err := p.EdgeCtl(ctx, "check", "--config-file", filepath.Join(p.Dir, "device", "config.toml"),
		"--dont-run", "host-local-time,hostname,container-local-time,container-engine-dns", "--output", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var report struct {
		Checks map[string]struct {
			Result  string   `json:"result"`
			Details []string `json:"details"`
		} `json:"checks"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	got := report.Checks["container-engine-ipv6"]
	if got.Result != "ok" || slices.Equal(got.Details, []string{"modules have IPv4 addresses only"}) {
		t.Errorf("%+v", got)
	}
}

func (p *path) leafOverIPv6(t *testing.T) {
	if err := rig.LeafOverIPv6(p.within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	p.messagesArrive(t)
}
