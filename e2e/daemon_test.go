//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// daemonAway ends edged in the ways that leave the modules running, and starts it again.
// The agent may end with it; nothing else may.
func (p *path) daemonAway(t *testing.T) {
	ctx := p.within(t, 3*time.Minute)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGHUP} {
		before := p.pids(t)
		delete(before, "edgeAgent")
		if err := p.Edged().Signal(signal); err != nil {
			t.Fatal(err)
		}
		<-p.Edged().Done()
		p.moreArrive(t, ctx, rig.FilterID, 10)
		p.onlyChanged(t, before)
		if err := p.StartDevice(); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, "the agent runs", func() error {
			list, err := p.EdgeCtl(ctx, "list")
			if err != nil {
				return err
			}
			for line := range strings.Lines(list) {
				if f := strings.Fields(line); f[0] == "edgeAgent" && f[1] == "running" {
					return nil
				}
			}
			return fmt.Errorf("listed are\n%s", list)
		})
		inside := socketInside(t, before["filter"])
		if got := p.signAs(t, "filter", inside, p.signPath(t, "filter")); !strings.HasPrefix(got, "200 ") {
			t.Errorf("signature after %v: %s", signal, got)
		}
		p.moreArrive(t, ctx, rig.FilterID, 5)
		p.onlyChanged(t, before)
	}
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
}

// socketInside is the workload socket that a running module sees, as a path of the
// machine.
func socketInside(t *testing.T, pid int) string {
	t.Helper()
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; filepath.Base(at) == "workload.sock" {
			return fmt.Sprintf("/proc/%d/root%s", pid, at)
		}
	}
	t.Fatalf("no workload socket among\n%s", mounts)
	return ""
}
