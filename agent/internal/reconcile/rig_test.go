package reconcile_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
	"github.com/breakwater-iot/breakwater/agent/internal/twin"
)

// rig is an agent's loop with a daemon and a cloud in memory, in virtual time.
type rig struct {
	t      *testing.T
	daemon *edgedtest.Daemon
	cloud  *edgedtest.Cloud
	mirror *twin.Mirror
	sealer *edgedtest.Sealer
	folder string
	opts   reconcile.Options
	end    func()
	kill   bool // end without shutdown
}

func newRig(t *testing.T, desired string) *rig {
	return &rig{
		t: t, daemon: edgedtest.New("agent:1"), cloud: edgedtest.NewCloud(desired),
		sealer: &edgedtest.Sealer{Key: "k"}, folder: t.TempDir(),
		opts: reconcile.Options{
			Host: launch.Host{
				HubName: "hub", DeviceID: "dev", HostName: "gw", WorkloadURI: "unix:///var/run/iotedge/workload.sock",
				ManagementURI: "unix:///var/run/iotedge/mgmt.sock", SocketsURI: "unix:///var/lib/aziot/edged/mnt",
				APIVersion: "2022-08-03", NetworkID: "azure-iot-edge",
			},
			Build: report.Build{Version: "1.0.0"}, Policy: plan.DefaultPolicy(),
			Log: slog.New(slog.DiscardHandler),
		},
	}
}

// start runs a new agent process on the rig's daemon, cloud and folder.
func (r *rig) start(connected bool) {
	r.t.Helper()
	store, warn, err := state.Open(state.Options{Folder: r.folder, Sealer: r.sealer})
	if err != nil || warn != nil {
		r.t.Fatal(err, warn)
	}
	r.mirror = twin.New(r.cloud, twin.Options{Refresh: time.Hour, Timeout: 30 * time.Second, Log: r.opts.Log})
	loop := reconcile.New(r.daemon, r.daemon, r.mirror, store, r.opts)
	ctx, cancel := context.WithCancel(context.Background())
	mirrorCtx, endMirror := context.WithCancel(context.Background())
	loopDone, mirrorDone, watchDone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	changed, unwatch := r.daemon.Watch()
	go func() { defer close(mirrorDone); _ = r.mirror.Run(mirrorCtx) }()
	go func() {
		defer close(loopDone)
		if err := loop.Run(ctx); err != nil {
			r.t.Error(err)
		}
		if !r.kill {
			loop.Shutdown(mirrorCtx)
		}
	}()
	go func() {
		defer close(watchDone)
		for {
			select {
			case <-changed:
				loop.Wake()
			case <-ctx.Done():
				return
			}
		}
	}()
	if connected {
		r.mirror.HandleConnection(true)
	}
	r.end = func() {
		cancel()
		<-loopDone
		endMirror()
		<-mirrorDone
		<-watchDone
		unwatch()
	}
}

// push makes desired the section of the cloud and tells the agent.
func (r *rig) push(desired string) {
	r.cloud.SetDesired(desired)
	r.mirror.HandleDesired(json.RawMessage(`{"$version":-1}`)) // a gap: pull all
	synctest.Wait()
}

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect compares the calls since the last time, and forgets them.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.daemon.Calls(); !slices.Equal(got, want) {
		r.t.Fatalf("calls:\n got %q\nwant %q", got, want)
	}
}

type reported struct {
	LastDesiredVersion int64
	LastDesiredStatus  report.Status
	Runtime            map[string]any
	SystemModules      map[string]map[string]any
	Modules            map[string]map[string]any
}

func (r *rig) reported() reported {
	r.t.Helper()
	synctest.Wait()
	var v reported
	if err := json.Unmarshal(r.cloud.Reported(), &v); err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) expectStatus(version int64, code int) {
	r.t.Helper()
	v := r.reported()
	if v.LastDesiredVersion != version || v.LastDesiredStatus.Code != code {
		r.t.Fatalf("version %d, status %+v; want version %d, code %d", v.LastDesiredVersion, v.LastDesiredStatus, version, code)
	}
}

// expectRuntimeStatus looks at what is reported of edgeHub, a and the agent.
func (r *rig) expectRuntimeStatus(want string) {
	r.t.Helper()
	v := r.reported()
	for _, m := range []map[string]any{v.Modules["a"], v.SystemModules["edgeAgent"], v.SystemModules["edgeHub"]} {
		if m["runtimeStatus"] != want {
			r.t.Errorf("%v: runtimeStatus %v, want %s", m["settings"], m["runtimeStatus"], want)
		}
	}
}

// in runs f in virtual time, on a rig that has deployed desired and is quiet.
func in(t *testing.T, desired string, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired)
		r.start(true)
		r.pass(time.Second)
		r.daemon.Calls()
		f(r)
		r.end()
	})
}

// mod is one module of a manifest in short.
type mod struct {
	name, image, status, policy, options string
	order                                int // 0: none
	env                                  map[string]string
}

func (m mod) text() string {
	def := func(s, v string) string {
		if s == "" {
			return v
		}
		return s
	}
	env := map[string]map[string]string{}
	for k, v := range m.env {
		env[k] = map[string]string{"value": v}
	}
	doc := map[string]any{
		"type": "docker", "status": def(m.status, "running"), "env": env,
		"settings": map[string]any{"image": def(m.image, m.name+":1"), "createOptions": def(m.options, "{}")},
	}
	if m.policy != "" {
		doc["restartPolicy"] = m.policy
	}
	if m.order != 0 {
		doc["startupOrder"] = m.order
	}
	b, _ := json.Marshal(doc)
	return string(b)
}

// desired writes a manifest with edgeAgent agent:1.
func desired(version int, mods ...mod) string {
	system := []string{`"edgeAgent":{"type":"docker","settings":{"image":"agent:1"}}`}
	var users []string
	for _, m := range mods {
		entry := fmt.Sprintf("%q:%s", m.name, m.text())
		switch m.name {
		case "edgeAgent":
			system[0] = entry
		case "edgeHub":
			system = append(system, entry)
		default:
			users = append(users, entry)
		}
	}
	return fmt.Sprintf(`{"$version":%d,"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"minDockerVersion":"v1.25"}},
		"systemModules":{%s},"modules":{%s}}`, version, strings.Join(system, ","), strings.Join(users, ","))
}
