package daemon_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func TestModulesOutliveTheDaemon(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(t *testing.T, d *device)
		runsOn bool
	}{
		"nothing changed":                        {func(*testing.T, *device) {}, true},
		"the registry is away":                   {func(_ *testing.T, d *device) { d.registry.down = true }, true},
		"the configuration changed":              {func(_ *testing.T, d *device) { d.more = "[watchdog]\nmax_retries = 3" }, false},
		"a device without a record of the terms": {func(t *testing.T, d *device) { remove(t, d, "cache/terms.json") }, false},
		"a damaged record of the terms":          {func(t *testing.T, d *device) { damage(t, d, "cache/terms.json") }, false},
		"an edge CA that modules do not know":    {func(t *testing.T, d *device) { remove(t, d, "keys/edge_ca.pem"); remove(t, d, "certs/edge_ca.pem") }, false},
		"another device":                         {func(_ *testing.T, d *device) { d.id = "edge2" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.run(t)
			d.until(t, "edgeAgent", runtime.StatusRunning)
			ctx := t.Context()
			if _, err := d.engine.Pull(ctx, runtime.PullRequest{Image: "reg/temp:1"}); err != nil {
				t.Fatal(err)
			}
			if err := d.engine.Create(ctx, runtime.Spec{Name: "temp", Image: "reg/temp:1", Options: createopts.Options{Cmd: []string{"exit=-1"}}}); err != nil {
				t.Fatal(err)
			}
			if err := d.engine.Start(ctx, "temp"); err != nil {
				t.Fatal(err)
			}
			d.leave()
			before, err := d.engine.Get(ctx, "temp")
			if err != nil || before.Status != runtime.StatusRunning {
				t.Fatalf("after the daemon's end: %+v, %v", before, err)
			}
			tc.change(t, d)
			d.run(t)
			after, err := d.engine.Get(ctx, "temp")
			if !tc.runsOn {
				if err == nil && after.Status == runtime.StatusRunning {
					t.Fatal("runs on")
				}
				return
			}
			if err != nil || after.Pid != before.Pid {
				t.Fatalf("does not run on: %+v, %v", after, err)
			}
			want := []string{d.dir + "/run/workload.sock", d.dir + "/run/mgmt.sock", d.dir + "/home/mnt/temp.sock"}
			if got := d.engine.Rebound("temp"); !slices.Equal(got, want) {
				t.Errorf("sockets made anew: %q, want %q", got, want)
			}
			d.engine.AddProcess(os.Getpid(), "temp")
			if _, err := workloadv1.NewWorkloadClient(d.dial(t, "home/mnt/temp.sock")).GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// remove and damage change a file of the daemon's home.
func remove(t *testing.T, d *device, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "home", file)); err != nil {
		t.Fatal(err)
	}
}

func damage(t *testing.T, d *device, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "home", file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUsersTrustBundleThatChangedStopsModules(t *testing.T) {
	d := newDevice(t)
	file := filepath.Join(d.dir, "bundle.pem")
	d.top = "trust_bundle_cert = \"file://" + file + "\""
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for i, start := range []struct {
		bundle []byte
		runsOn bool
	}{{root, false}, {root, true}, {append(root, root...), false}} {
		if err := os.WriteFile(file, start.bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(d.engine.Rebound("edgeAgent"))
		d.run(t)
		if runsOn := len(d.engine.Rebound("edgeAgent")) > before; runsOn != start.runsOn {
			t.Errorf("start %d: the agent runs on: %t", i, runsOn)
		}
		d.until(t, "edgeAgent", runtime.StatusRunning)
		d.leave()
	}
}
