// Package hubrig runs the built edgehub quickly and without containers: beside it
// the built iothub as its cloud, and a stand-in for the daemon's workload API. The
// hub can be started, killed and started anew in a fraction of a second, which is
// what the crash tests and the benchmarks need.
//
//	this machine                       a network namespace
//	  iothub  10.213.x.y:443, :8883  <--- veth --->  edgehub :8883, :9600
//	  workload API (unix socket)
//
// It needs root, for the namespace. Several rigs may run at once.
package hubrig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Names in the rig's world.
const (
	EdgeID     = "edge"
	generation = "1"
	hubModule  = "$edgeHub"
)

// Options configure New.
type Options struct {
	Dir     string // for logs and the cloud's data; made if missing
	Bin     string // where the built programs are
	Modules []string
	// Routes are the hub's, by name.
	Routes map[string]string
	Say    func(format string, a ...any)
	// CloudLogLevel is iothub's; warn if empty.
	CloudLogLevel string
}

// Rig is the world of one hub.
type Rig struct {
	o        Options
	net      *network
	cloud    *Process
	monitor  *Process
	workload *workload
	keys     map[string][]byte // of modules
	owner    string            // connection string
	client   *http.Client      // of iothub's REST API
	children []*Child
}

// New starts everything but the hub. Close must be called also after an error.
func New(ctx context.Context, o Options) (*Rig, error) {
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if o.CloudLogLevel == "" {
		o.CloudLogLevel = "warn"
	}
	r := &Rig{o: o, keys: make(map[string][]byte)}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return r, err
	}
	var err error
	if r.net, err = newNetwork(ctx); err != nil {
		return r, fmt.Errorf("network: %w", err)
	}
	if err := r.startCloud(ctx); err != nil {
		return r, fmt.Errorf("cloud: %w", err)
	}
	if r.client, err = r.httpClient(); err != nil {
		return r, fmt.Errorf("trust the cloud: %w", err)
	}
	if err := r.register(ctx); err != nil {
		return r, fmt.Errorf("register: %w", err)
	}
	cloud, err := os.ReadFile(r.cloudRoot())
	if err != nil {
		return r, fmt.Errorf("trust the cloud: %w", err)
	}
	if r.workload, err = serveWorkload(filepath.Join(r.o.Dir, "workload.sock"), r.keys, cloud, r.o.Say); err != nil {
		return r, fmt.Errorf("workload API: %w", err)
	}
	return r, nil
}

// Close ends what the rig has started.
func (r *Rig) Close() error {
	var errs []error
	if r.client != nil {
		r.client.CloseIdleConnections()
	}
	for _, p := range []*Process{r.monitor, r.cloud} {
		if p != nil {
			p.Kill()
		}
	}
	if r.workload != nil {
		r.workload.stop()
	}
	for _, c := range r.children {
		errs = append(errs, c.close())
	}
	if r.net != nil {
		errs = append(errs, r.net.remove())
	}
	return errors.Join(errs...)
}

func (r *Rig) bin(name string) string { return filepath.Join(r.o.Bin, name) }

func (r *Rig) cloudDir() string { return filepath.Join(r.o.Dir, "cloud") }

func (r *Rig) cloudRoot() string { return filepath.Join(r.cloudDir(), "root.pem") }

// KillCloud ends iothub at once (SIGKILL).
func (r *Rig) KillCloud() { r.cloud.Kill() }

// RestartCloud starts iothub anew, after KillCloud or while it runs, on the same
// data, and waits until it serves.
func (r *Rig) RestartCloud(ctx context.Context) error {
	r.cloud.Kill()
	return r.startCloud(ctx)
}

// Cloud is the process of iothub.
func (r *Rig) Cloud() *Process { return r.cloud }

func (r *Rig) startCloud(ctx context.Context) error {
	ready := make(chan struct{})
	var once sync.Once
	var err error
	r.cloud, err = start(command{
		path: r.bin("iothub"), log: r.CloudLog(),
		args: []string{"serve", "--data", r.cloudDir(), "--hostname", r.net.hub, "--address", r.net.hub, "--log-level", r.o.CloudLogLevel,
			"--retain-events", "20000000", "--max-children", "1100"},
		stdout: func(line string) {
			if strings.HasPrefix(line, "iothub ready") {
				once.Do(func() { close(ready) })
			}
		},
	})
	if err != nil {
		return err
	}
	select {
	case <-ready:
	case <-r.cloud.Done():
		return fmt.Errorf("iothub ended: %w", r.cloud.Err())
	case <-time.After(20 * time.Second):
		return errors.New("iothub was not ready within 20 s")
	case <-ctx.Done():
		return ctx.Err()
	}
	raw, err := os.ReadFile(filepath.Join(r.cloudDir(), "iothubowner.connectionstring"))
	r.owner = strings.TrimSpace(string(raw))
	return err
}

func (r *Rig) cloudEnv() []string {
	return []string{"IOTHUB_CONNECTION_STRING=" + r.owner, "SSL_CERT_FILE=" + r.cloudRoot()}
}

// Monitor calls each for the events that reach the cloud, from the first, as the
// lines that `iothub monitor` prints.
func (r *Rig) Monitor(each func(line string)) (err error) {
	r.monitor, err = start(command{
		path: r.bin("iothub"), log: filepath.Join(r.o.Dir, "monitor.log"), env: r.cloudEnv(),
		args: []string{"monitor", "--since", "beginning", "--output", "json"}, stdout: each,
	})
	return err
}

// StartHub starts edgehub on a storage folder. Its log is appended to edgehub.log.
func (r *Rig) StartHub(storage string, env ...string) (*Process, error) {
	return r.startHub(r.net, EdgeID, r.workload, r.HubLog(), storage, env)
}

func (r *Rig) startHub(n *network, device string, w *workload, log, storage string, env []string) (*Process, error) {
	return start(command{
		path: "ip", log: log,
		args: []string{"netns", "exec", n.name, r.bin("edgehub")}, // ip replaces itself: the process id stays
		env: append([]string{
			"IOTEDGE_DEVICEID=" + device,
			"IOTEDGE_MODULEID=" + hubModule,
			"IOTEDGE_MODULEGENERATIONID=" + generation,
			"IOTEDGE_IOTHUBHOSTNAME=" + r.net.hub,
			"EdgeDeviceHostName=" + n.edge,
			"IOTEDGE_WORKLOADURI=unix://" + w.path,
			"StorageFolder=" + storage,
			"RuntimeLogLevel=info",
		}, env...),
	})
}

// VerifyStore runs `edgehub store verify` on the storage folder of a hub that does
// not run.
func (r *Rig) VerifyStore(ctx context.Context, storage string) error {
	out, err := exec.CommandContext(ctx, r.bin("edgehub"), "store", "verify", storage).CombinedOutput()
	if err != nil {
		return fmt.Errorf("edgehub store verify: %w:\n%s", err, out)
	}
	return nil
}

// CloudLog is the file that iothub logs to.
func (r *Rig) CloudLog() string { return filepath.Join(r.o.Dir, "iothub.log") }

// HubLog is the file that edgehub logs to.
func (r *Rig) HubLog() string { return filepath.Join(r.o.Dir, "edgehub.log") }

// MetricsURL is where the hub's metrics are.
func (r *Rig) MetricsURL() string { return "http://" + r.net.edge + ":9600/metrics" }
