//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

func (p *path) accountIsEven(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	if err := p.Quiet(ctx); err != nil {
		t.Fatal(err)
	}
	last, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	balances, err := p.Balances(last)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range balances {
		t.Logf("%s: acknowledged %d, for the cloud %d, in the cloud %d, duplicates %d, lost %d",
			b.Identity, b.Acked, b.ForCloud, b.Arrived, b.Duplicates, len(b.Lost))
		if len(b.Lost) > 0 {
			t.Errorf("%s lost %d messages, the first is %s", b.Identity, len(b.Lost), b.Lost[0])
		}
		if b.ForCloud == 0 {
			t.Errorf("%s has sent nothing to the cloud", b.Identity)
		}
	}
	for name, kb := range p.PeakMemory() {
		t.Logf("peak memory of %s: %.1f MB", name, float64(kb)/1024)
	}
}

// nothingLeft checks that the rig, whose files were in dir, has cleaned up.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	for _, h := range []rig.Host{rig.Cloud, rig.Device, rig.Leaf} {
		if _, err := os.Stat("/run/netns/" + string(h)); err == nil {
			t.Errorf("host %s is still there", h)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, "task/breakwater/") {
			t.Errorf("mount is left: %s", line)
		}
	}
	if out, err := exec.Command("ctr", "-n", "breakwater", "containers", "ls", "-q").Output(); err == nil {
		if left := strings.Fields(string(out)); len(left) > 0 {
			t.Errorf("containers are left: %v", left)
		}
	}
	left, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range left {
		cmdline, err1 := os.ReadFile(file)
		groups, err2 := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if err1 != nil || err2 != nil {
			continue // it has ended meanwhile
		}
		if strings.Contains(string(cmdline), dir) || strings.Contains(string(groups), ":/breakwater/") {
			t.Errorf("process is left: %s", strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
}
