//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestProvision provisions a device by symmetric keys: that of a group, and then, because
// it was asked to be provisioned anew, one of its own.
func TestProvision(t *testing.T) {
	p := newPath(t, rig.Options{}, 5*time.Minute)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a device with a group's key is provisioned and its modules send", p.byGroupKey},
		{"asked to reprovision it ends with status 154, and comes back with its own key", p.byKey},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

func (p *path) byGroupKey(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	if _, err := p.BringProvisioned(ctx, p.WithGroupKey); err != nil {
		t.Fatal(err)
	}
	if err := p.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	p.moreArrive(t, ctx, rig.FilterID, 5)
}

func (p *path) byKey(t *testing.T) {
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	status, err := p.Reprovision(ctx, p.WithKey)
	if err != nil {
		t.Fatal(err)
	}
	if status != 154 {
		t.Errorf("edged ended with status %d, want 154", status)
	}
	eventually(t, ctx, "all modules run again", func() error {
		if n := len(p.pids(t)); n != len(before) {
			return fmt.Errorf("%d of %d run", n, len(before))
		}
		return nil
	})
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
	p.moreArrive(t, ctx, rig.FilterID, 5)
	out, err := p.IoTHub(ctx, "enrollment", "list")
	if err != nil || !strings.Contains(out, "line-7") || !strings.Contains(out, rig.EdgeID) {
		t.Errorf("enrollments %v\n%s", err, out)
	}
}
