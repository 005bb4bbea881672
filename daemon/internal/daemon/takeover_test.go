package daemon_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
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
			ctx := t.Context()
			d.leaveModule(t)
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

// leaveModule runs the daemon once, and leaves the agent and the module temp running.
func (d *device) leaveModule(t *testing.T) {
	t.Helper()
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
}

// asked is an engine that asks the daemon to end when it is called the first time to stop,
// or to take over, a module.
type asked struct {
	*runtimetest.Fake
	onStop, onRebind func()
}

func (a asked) Stop(ctx context.Context, name string, timeout time.Duration) error {
	a.onStop()
	return a.Fake.Stop(ctx, name, timeout)
}

func (a asked) Rebind(ctx context.Context, name string, paths ...string) error {
	a.onRebind()
	return a.Fake.Rebind(ctx, name, paths...)
}

func TestEndWhileTheDaemonStarts(t *testing.T) {
	const source = "[provisioning]\nsource = \"dps\"\nglobal_endpoint = \"https://127.0.0.1:1\"\nid_scope = \"s\"\n" +
		"[provisioning.attestation]\nmethod = \"symmetric_key\"\nregistration_id = \"r\"\nsymmetric_key = { value = \"" + deviceKey + "\" }"
	none := func() {}
	for name, moment := range map[string]struct {
		change func(d *device)
		when   func(o *daemon.Options, a *asked, end func())
	}{
		"while it takes modules over": {func(*device) {}, func(_ *daemon.Options, a *asked, end func()) { a.onRebind = end }},
		"while it stops modules": {
			func(d *device) { d.more = "[watchdog]\nmax_retries = 3" },
			func(_ *daemon.Options, a *asked, end func()) { a.onStop = end },
		},
		"while it waits to be provisioned": {
			func(d *device) { d.source = source },
			func(o *daemon.Options, _ *asked, end func()) { o.Status = func(string) { end() } },
		},
	} {
		for how, end := range map[string]struct {
			cause error
			want  runtime.Status
		}{"with its modules": {nil, runtime.StatusExited}, "without its modules": {daemon.ErrLeave, runtime.StatusRunning}} {
			t.Run(name+", "+how, func(t *testing.T) {
				d := newDevice(t)
				d.leaveModule(t)
				moment.change(d)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				a := asked{d.engine, none, none}
				o := d.options(d.config(t))
				moment.when(&o, &a, sync.OnceFunc(func() { cancel(end.cause) }))
				o.Runtime = a
				if err := daemon.Run(ctx, o); err != nil {
					t.Errorf("ends with %v", err)
				}
				for _, m := range []string{"temp", "edgeAgent"} {
					if s, err := d.engine.Get(t.Context(), m); err != nil || s.Status != end.want {
						t.Errorf("%s is %s (%v), want %s", m, s.Status, err, end.want)
					}
				}
			})
		}
	}
}

func TestModulesThatCouldNotBeStoppedAreStoppedByTheNextStart(t *testing.T) {
	d := newDevice(t)
	d.leaveModule(t)
	d.more = "[watchdog]\nmax_retries = 3"
	d.engine.Fail("Stop", errors.New("engine is busy"))
	d.run(t)
	d.leave()
	if s, err := d.engine.Get(t.Context(), "temp"); err != nil || s.Status != runtime.StatusRunning {
		t.Fatalf("%+v, %v", s, err)
	}
	d.engine.Fail("Stop", nil)
	d.run(t)
	if s, err := d.engine.Get(t.Context(), "temp"); err != nil || s.Status != runtime.StatusExited {
		t.Errorf("a module of another configuration runs on: %+v, %v", s, err)
	}
}

func TestTheSameDeviceStartsUnderTheSameTerms(t *testing.T) {
	t.Run("warnings and certificates by id", func(t *testing.T) {
		d := newDevice(t)
		d.more = "[localid]\ndomain = \"x\"\n[preloaded_keys]\na = \"file:///a\"\nb = \"file:///b\"\n[preloaded_certs]\na = \"file:///a\"\n" +
			"[cert_issuance.certs.\"aziot-edged/module/a:6380000000000001:server\"]\nexpiry_days = 1\n" +
			"[cert_issuance.certs.\"aziot-edged/module/a:6380000000000002:server\"]\nexpiry_days = 2"
		d.keepsTerms(t)
	})
	t.Run("DPS", func(t *testing.T) { dpsDevice(t, newDPS(t)).keepsTerms(t) })
	t.Run("DPS at every start", func(t *testing.T) {
		d := dpsDevice(t, newDPS(t))
		d.top += "auto_reprovisioning_mode = \"AlwaysOnStartup\"\n"
		d.keepsTerms(t)
	})
}

// keepsTerms checks that modules run on over some starts of the daemon.
func (d *device) keepsTerms(t *testing.T) {
	t.Helper()
	d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.leave()
	const starts = 5
	for range starts {
		d.run(t)
		d.leave()
	}
	if got := len(d.engine.Rebound("edgeAgent")); got != 3*starts {
		t.Errorf("%d sockets bound anew, want %d:\n%s", got, 3*starts, &d.log)
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
