package hubrig

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// Device is a whole device in place of a child's hub: the built edged below the rig's
// edgehub, with a containerd and a registry of its own.
type Device struct {
	c          *Child
	dir        string
	containerd *Process
	registry   *http.Server
	edged      *Process
}

const deviceConfig = `hostname = %q
parent_hostname = %q
homedir = "%[3]s/home"
trust_bundle_cert = "file://%[3]s/parent.pem"

[provisioning]
source = "manual"
connection_string = %[4]q

[agent.config]
image = "localhost:5000/breakwater/edgeagent:dev"
createOptions = { HostConfig = { Binds = ["edgeagent-data:/data"] } }

[agent.env]
StorageFolder = "/data"
CoolOffTimeUnitInSeconds = "1"

[containerd]
address = "%[3]s/containerd.sock"

[connect]
workload_uri = "unix://%[3]s/workload.sock"
management_uri = "unix://%[3]s/mgmt.sock"

[listen]
workload_uri = "unix://%[3]s/workload.sock"
management_uri = "unix://%[3]s/mgmt.sock"
`

// NewDevice makes the child a device, with images of the source tree at root. Close must
// be called also after an error.
func (c *Child) NewDevice(ctx context.Context, root string) (*Device, error) {
	d := &Device{c: c, dir: filepath.Join(c.r.o.Dir, "device")}
	blobs := filepath.Join(d.dir, "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return d, err
	}
	l, err := rig.Host(c.net.name).Listen("127.0.0.1:5000")
	if err != nil {
		return d, fmt.Errorf("registry: %w", err)
	}
	d.registry = &http.Server{
		Handler:           registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)), registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = d.registry.Serve(l) }() // ends by Close
	if d.containerd, err = start(command{
		path: "containerd", log: filepath.Join(d.dir, "containerd.log"),
		args: []string{"--address", d.socket(), "--root", filepath.Join(d.dir, "root"), "--state", filepath.Join(d.dir, "state")},
	}); err != nil {
		return d, err
	}
	if out, err := d.run(ctx, c.r.bin("images"), "push", "--root", root, "--platform", "linux/"+runtime.GOARCH, "--version", "dev",
		"--only", "edgeagent,edgehub,temperature-sensor,filter", "localhost:5000/breakwater"); err != nil {
		return d, fmt.Errorf("images: %w: %s", err, out)
	}
	return d, d.answers(ctx)
}

func (d *Device) socket() string { return filepath.Join(d.dir, "containerd.sock") }

// answers waits for containerd.
func (d *Device) answers(ctx context.Context) error {
	for {
		conn, err := net.Dial("unix", d.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-d.containerd.Done():
			return fmt.Errorf("containerd ended: %w", d.containerd.Err())
		case <-ctx.Done():
			return fmt.Errorf("containerd: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Start starts edged below the parent, with a key of the device and roots to trust, as
// PEM.
func (d *Device) Start(key string, roots []byte) error {
	if err := os.WriteFile(filepath.Join(d.dir, "parent.pem"), roots, 0o600); err != nil {
		return err
	}
	text := fmt.Sprintf(deviceConfig, d.c.net.edge, d.c.r.net.edge, d.dir, "HostName="+d.c.r.net.hub+";DeviceId="+d.c.id+";SharedAccessKey="+key)
	if err := os.WriteFile(d.ConfigFile(), []byte(text), 0o600); err != nil {
		return err
	}
	var err error
	d.edged, err = start(command{path: "ip", args: []string{"netns", "exec", d.c.net.name, d.c.r.bin("edged"), "--config", d.ConfigFile()}, log: d.Log()})
	return err
}

// Stop ends edged, which stops the modules.
func (d *Device) Stop() error {
	if d.edged == nil {
		return nil
	}
	err := d.edged.Stop(45 * time.Second)
	d.edged = nil
	return err
}

// ConfigFile is edged's configuration, Log what it says.
func (d *Device) ConfigFile() string { return filepath.Join(d.dir, "config.toml") }

// Log is the file that edged logs to.
func (d *Device) Log() string { return filepath.Join(d.dir, "edged.log") }

// EdgeCtl runs edgectl on the device.
func (d *Device) EdgeCtl(ctx context.Context, args ...string) (string, error) {
	return d.run(ctx, d.c.r.bin("edgectl"), append([]string{"--host", "unix://" + filepath.Join(d.dir, "mgmt.sock")}, args...)...)
}

// Environment is that of a running module; empty if it does not run.
func (d *Device) Environment(ctx context.Context, module string) (map[string]string, error) {
	out, err := d.ctr(ctx, "tasks", "ls")
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != module || fields[2] != "RUNNING" {
			continue
		}
		text, err := os.ReadFile("/proc/" + fields[1] + "/environ")
		if err != nil {
			return nil, err
		}
		for pair := range strings.SplitSeq(string(text), "\x00") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				env[k] = v
			}
		}
	}
	return env, nil
}

func (d *Device) ctr(ctx context.Context, args ...string) (string, error) {
	return d.run(ctx, "ctr", append([]string{"--address", d.socket(), "--namespace", "breakwater"}, args...)...)
}

// run runs a program on the device's host.
func (d *Device) run(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", d.c.net.name, path}, args...)...).CombinedOutput()
	return string(out), err
}

// Close ends everything that the device has started.
func (d *Device) Close() error {
	err := d.Stop()
	if d.containerd != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		out, _ := d.ctr(ctx, "tasks", "ls", "-q") // after an orderly end there are none
		for _, name := range strings.Fields(out) {
			_, _ = d.ctr(ctx, "tasks", "rm", "--force", name)
		}
		_ = d.containerd.Stop(20 * time.Second) // by a signal it ends with an error
	}
	if d.registry != nil {
		_ = d.registry.Close()
	}
	return err
}

// ParentRoot is the root of the certificates of the rig's edgehub, as PEM.
func (r *Rig) ParentRoot() []byte { return r.workload.root() }

// HostName is the address of the child's host.
func (c *Child) HostName() string { return c.net.edge }
