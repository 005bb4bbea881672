package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	"github.com/breakwater-iot/breakwater/daemon/internal/watchdog"
	"github.com/breakwater-iot/breakwater/proto/filelock/filelocktest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deviceKey = "c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc4OTA="

// registry is the cloud's registry in memory.
type registry struct {
	mu      sync.Mutex
	modules map[string]rest.Module
	down    bool
	refused error // what it answers; nil: what was asked for
}

func newRegistry() *registry {
	return &registry{modules: map[string]rest.Module{
		"$edgeAgent": {ModuleID: "$edgeAgent", GenerationID: "637000000000000007", ManagedBy: "iotEdge"},
	}}
}

func (r *registry) begin() error {
	r.mu.Lock()
	if r.down {
		return errors.New("network is unreachable")
	}
	return r.refused
}

func (r *registry) GetModule(_ context.Context, id iothub.Identity) (rest.Module, error) {
	err := r.begin()
	defer r.mu.Unlock()
	m, ok := r.modules[id.Module]
	if err == nil && !ok {
		err = &rest.Error{Status: http.StatusNotFound}
	}
	return m, err
}

func (r *registry) PutModule(_ context.Context, m rest.Module, _ string) (rest.Module, error) {
	err := r.begin()
	defer r.mu.Unlock()
	if err != nil {
		return rest.Module{}, err
	}
	m.GenerationID = "637000000000000001"
	if old, ok := r.modules[m.ModuleID]; ok {
		m.GenerationID = old.GenerationID
	}
	r.modules[m.ModuleID] = m
	return m, nil
}

func (r *registry) DeleteModule(_ context.Context, id iothub.Identity, _ string) error {
	err := r.begin()
	defer r.mu.Unlock()
	delete(r.modules, id.Module)
	return err
}

func (r *registry) ListModules(context.Context, string) ([]rest.Module, error) {
	err := r.begin()
	defer r.mu.Unlock()
	var out []rest.Module
	for _, m := range r.modules {
		out = append(out, m)
	}
	return out, err
}

// device is what stays between two runs of the daemon.
type device struct {
	dir      string
	engine   *runtimetest.Fake
	registry *registry
	id       string
	source   string // [provisioning] in place of a connection string
	parent   string // host and port of the edge device above, if there is one
	top      string // config above all tables
	more     string // further config
	log      syncBuffer
	done     chan error
	leave    func() // ends the daemon without its modules
	chip     daemon.TPM
	token    daemon.Token
	stopping func(module string) // if set, before the engine stops one
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// engineThatTells tells of each stop.
type engineThatTells struct {
	*runtimetest.Fake
	stopping func(module string)
}

func (e engineThatTells) Stop(ctx context.Context, module string, limit time.Duration) error {
	e.stopping(module)
	return e.Fake.Stop(ctx, module, limit)
}

func newDevice(t *testing.T) *device {
	t.Helper()
	return &device{dir: t.TempDir(), engine: runtimetest.New("reg/agent:1", "reg/temp:1"), registry: newRegistry(), id: "edge1"}
}

func (d *device) config(t *testing.T) config.Config {
	t.Helper()
	source := fmt.Sprintf(`[provisioning]
source = "manual"
connection_string = "HostName=hub.example.net;DeviceId=%s;SharedAccessKey=%s"`, d.id, deviceKey)
	if d.source != "" {
		source = d.source
	}
	text := fmt.Sprintf(`hostname = "gateway.local"
homedir = "%[1]s/home"
%[2]s
%[3]s
[agent.config]
image = "reg/agent:1"
createOptions = { Env = ["FROM_OPTIONS=1"], HostConfig = { Binds = ["/data:/data"] } }
[agent.config.auth]
serveraddress = "reg"
username = "u"
password = "hunter2"
[agent.env]
RuntimeLogLevel = "debug"
IOTEDGE_DEVICEID = "forged"
IOTEDGE_GATEWAYHOSTNAME = "forged"
[listen]
workload_uri = "unix://%[1]s/run/workload.sock"
management_uri = "unix://%[1]s/run/mgmt.sock"
%[4]s`, d.dir, d.top, source, d.more)
	c, err := config.Parse([]byte(text), "machine")
	if err != nil {
		t.Fatal(err)
	}
	if d.parent != "" {
		c.ParentHostname = d.parent // in the file it has no port
		c.Device = c.Assigned(c.Device.HubName, c.Device.DeviceID)
	}
	return c
}

func (d *device) options(cfg config.Config) daemon.Options {
	o := daemon.Options{
		Config: cfg, Runtime: d.engine, Version: "1.0", AdminGroup: -1,
		Log: slog.New(slog.NewTextHandler(&d.log, nil)), TPM: d.chip, Token: d.token,
	}
	if d.registry != nil {
		o.Registry = d.registry
	}
	if d.stopping != nil {
		o.Runtime = engineThatTells{d.engine, d.stopping}
	}
	return o
}

// ended waits until the daemon ends by itself, and returns its error.
func (d *device) ended(t *testing.T, stop func() error) error {
	t.Helper()
	select {
	case err := <-d.done:
		d.done <- err // for stop
		return stop()
	case <-time.After(30 * time.Second):
		t.Fatalf("does not end:\n%s", &d.log)
		return nil
	}
}

// run starts the daemon and waits until it is ready.
func (d *device) run(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	cfg := d.config(t)
	unlock, err := daemon.LockHome(cfg.HomeDir)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		o := d.options(cfg)
		o.Ready = func() { close(ready) }
		err := daemon.Run(ctx, o)
		unlock()
		done <- err
	}()
	d.done = done
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() { cancel(nil); err = <-done })
		return err
	}
	d.leave = func() {
		cancel(daemon.ErrLeave)
		if err := stop(); err != nil {
			t.Errorf("leave: %v", err)
		}
	}
	t.Cleanup(func() { _ = stop() })
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("start: %v", err)
	}
	return stop
}

func (d *device) dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(d.dir, path), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// until waits for an event of a module, or for the state that it leads to.
func (d *device) until(t *testing.T, name string, want runtime.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events := d.engine.Events(ctx)
	for {
		if st, err := d.engine.Get(ctx, name); err == nil && st.Status == want {
			return
		}
		if _, ok := <-events; !ok {
			t.Fatalf("%s is never %s:\n%s", name, want, &d.log)
		}
	}
}

func TestBootstrapAgent(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	spec, _ := d.engine.Spec("edgeAgent")
	env := map[string]string{}
	for _, e := range spec.Options.Env {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	for k, v := range map[string]string{
		"IOTEDGE_WORKLOADURI": "unix:///var/run/iotedge/workload.sock", "IOTEDGE_MANAGEMENTURI": "unix:///var/run/iotedge/mgmt.sock",
		"IOTEDGE_WORKLOADLISTEN_MNTURI": "unix://" + d.dir + "/home/mnt", "IOTEDGE_DEVICEID": "edge1", "IOTEDGE_MODULEID": "$edgeAgent",
		"IOTEDGE_MODULEGENERATIONID": "637000000000000007", "IOTEDGE_IOTHUBHOSTNAME": "hub.example.net", "EdgeDeviceHostName": "gateway.local",
		"IOTEDGE_AUTHSCHEME": "sasToken", "IOTEDGE_APIVERSION": "2022-08-03", "Mode": "iotedged", "NetworkId": "azure-iot-edge",
		"RuntimeLogLevel": "debug", "FROM_OPTIONS": "1",
	} {
		if env[k] != v {
			t.Errorf("%s=%q, want %q", k, env[k], v)
		}
	}
	if _, ok := env["IOTEDGE_GATEWAYHOSTNAME"]; ok {
		t.Error("gateway named without a parent")
	}
	binds := []string{"/data:/data", d.dir + "/home/mnt/edgeAgent.sock:/var/run/iotedge/workload.sock", d.dir + "/run/mgmt.sock:/var/run/iotedge/mgmt.sock"}
	if !slices.Equal(spec.Options.HostConfig.Binds, binds) {
		t.Errorf("binds %q", spec.Options.HostConfig.Binds)
	}
	if n := spec.Options.NetworkingConfig; n == nil || n.EndpointsConfig["azure-iot-edge"] == nil {
		t.Error("not in the module network")
	}
	if l := spec.Options.Labels; l["net.azure-devices.edge.create-options"] != "{}" || l["net.azure-devices.edge.env"] != "{}" {
		t.Errorf("labels %v", l)
	}
	if p := d.engine.Pulls(); len(p) != 1 || p[0].Auth.Password != "hunter2" {
		t.Errorf("pulls %v", p)
	}
	d.registry.mu.Lock()
	auth := d.registry.modules["$edgeAgent"].Authentication
	d.registry.mu.Unlock()
	ring, err := keys.Open(filepath.Join(d.dir, "home", "keys"), keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if primary, _ := ring.ModuleKeys("$edgeAgent", "637000000000000007"); auth == nil || string(auth.SymmetricKey.PrimaryKey) != primary {
		t.Error("agent's derived key is not registered")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if out := d.log.String(); strings.Contains(out, "hunter2") || strings.Contains(out, deviceKey) {
		t.Error("secret in the log")
	}
}

func TestModesOfFilesAndSockets(t *testing.T) {
	d := newDevice(t)
	d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	for path, mode := range map[string]os.FileMode{
		"home/keys": 0o700, "home/keys/identity-master": 0o600, "home/keys/edge_ca.pem": 0o600, "home/cache": 0o700,
		"home/cache/identities.json": 0o600, "home/mnt/edgeAgent.sock": 0o666, "run/workload.sock": 0o666, "run/mgmt.sock": 0o660,
	} {
		st, err := os.Stat(filepath.Join(d.dir, path))
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %04o", path, st, err, mode)
		}
	}
}

func TestAgentManagesModulesAndModulesSign(t *testing.T) {
	d := newDevice(t)
	d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	conn := d.dial(t, "run/mgmt.sock")
	ctx := t.Context()
	id, err := managementv1.NewIdentitiesClient(conn).Create(ctx, &managementv1.CreateIdentityRequest{ModuleId: "temp"})
	if err != nil {
		t.Fatal(err)
	}
	set, err := structpb.NewStruct(map[string]any{"image": "reg/temp:1"})
	if err != nil {
		t.Fatal(err)
	}
	modules := managementv1.NewModulesClient(conn)
	if _, err := modules.Create(ctx, &managementv1.CreateRequest{Spec: &managementv1.ModuleSpec{
		Name: "temp", Type: "docker", Config: &managementv1.ModuleConfig{Settings: set},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := modules.Start(ctx, &managementv1.StartRequest{Name: "temp"}); err != nil {
		t.Fatal(err)
	}
	d.engine.AddProcess(os.Getpid(), "temp")
	sign := func(path, module string) (*workloadv1.SignResponse, error) {
		return workloadv1.NewWorkloadClient(d.dial(t, path)).Sign(ctx, &workloadv1.SignRequest{ModuleId: module, GenerationId: id.GetGenerationId(), Data: []byte("x")})
	}
	for _, path := range []string{"home/mnt/temp.sock", "run/workload.sock"} {
		if res, err := sign(path, "temp"); err != nil || len(res.GetDigest()) != 32 {
			t.Errorf("%s: %v, %v", path, res, err)
		}
		if _, err := sign(path, "$edgeAgent"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s for another: %v", path, err)
		}
	}
	if _, err := sign("home/mnt/edgeAgent.sock", "temp"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("on another's socket: %v", err)
	}
	// The same process is now temp, and may not do what the agent may.
	if _, err := modules.Delete(ctx, &managementv1.DeleteRequest{Name: "temp"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("module deletes a module: %v", err)
	}
	// Each API on its own socket only.
	if _, err := managementv1.NewModulesClient(d.dial(t, "run/workload.sock")).List(ctx, &managementv1.ListRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("management on the workload socket: %v", err)
	}
	if _, err := workloadv1.NewWorkloadClient(conn).GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("workload on the management socket: %v", err)
	}
}

func TestEndStopsAllModules(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	st, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil || st.Status != runtime.StatusExited {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, path := range []string{"run/mgmt.sock", "run/workload.sock", "home/mnt/edgeAgent.sock"} {
		if c, err := net.Dial("unix", filepath.Join(d.dir, path)); err == nil {
			c.Close()
			t.Errorf("%s still accepts", path)
		}
	}
}

// The agent's question, unanswered, would start the service of a socket unit again.
func TestAgentThatIsToEndIsToldOfNoModules(t *testing.T) {
	d := newDevice(t)
	var answers []codes.Code
	d.stopping = func(string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := managementv1.NewModulesClient(d.dial(t, "run/mgmt.sock")).List(ctx, &managementv1.ListRequest{})
		answers = append(answers, status.Code(err))
	}
	stop := d.run(t)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(answers, []codes.Code{codes.FailedPrecondition}) {
		t.Errorf("answers %v", answers)
	}
}

func TestReprovisioningForgetsIdentitiesAndEnds(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	cache := filepath.Join(d.dir, "home", "cache")
	if _, err := os.Stat(filepath.Join(cache, "provisioning_state")); err != nil {
		t.Fatal(err)
	}
	_, err := managementv1.NewSystemClient(d.dial(t, "run/mgmt.sock")).Reprovision(t.Context(), &managementv1.ReprovisionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, daemon.ErrReprovision) {
		t.Fatalf("ended with %v", err)
	}
	if _, err := os.Stat(cache); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cache: %v", err)
	}
	if st, err := d.engine.Get(t.Context(), "edgeAgent"); err != nil || st.Status == runtime.StatusRunning {
		t.Errorf("agent %v, %v", st.Status, err)
	}
}

func TestRestartKeepsModulesAndAnotherIdentityRemovesThem(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	first, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stop = d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	same, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil || same.Instance != first.Instance {
		t.Fatalf("restart made the agent anew: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	d.id = "edge2"
	d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	other, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil || other.Instance == first.Instance {
		t.Fatalf("modules of edge1 live on under edge2: %v", err)
	}
}

func TestStartWithoutTheCloud(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	d.registry.down = true
	if err := d.engine.Remove(t.Context(), "edgeAgent"); err != nil {
		t.Fatal(err)
	}
	d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	_, err := workloadv1.NewWorkloadClient(d.dial(t, "home/mnt/edgeAgent.sock")).Sign(t.Context(), &workloadv1.SignRequest{ModuleId: "$edgeAgent", Data: []byte("x")})
	if err != nil {
		t.Fatalf("sign offline: %v", err)
	}
}

func TestFailureOfTheWatchdogEndsTheDaemon(t *testing.T) {
	d := newDevice(t)
	d.more = "[watchdog]\nmax_retries = 0"
	d.engine.Fail("Pull", errors.New("registry down"))
	cfg := d.config(t)
	unlock, err := daemon.LockHome(cfg.HomeDir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	err = daemon.Run(t.Context(), daemon.Options{
		Config: cfg, Runtime: d.engine, Registry: d.registry, Version: "1.0", AdminGroup: -1, Log: slog.New(slog.DiscardHandler),
	})
	if !errors.Is(err, watchdog.ErrGaveUp) {
		t.Fatalf("got %v", err)
	}
}

func TestOneDaemonPerHome(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	unlock, err := daemon.LockHome(home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.LockHome(home); err == nil || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Fatalf("second lock: %v", err)
	}
	filelocktest.Inherit(t, filepath.Join(home, "lock"))
	unlock()
	unlock, err = daemon.LockHome(home)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
