//go:build e2e

// The device's programs as a machine has them: installed, run by its systemd and confined
// by their unit.
package boot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/boot"
	"github.com/breakwater-iot/breakwater/e2e/rig"
)

const service = "aziot-edged.service"

// modules are those of the development manifest.
var modules = []string{"edgeAgent", "edgeHub", "filter", "temperature-sensor"}

// TestMachine follows a machine from its installation to the end of its service. The
// steps build on each other.
func TestMachine(t *testing.T) {
	d := newDevice(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"what a unit's filter refuses is seen", d.refusalIsSeen},
		{"a new machine is installed, configured, and sends", d.installed},
		{"edged is confined as its unit says", d.confined},
		{"edgectl looks at modules and machine", d.edgectl},
		{"a killed daemon is started again, and modules outlive it", d.killed},
		{"a daemon that hangs is ended and started again", d.hangs},
		{"a daemon that is provisioned anew is started again", d.reprovisioned},
		{"a wrong configuration is not tried again", d.wrongConfiguration},
		{"a stopped service leaves nothing, and a call starts it", d.stopped},
		{"a reboot without a cloud brings everything back", d.rebooted},
		{"a disabled service does not start with the machine", d.disabled},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
		if t.Run("and no call was refused meanwhile", d.nothingRefused); t.Failed() {
			t.FailNow()
		}
	}
}

// device is a machine with systemd in the rig's network of the device.
type device struct {
	*rig.Rig
	machine  *boot.Machine
	refusals *boot.Refusals
	ctx      context.Context
}

func newDevice(t *testing.T) *device {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	r, err := rig.New(ctx, rig.Options{Root: root, Elsewhere: true, Say: func(s string) { t.Logf("%6.1fs %s", time.Since(begin).Seconds(), s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.Logs(os.Stderr, 40)
		}
		if err := r.Close(); err != nil {
			t.Errorf("taking the rig down: %v", err)
		}
	})
	d := &device{Rig: r, ctx: ctx}
	d.machine, err = boot.New(boot.Options{Dir: filepath.Join(r.Dir, "machine"), Network: string(rig.Device), Name: rig.DeviceName, Source: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			d.machine.Logs(os.Stderr, 300)
		}
		if err := d.machine.Close(); err != nil {
			t.Errorf("ending the machine: %v", err)
		}
	})
	if d.refusals, err = boot.WatchRefusals(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.refusals.Close() })
	if err := d.machine.Boot(d.within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	return d
}

// within returns a context that ends after the time limit of one step.
func (d *device) within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, limit)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, ctx context.Context, what string, check func() error) {
	t.Helper()
	if err := rig.Eventually(ctx, 200*time.Millisecond, what, check); err != nil {
		t.Fatal(err)
	}
}

// run runs a command on the machine that must succeed.
func (d *device) run(t *testing.T, ctx context.Context, command ...string) string {
	t.Helper()
	out, err := d.machine.Run(ctx, command...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// prints runs a command on the machine that must succeed and print all the texts.
func (d *device) prints(t *testing.T, ctx context.Context, texts []string, command ...string) string {
	t.Helper()
	out := d.run(t, ctx, command...)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%v prints no %q:\n%s", command, text, out)
		}
	}
	return out
}

// unit reads properties of the service.
func (d *device) unit(ctx context.Context, properties ...string) (map[string]string, error) {
	out, err := d.machine.Run(ctx, "systemctl", "show", "--property="+strings.Join(properties, ","), service)
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[key] = value
	}
	return all, nil
}

// is waits until the service has properties, given as "name=value".
func (d *device) is(t *testing.T, ctx context.Context, properties ...string) {
	t.Helper()
	var names []string
	for _, p := range properties {
		name, _, _ := strings.Cut(p, "=")
		names = append(names, name)
	}
	eventually(t, ctx, "state of "+service, func() error {
		unit, err := d.unit(ctx, names...)
		if err != nil {
			return err
		}
		for _, p := range properties {
			if name, value, _ := strings.Cut(p, "="); unit[name] != value {
				return fmt.Errorf("%v, want %v", unit, properties)
			}
		}
		return nil
	})
}

// pid is edged's process in the machine, which must be ready.
func (d *device) pid(t *testing.T, ctx context.Context) string {
	t.Helper()
	unit, err := d.unit(ctx, "MainPID", "ActiveState")
	if err != nil || unit["MainPID"] == "0" || unit["ActiveState"] != "active" {
		t.Fatalf("%v: %v", unit, err)
	}
	return unit["MainPID"]
}

// allRun waits until every module runs.
func (d *device) allRun(t *testing.T, ctx context.Context) {
	t.Helper()
	eventually(t, ctx, "all modules run", func() error {
		out, err := d.machine.Run(ctx, "edgectl", "list")
		if err != nil {
			return err
		}
		up := make(map[string]bool)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && f[1] == "running" {
				up[f[0]] = true
			}
		}
		for _, m := range modules {
			if !up[m] {
				return fmt.Errorf("%s does not run:\n%s", m, out)
			}
		}
		return nil
	})
}

// moreArrive waits until n more messages of the filter have reached the cloud.
func (d *device) moreArrive(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	before, _ := d.Arrived.Count(rig.FilterID)
	eventually(t, ctx, "messages in the cloud", func() error {
		if now, _ := d.Arrived.Count(rig.FilterID); now < before+n {
			return fmt.Errorf("%d of %d arrived", now-before, n)
		}
		return nil
	})
}

// whole waits until the device does all that it is for.
func (d *device) whole(t *testing.T, ctx context.Context) {
	t.Helper()
	d.allRun(t, ctx)
	d.moreArrive(t, ctx, 5)
}

// refusalIsSeen has a service make a call that its filter refuses: without that the test
// would know nothing of those of edged.
func (d *device) refusalIsSeen(t *testing.T) {
	ctx := d.within(t, 20*time.Second)
	eventually(t, ctx, "word of a refused call in the kernel", func() error {
		out, err := d.machine.Run(ctx, "systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=SystemCallFilter=~@chown",
			"--property=SystemCallErrorNumber=EPERM", "chown", "root", "/tmp")
		if err == nil {
			return fmt.Errorf("the call was not refused: %s", out)
		}
		lines, err := d.refusals.Next()
		if err == nil && !strings.Contains(strings.Join(lines, "\n"), `comm="chown"`) {
			err = fmt.Errorf("none in %q", lines)
		}
		return err
	})
}

func (d *device) nothingRefused(t *testing.T) {
	lines, err := d.refusals.Next()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		// Where namespaces are restricted systemd has no clone3, whose flags no filter can see:
		// libc takes clone then. Services of systemd's own are none of our business.
		if !strings.Contains(line, " syscall=435 ") && !strings.Contains(line, `exe="/usr/lib/systemd/`) {
			t.Errorf("refused: %s", line)
		}
	}
}
