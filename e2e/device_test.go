//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestDevice follows a device from its first contact with the provisioning service
// through a power cut without a cloud to its orderly end.
func TestDevice(t *testing.T) {
	p := newPath(t, rig.Options{}, 10*time.Minute)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a device with a certificate is provisioned and its modules send", p.provisioned},
		{"everything comes back from a power cut without a cloud, and nothing is lost", p.powerCut},
		{"an orderly stop leaves nothing but the disk", p.orderlyStop},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

func (p *path) provisioned(t *testing.T) {
	report, err := p.BringProvisioned(p.within(t, 5*time.Minute), p.WithCertificate)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(report.All())); !slices.Equal(got, []string{"edgeAgent", "edgeHub", "filter", "temperature-sensor"}) {
		t.Errorf("modules %v", got)
	}
	if err := p.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	p.moreArrive(t, p.within(t, 30*time.Second), rig.FilterID, 20)
}

// powerCut cuts the power while messages wait for a cloud that cannot be reached.
func (p *path) powerCut(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	if err := rig.SetLink(ctx, rig.Cloud, false); err != nil {
		t.Fatal(err)
	}
	p.moreRouted(t, ctx, 20)
	_, before, err := p.SensorAcked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.PowerCut(ctx); err != nil {
		t.Fatal(err)
	}
	if err := rig.SetLink(ctx, rig.Cloud, false); err != nil {
		t.Fatal(err)
	}
	if err := p.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	on := time.Now()
	eventually(t, ctx, "the modules run", func() error {
		pids, err := p.PIDs(ctx)
		if err == nil && len(pids) != 4 {
			err = fmt.Errorf("%v run", pids)
		}
		return err
	})
	t.Logf("all modules run %.1f s after the power came back", time.Since(on).Seconds())
	p.moreRouted(t, ctx, 20)
	// What went to the filter has left it for the cloud, where it cannot go.
	eventually(t, ctx, "messages wait for the cloud", func() error {
		m, err := p.HubMetrics(ctx)
		if err != nil {
			return err
		}
		if n := m.Sum("edgehub_queue_length", `endpoint="iothub"`); n < 40 {
			return fmt.Errorf("%v wait", n)
		}
		return nil
	})
	if missing := p.Arrived.Missing(rig.FilterID, before); len(missing) < 20 {
		t.Errorf("only %d of the messages before the power cut had to wait; the cloud was not away", len(missing))
	}
	if err := rig.SetLink(ctx, rig.Cloud, true); err != nil {
		t.Fatal(err)
	}
	connected := time.Now()
	_, routed, err := p.SensorAcked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if missing := absent(before, routed); len(missing) > 0 {
		t.Errorf("the log of the sensor has lost %d lines", len(missing))
	}
	eventually(t, ctx, "what waited arrives", func() error {
		if missing := p.Arrived.Missing(rig.FilterID, routed); len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing, the first is %s", len(missing), len(routed), missing[0])
		}
		return nil
	})
	n, duplicates := p.Arrived.Count(rig.FilterID)
	t.Logf("%.1f s after the cloud came back all %d are there, %d duplicates", time.Since(connected).Seconds(), n, duplicates)
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
}

// moreRouted waits until edgeHub has acknowledged n more readings that go on to the
// filter.
func (p *path) moreRouted(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	first := -1
	eventually(t, ctx, "messages from module to module", func() error {
		_, routed, err := p.SensorAcked(ctx)
		if err != nil {
			return err
		}
		if first < 0 {
			first = len(routed)
		}
		if len(routed) < first+n {
			return fmt.Errorf("%d of %d", len(routed)-first, n)
		}
		return nil
	})
}

// absent are the keys that are not among all.
func absent(keys, all []string) []string {
	known := make(map[string]bool, len(all))
	for _, k := range all {
		known[k] = true
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return known[k] })
}

// orderlyStop ends the daemon and looks for what it has left. Containers stay: the
// device starts from them without a cloud.
func (p *path) orderlyStop(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	p.restMemory(t, ctx)
	begin := time.Now()
	if err := p.StopDevice(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %.1f s", time.Since(begin).Seconds())
	report, _, err := p.AgentReport(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.LastDesiredStatus.Code != 406 {
		t.Errorf("last report: status %+v", report.LastDesiredStatus)
	}
	for name, m := range report.All() {
		if m.RuntimeStatus != "unknown" {
			t.Errorf("last report: %s is %s", name, m.RuntimeStatus)
		}
	}
	eventually(t, ctx, "the device's processes end", func() error {
		running, err := p.DeviceProcesses()
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("processes %v", running)
		}
		return err
	})
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "task/breakwater/") || strings.Contains(line, filepath.Join(p.Dir, "device")) {
			t.Errorf("mount is left: %s", line)
		}
	}
	for _, command := range [][]string{{"ip", "-brief", "link"}, {"iptables-save"}} {
		out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", string(rig.Device)}, command...)...).Output()
		if err != nil {
			t.Fatalf("%v: %v", command, err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "veth") || strings.Contains(line, "CNI-DN-") || strings.Contains(line, "--dport") {
				t.Errorf("network of a module is left: %s", line)
			}
		}
	}
}

// restMemory logs what edged and the modules have in RAM when nothing is sent.
func (p *path) restMemory(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := p.Quiet(ctx); err != nil {
		t.Fatal(err)
	}
	memory, err := p.Memory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(memory)) {
		m := memory[name]
		t.Logf("memory at rest of %s: %.1f MB resident, of it %.1f MB its own; %.1f MB with shared pages shared out",
			name, float64(m.Resident)/1024, float64(m.Own)/1024, float64(m.Share)/1024)
	}
}
