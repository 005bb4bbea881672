//go:build e2e

package boot_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

const configFile = "/etc/aziot/config.toml"

// agent is what the operator adds to the configuration of `edgectl config mp`.
const agent = `
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "localhost:5000/breakwater/edgeagent:dev"

[agent.config.createOptions.HostConfig]
Binds = ["edgeagent-data:/data"]
ExtraHosts = ["hub.breakwater.test:10.90.1.2"]

[agent.env]
StorageFolder = "/data"
CoolOffTimeUnitInSeconds = "0"

[agent.trial] # which each new start of edged counts against
attempts = 10
settle = "1s"
`

// watchdog shortens the two minutes in which a daemon may hang.
const watchdog = "[Service]\nWatchdogSec=8\n"

// installed does what a person with a new device does.
func (d *device) installed(t *testing.T) {
	ctx := d.within(t, 3*time.Minute)
	if err := d.StartCloud(ctx); err != nil {
		t.Fatal(err)
	}
	connection, err := d.CreateDevices(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.PushImages(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Deploy(ctx, d.manifest(t)); err != nil {
		t.Fatal(err)
	}

	d.prints(t, ctx, []string{"Installed."}, "/mnt/deploy/install.sh", "install")
	for _, path := range []string{"/run/iotedge", "/var/lib/aziot", "/etc/aziot/edged/config.d"} {
		d.run(t, ctx, "test", "-d", path)
	}
	d.prints(t, ctx, []string{"iotedge"}, "id", "edgeagentuser")
	d.prints(t, ctx, []string{"enabled\nenabled\nenabled"}, "systemctl", "is-enabled", service, "aziot-edged.mgmt.socket", "aziot-edged.workload.socket")

	d.run(t, ctx, "edgectl", "config", "mp", "--connection-string", connection)
	root, err := os.ReadFile(d.CloudRoot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.machine.File("/etc/aziot/root.pem"), root, 0o644); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(d.machine.File(configFile))
	if err != nil {
		t.Fatal(err)
	}
	drop := d.machine.File("/etc/systemd/system/" + service + ".d")
	if err := os.MkdirAll(drop, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(drop, "watchdog.conf"), []byte(watchdog), 0o644); err != nil {
		t.Fatal(err)
	}
	d.run(t, ctx, "systemctl", "daemon-reload")
	text := "trust_bundle_cert = \"file:///etc/aziot/root.pem\"\n" + string(made) + agent
	if err := os.WriteFile(d.machine.File(configFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.prints(t, ctx, []string{"is applied", "edged runs: device " + rig.EdgeID}, "edgectl", "config", "apply")

	if _, err := d.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	d.whole(t, ctx)
}

// manifest is that of the rig, with an agent that starts a module again at once, however
// often the device has been started.
func (d *device) manifest(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	const agentEnv = `"StorageFolder": { "value": "/data" }`
	hasty := strings.Replace(string(text), agentEnv, agentEnv+`, "CoolOffTimeUnitInSeconds": { "value": "0" }`, 1)
	if hasty == string(text) {
		t.Fatalf("%s has no %s", d.Manifest, agentEnv)
	}
	path := filepath.Join(d.Dir, "hasty.json")
	if err := os.WriteFile(path, []byte(hasty), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// confined looks at what the kernel knows of edged. That it can work so is what the other
// steps show.
func (d *device) confined(t *testing.T) {
	ctx := d.within(t, 20*time.Second)
	pid := d.pid(t, ctx)
	status := d.prints(t, ctx, []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"}, "cat", "/proc/"+pid+"/status")
	first := d.run(t, ctx, "cat", "/proc/1/status")
	bounds := func(text string) string {
		_, rest, _ := strings.Cut(text, "CapBnd:\t")
		set, _, _ := strings.Cut(rest, "\n")
		return set
	}
	if set := bounds(status); set == "" || set == bounds(first) {
		t.Errorf("bounds of its capabilities are those of the first process: %s", set)
	}
	mounts := d.run(t, ctx, "cat", "/proc/"+pid+"/mounts")
	for _, path := range []string{"/usr", "/etc", "/sys/fs/cgroup"} {
		if !readOnly(mounts, path) {
			t.Errorf("%s is not read-only:\n%s", path, mounts)
		}
	}
	d.prints(t, ctx, []string{"0::/system.slice/" + service}, "cat", "/proc/"+pid+"/cgroup")
}

// readOnly tells whether the last mount at a path is read-only.
func readOnly(mounts, path string) bool {
	ro := false
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == path {
			ro = slices.Contains(strings.Split(f[3], ","), "ro")
		}
	}
	return ro
}

// edgectl runs the commands that look, and those that change something for a moment.
func (d *device) edgectl(t *testing.T) {
	ctx := d.within(t, 2*time.Minute)
	d.check(t)
	d.prints(t, ctx, []string{`"acknowledged"`}, "edgectl", "logs", "--tail", "20", "temperature-sensor")
	d.prints(t, ctx, []string{"filter"}, "edgectl", "restart", "filter")
	d.whole(t, ctx)
	d.prints(t, ctx, []string{"containerd.service", service, "running", "device " + rig.EdgeID}, "edgectl", "system", "status")
	d.prints(t, ctx, []string{"Started aziot-edged.service"}, "edgectl", "system", "logs", "--", "--no-pager")

	before := d.pid(t, ctx)
	d.prints(t, ctx, []string{"edged runs: device " + rig.EdgeID}, "edgectl", "system", "set-log-level", "debug")
	if now := d.pid(t, ctx); now == before {
		t.Error("set-log-level has not restarted edged")
	}
	d.prints(t, ctx, []string{"level=DEBUG"}, "edgectl", "system", "logs", "--", "--no-pager", "--output=cat")
	d.prints(t, ctx, []string{"edged runs: device " + rig.EdgeID}, "edgectl", "system", "restart")
	d.whole(t, ctx)

	d.run(t, ctx, "edgectl", "support-bundle", "--output", "/var/tmp/bundle.zip")
	bundle, err := os.ReadFile(d.machine.File("/var/tmp/bundle.zip"))
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := zip.NewReader(bytes.NewReader(bundle), int64(len(bundle)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"check.json", "logs/aziot-edged.txt", "logs/containerd.txt", "logs/edgeHub_log.txt", "logs/filter_log.txt", "inspect/filter.json"} {
		if st, err := fs.Stat(zipped, name); err != nil || st.Size() == 0 {
			t.Errorf("support bundle: %s: %v", name, err)
		}
	}
}

// check runs edgectl check as the machine's own configuration wants it.
func (d *device) check(t *testing.T) {
	// No time server and no name server can be reached from here.
	out, err := d.machine.Run(d.within(t, time.Minute), "edgectl", "check", "--dont-run", "host-local-time,container-local-time,container-engine-dns",
		"--output", "json", "--warnings-as-errors")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	var report struct {
		Checks map[string]struct{ Result string } `json:"checks"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"configs-up-to-date", "hostname", "keyd-running", "identityd-running", "connect-management-uri", "container-engine-uri", "container-connect-upstream-amqp"} {
		if got := report.Checks[id].Result; got != "ok" {
			t.Errorf("%s is %q", id, got)
		}
	}
}

// killed ends edged without a warning, and then by systemctl restart. Modules outlive both.
func (d *device) killed(t *testing.T) {
	ctx := d.within(t, time.Minute)
	before := d.tasks(t, ctx)
	d.again(t, ctx, func(pid string) { d.run(t, ctx, "bash", "-c", "kill -KILL "+pid) })
	d.whole(t, ctx)
	pid := d.pid(t, ctx)
	d.run(t, ctx, "systemctl", "restart", service)
	if now := d.pid(t, ctx); now == pid {
		t.Error("systemctl restart: the same process runs")
	}
	d.whole(t, ctx)
	if after := d.tasks(t, ctx); !slices.Equal(after, before) {
		t.Errorf("modules were restarted: %q, then %q", before, after)
	}
}

// again does something that ends edged, whose process it gets, and waits until systemd has
// started it again.
func (d *device) again(t *testing.T, ctx context.Context, end func(pid string)) {
	t.Helper()
	pid := d.pid(t, ctx)
	before, err := d.unit(ctx, "NRestarts")
	if err != nil {
		t.Fatal(err)
	}
	end(pid)
	eventually(t, ctx, "new start", func() error {
		now, err := d.unit(ctx, "NRestarts", "ActiveState", "MainPID")
		if err == nil && (now["NRestarts"] == before["NRestarts"] || now["ActiveState"] != "active" || now["MainPID"] == pid) {
			err = fmt.Errorf("%v, before %v", now, before)
		}
		return err
	})
}

// tasks are the modules' processes, in order.
func (d *device) tasks(t *testing.T, ctx context.Context) []string {
	t.Helper()
	return slices.Sorted(strings.Lines(d.run(t, ctx, "ctr", "--namespace", "breakwater", "tasks", "ls")))
}

// hangs stops edged, which then no longer tells systemd that it lives.
func (d *device) hangs(t *testing.T) {
	ctx := d.within(t, time.Minute)
	d.again(t, ctx, func(pid string) { d.run(t, ctx, "bash", "-c", "kill -STOP "+pid) })
	d.prints(t, ctx, []string{"Watchdog timeout", "result 'watchdog'"}, "journalctl", "--no-pager", "--unit="+service)
	d.whole(t, ctx)
}

func (d *device) reprovisioned(t *testing.T) {
	ctx := d.within(t, 90*time.Second)
	d.again(t, ctx, func(string) {
		d.prints(t, ctx, []string{"provisioned anew"}, "edgectl", "system", "reprovision")
	})
	d.prints(t, ctx, []string{"status=154"}, "journalctl", "--no-pager", "--unit="+service)
	d.whole(t, ctx)
}

// wrongConfiguration puts one in place that `edgectl config apply` would refuse.
func (d *device) wrongConfiguration(t *testing.T) {
	ctx := d.within(t, 90*time.Second)
	applied := d.machine.File("/etc/aziot/edged/config.d/00-super.toml")
	text, err := os.ReadFile(applied)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(applied, append([]byte("hostnaem = \"x\"\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := d.machine.Run(ctx, "edgectl", "system", "restart")
	if err == nil || !strings.Contains(err.Error(), "edged does not start: failed (exit-code, status 153)") {
		t.Errorf("restart: %v: %s", err, out)
	}
	out, err = d.machine.Run(ctx, "edgectl", "system", "status")
	if err == nil || !strings.Contains(out, "failed (exit-code, status 153)") || !strings.Contains(out, "hostnaem") {
		t.Errorf("status: %v: %s", err, out)
	}
	// It would be started again five seconds after its end.
	d.run(t, ctx, "sleep", "7")
	d.is(t, ctx, "ActiveState=failed", "NRestarts=0", "ExecMainStatus=153")
	d.prints(t, ctx, []string{"edged runs: device " + rig.EdgeID}, "edgectl", "config", "apply")
	d.whole(t, ctx)
}

// stopped ends the service in an orderly way and looks for what it has left.
func (d *device) stopped(t *testing.T) {
	ctx := d.within(t, 90*time.Second)
	d.run(t, ctx, "systemctl", "stop", service)
	d.is(t, ctx, "ActiveState=inactive", "Result=success", "ExecMainStatus=0")
	d.nothingRuns(t, ctx)
	d.prints(t, ctx, []string{"temperature-sensor"}, "edgectl", "list") // starts it
	d.is(t, ctx, "ActiveState=active")
	d.whole(t, ctx)

	d.run(t, ctx, "edgectl", "system", "stop")
	d.is(t, ctx, "ActiveState=inactive", "Result=success")
	d.nothingRuns(t, ctx)
	if out, err := d.machine.Run(ctx, "edgectl", "list"); err == nil {
		t.Errorf("edgectl list works: %s", out)
	}
	d.run(t, ctx, "systemctl", "start", service)
	d.pid(t, ctx) // start returns when it is ready
	d.whole(t, ctx)
}

// nothingRuns looks for processes, mounts and networks of modules.
func (d *device) nothingRuns(t *testing.T, ctx context.Context) {
	t.Helper()
	if tasks := d.tasks(t, ctx); len(tasks) != 1 { // the heading
		t.Errorf("tasks run: %q", tasks)
	}
	for what, command := range map[string][]string{
		"edged-log":                {"bash", "-c", "cat /proc/[0-9]*/cmdline"},
		"containerd-shim":          {"bash", "-c", "cat /proc/[0-9]*/cmdline"},
		"veth":                     {"ip", "-brief", "link"},
		"--dport":                  {"iptables-save"},
		"/run/containerd/io.conta": {"cat", "/proc/1/mounts"},
	} {
		for line := range strings.Lines(d.run(t, ctx, command...)) {
			if strings.Contains(line, what) {
				t.Errorf("is left: %s", line)
			}
		}
	}
}

// reboot reboots the machine, whose network and cable to the cloud are new then.
func (d *device) reboot(t *testing.T, ctx context.Context, cloud bool) {
	t.Helper()
	if err := d.machine.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.ReplaceDevice(ctx); err != nil {
		t.Fatal(err)
	}
	if err := rig.SetLink(ctx, rig.Cloud, cloud); err != nil {
		t.Fatal(err)
	}
	if err := d.machine.Boot(ctx); err != nil {
		t.Fatal(err)
	}
}

func (d *device) rebooted(t *testing.T) {
	ctx := d.within(t, 2*time.Minute)
	d.reboot(t, ctx, false)
	// The end of the last run: in order, before containerd and the network were gone.
	journal := d.prints(t, ctx, []string{"Deactivated successfully"}, "journalctl", "--no-pager", "--boot=-1", "--unit="+service, "--lines=20")
	if strings.Contains(journal, "Failed with result") {
		t.Errorf("the end was not in order:\n%s", journal)
	}
	d.is(t, ctx, "ActiveState=active")
	d.allRun(t, ctx)
	eventually(t, ctx, "messages that wait for the cloud", func() error {
		m, err := d.HubMetrics(ctx)
		if err != nil {
			return err
		}
		if n := m.Sum("edgehub_queue_length", `endpoint="iothub"`); n < 20 {
			return fmt.Errorf("%v wait", n)
		}
		return nil
	})
	if err := rig.SetLink(ctx, rig.Cloud, true); err != nil {
		t.Fatal(err)
	}
	d.moreArrive(t, ctx, 20)
	if _, err := d.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
}

func (d *device) disabled(t *testing.T) {
	ctx := d.within(t, 2*time.Minute)
	d.run(t, ctx, "systemctl", "disable", service)
	d.reboot(t, ctx, true)
	d.is(t, ctx, "ActiveState=inactive", "UnitFileState=disabled")
	d.run(t, ctx, "test", "!", "-e", "/run/iotedge/mgmt.sock")
	d.run(t, ctx, "systemctl", "enable", "--now", service)
	d.whole(t, ctx)
	if err := d.machine.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
}
