package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

const containerdSocket = "/run/containerd/containerd.sock"

// device is the edge device; its methods are called one after the other.
type device struct {
	options
}

func (d device) configFile() string { return filepath.Join(d.Home, "config.toml") }

var config = template.Must(template.New("config.toml").Parse(`hostname = {{printf "%q" .Hostname}}
homedir = {{printf "%q" .Edged}}
trust_bundle_cert = "file://{{.Root}}"

[provisioning]
source = "manual"
connection_string = {{printf "%q" .ConnectionString}}

[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "localhost:5000/breakwater/edgeagent:{{.Version}}"

[agent.config.createOptions.HostConfig]
Binds = ["edgeagent-data:/data"]
ExtraHosts = ["{{.Hub}}:{{.Address}}"]

[agent.env]
StorageFolder = "/data"

[connect]
workload_uri = "unix:///var/run/iotedge/workload.sock"
management_uri = "unix:///var/run/iotedge/mgmt.sock"

[listen]
workload_uri = "unix:///var/run/iotedge/workload.sock"
management_uri = "unix:///var/run/iotedge/mgmt.sock"
`))

// provision registers the device, applies the manifest and writes edged's
// configuration.
func (d device) provision(ctx context.Context) error {
	if err := d.awaitHub(ctx); err != nil {
		return err
	}
	login, err := d.iothub(ctx, "device", "connection-string", d.Device)
	if err != nil {
		// Not there yet; if that was not the reason, the next call says it again.
		if login, err = d.iothub(ctx, "device", "create", d.Device, "--edge"); err != nil {
			return fmt.Errorf("register the device: %w", err)
		}
	}
	if _, err := d.iothub(ctx, "deploy", "--device", d.Device, d.Manifest); err != nil {
		return fmt.Errorf("apply the manifest: %w", err)
	}
	// Modules cannot ask the name server of the container engine.
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", d.Hub)
	if err != nil {
		return fmt.Errorf("address of the hub: %w", err)
	}
	return d.configure(login, addresses[0].String())
}

// configure writes edged's configuration for the device's login and the hub's address.
func (d device) configure(login, address string) error {
	var text bytes.Buffer
	if err := config.Execute(&text, map[string]string{
		"Hostname": d.Hostname, "Edged": filepath.Join(d.Home, "edged"), "Root": d.root(), "ConnectionString": login,
		"Version": d.Version, "Hub": d.Hub, "Address": address,
	}); err != nil {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	more, err := os.ReadFile(d.Settings)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	text.WriteByte('\n')
	text.Write(more)
	if err := os.WriteFile(d.configFile(), text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	return nil
}

func (d device) root() string { return filepath.Join(d.Cloud, "root.pem") }

func (d device) loginFile() string { return filepath.Join(d.Cloud, "iothubowner.connectionstring") }

// awaitHub waits until the hub has written its login and answers.
func (d device) awaitHub(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	err := poll(ctx, func() error {
		_, err := d.iothub(ctx, "device", "list")
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the hub %s: %w", d.Hub, err)
	}
	return nil
}

// poll calls try until it succeeds or ctx ends, and then returns its last error.
func poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// iothub runs a subcommand of iothub against the hub and returns what it printed.
func (d device) iothub(ctx context.Context, args ...string) (string, error) {
	login, err := os.ReadFile(d.loginFile())
	if err != nil {
		return "", fmt.Errorf("login of the hub: %w", err)
	}
	cmd := exec.CommandContext(ctx, "iothub", append(args, "--ca", d.root())...)
	cmd.Env = append(os.Environ(), "IOTHUB_CONNECTION_STRING="+strings.TrimSpace(string(login)))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("iothub %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// makeWritable mounts the control groups and kernel settings for writing: container
// engines do so themselves only for privileged containers.
func makeWritable() error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[4] != "/sys" && !strings.HasPrefix(f[4], "/sys/fs/cgroup") && f[4] != "/proc/sys" {
			continue
		}
		if !slices.Contains(strings.Split(f[5], ","), "ro") {
			continue
		}
		flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		if err := unix.Mount("", f[4], "", flags, ""); err != nil {
			return fmt.Errorf("mount %s for writing: %w", f[4], err)
		}
	}
	return nil
}

// run runs containerd and edged until ctx ends or one of them does.
func (d device) run(ctx context.Context) error {
	if err := makeWritable(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	containerd, err := start(cancel, "containerd", "--address", containerdSocket, "--root", filepath.Join(d.Home, "containerd"),
		"--log-level", "warn")
	if err != nil {
		return err
	}
	defer containerd.stop(20 * time.Second)
	if err := poll(ctx, func() error { return exec.CommandContext(ctx, "ctr", "version").Run() }); err != nil {
		return errors.Join(fmt.Errorf("wait for containerd: %w", err), context.Cause(ctx))
	}
	edged, err := start(cancel, "edged", "--config", d.configFile())
	if err != nil {
		return err
	}
	defer edged.stop(60 * time.Second)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// program is a running program.
type program struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts a program; ended is called when it ends, for whatever reason.
func start(ended context.CancelCauseFunc, name string, args ...string) (*program, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// A group of its own: a Ctrl-C is for edgebox, which stops them in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &program{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := cmd.Wait()
		ended(fmt.Errorf("%s ended: %s", name, errText(err)))
	}()
	return p, nil
}

func errText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// stop asks the program to end and kills it after limit; it returns when it has
// ended.
func (p *program) stop(limit time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // has ended already if it fails
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
