//go:build e2e

// Package e2e tests the built programs: real containers, real TLS, the stock device
// SDK, and faults.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestPath runs the whole path once and then does to it what happens in the field.
// The steps build on each other and share one rig: bringing it up is what costs.
func TestPath(t *testing.T) {
	p := newPath(t, rig.Options{NodeModule: true}, 20*time.Minute)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"everything comes up and the agent reports 200 with its modules", p.comesUp},
		{"messages of the module and of the stock leaf device arrive in the cloud", p.messagesArrive},
		{"a killed module is started again and nothing else", p.killedModule},
		{"a killed hub loses no acknowledged message", p.killedHub},
		{"modules outlive the daemon, and find it again", p.daemonAway},
		{"messages wait for a cloud that is away", p.cloudAway},
		{"a direct method and twin settings reach a module", p.methodAndTwin},
		{"an added module is started and nothing else restarted", p.moduleAdded},
		{"a changed environment restarts that module only", p.moduleChanged},
		{"a removed module is removed and nothing else restarted", p.moduleRemoved},
		{"a module made with the stock Node SDK sends, passes on and answers", p.nodeModule},
		{"edgectl check finds nothing wrong", p.deviceChecks},
		{"an invalid manifest is refused and everything runs on", p.invalidManifest},
		{"another module's workload API is closed to a module", p.foreignSocket},
		{"the account of all messages is even", p.accountIsEven},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

// path is the state that the steps share.
type path struct {
	*rig.Rig
	ctx      context.Context
	manifest map[string]any
}

// within returns a context that ends after the time limit of one step.
func (p *path) within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, ctx context.Context, what string, check func() error) {
	t.Helper()
	if err := rig.Eventually(ctx, 300*time.Millisecond, what, check); err != nil {
		t.Fatal(err)
	}
}

func (p *path) comesUp(t *testing.T) {
	ctx := p.within(t, 5*time.Minute)
	report, err := p.Bring(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edgeAgent", "edgeHub", "temperature-sensor", "filter"} {
		if got := report.All()[name].RuntimeStatus; got != "running" {
			t.Errorf("%s is reported as %q", name, got)
		}
	}
	p.countedByTheMetrics(t, ctx)
	list, err := p.EdgeCtl(ctx, "list")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(list, "temperature-sensor") || !strings.HasPrefix(list, "NAME") {
		t.Errorf("edgectl list printed\n%s", list)
	}
}

// countedByTheMetrics makes a deployment at scale of the manifest that is in force, and
// checks that its metrics count the device. As nothing differs, nothing is restarted.
func (p *path) countedByTheMetrics(t *testing.T, ctx context.Context) {
	t.Helper()
	before := p.pids(t)
	if err := p.DeployToAll(ctx, "everything", p.Manifest, "tags.nothing = 1 OR capabilities.iotEdge = true"); err != nil {
		t.Fatal(err)
	}
	const want = "targetedCount:1 appliedCount:1 reportedSuccessfulCount:1 reportedFailedCount:0"
	eventually(t, ctx, "metrics of the deployment", func() error {
		out, err := p.IoTHub(ctx, "deployment", "show", "everything")
		if err != nil {
			return err
		}
		var doc struct {
			SystemMetrics struct {
				Results map[string]int
				Queries map[string]string
			}
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			return err
		}
		r := doc.SystemMetrics.Results
		got := fmt.Sprintf("targetedCount:%d appliedCount:%d reportedSuccessfulCount:%d reportedFailedCount:%d",
			r["targetedCount"], r["appliedCount"], r["reportedSuccessfulCount"], r["reportedFailedCount"])
		if got != want {
			return fmt.Errorf("%s", got)
		}
		// The same by hand, as a back end would ask.
		out, err = p.IoTHub(ctx, "query", doc.SystemMetrics.Queries["reportedSuccessfulCount"])
		if err == nil && strings.Join(strings.Fields(out), "") != `[{"deviceId":"`+rig.EdgeID+`"}]` {
			err = fmt.Errorf("the query gives %s", out)
		}
		return err
	})
	if _, err := p.IoTHub(ctx, "deployment", "delete", "everything"); err != nil {
		t.Fatal(err)
	}
	p.onlyChanged(t, before)
}

func (p *path) messagesArrive(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	if err := p.Monitor(nil); err != nil {
		t.Fatal(err)
	}
	if err := p.StartLeaf(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{rig.FilterID, rig.LeafID} {
		p.moreArrive(t, ctx, id, 20)
	}
	for _, id := range p.Arrived.Identities() {
		if id != rig.FilterID && id != rig.LeafID {
			t.Errorf("messages of %s have reached the cloud; no route leads there", id)
		}
	}
}

// moreArrive waits until n more messages of an identity have reached the cloud.
func (p *path) moreArrive(t *testing.T, ctx context.Context, id string, n int) {
	t.Helper()
	before, _ := p.Arrived.Count(id)
	eventually(t, ctx, "messages of "+id, func() error {
		if now, _ := p.Arrived.Count(id); now < before+n {
			return fmt.Errorf("%d of %d arrived", now-before, n)
		}
		return nil
	})
}

// onlyChanged checks that of the modules that ran before, exactly those named have
// another process now.
func (p *path) onlyChanged(t *testing.T, before map[string]int, names ...string) {
	t.Helper()
	after, err := p.PIDs(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	expected := make(map[string]bool)
	for _, n := range names {
		expected[n] = true
	}
	for name, pid := range before {
		now, runs := after[name]
		switch {
		case expected[name] && runs && now == pid:
			t.Errorf("%s was not restarted", name)
		case !expected[name] && !runs:
			t.Errorf("%s does not run any more", name)
		case !expected[name] && now != pid:
			t.Errorf("%s was restarted", name)
		}
	}
}

func (p *path) pids(t *testing.T) map[string]int {
	t.Helper()
	pids, err := p.PIDs(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// restarted waits until a module that had the process runs as another.
func (p *path) restarted(t *testing.T, ctx context.Context, name string, old int) {
	t.Helper()
	eventually(t, ctx, "restart of "+name, func() error {
		pids, err := p.PIDs(ctx)
		if err != nil {
			return err
		}
		if pid := pids[name]; pid == 0 || pid == old {
			return fmt.Errorf("process is %d", pid)
		}
		return nil
	})
}

func (p *path) killedModule(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	before := p.pids(t)
	if err := p.KillModule(ctx, "filter"); err != nil {
		t.Fatal(err)
	}
	p.restarted(t, ctx, "filter", before["filter"])
	p.moreArrive(t, ctx, rig.FilterID, 5)
	p.onlyChanged(t, before, "filter")
	eventually(t, ctx, "report of the restart", func() error {
		report, _, err := p.AgentReport(ctx)
		if err != nil {
			return err
		}
		if m := report.Modules["filter"]; m.RestartCount < 1 || m.RuntimeStatus != "running" {
			return fmt.Errorf("filter is reported as %s with %d restarts", m.RuntimeStatus, m.RestartCount)
		}
		return nil
	})
}

func (p *path) killedHub(t *testing.T) {
	ctx := p.within(t, 5*time.Minute)
	for range 2 {
		before := p.pids(t)
		acked, _ := p.LeafAcked.Count(rig.LeafID)
		if err := p.KillModule(ctx, "edgeHub"); err != nil {
			t.Fatal(err)
		}
		p.restarted(t, ctx, "edgeHub", before["edgeHub"])
		eventually(t, ctx, "leaf goes on", func() error {
			if now, _ := p.LeafAcked.Count(rig.LeafID); now < acked+20 {
				return fmt.Errorf("%d acknowledged since the hub was killed", now-acked)
			}
			return nil
		})
		p.moreArrive(t, ctx, rig.FilterID, 5)
		p.onlyChanged(t, before, "edgeHub")
	}
	keys := p.LeafAcked.Keys(rig.LeafID)
	eventually(t, ctx, "everything acknowledged arrives", func() error {
		if missing := p.Arrived.Missing(rig.LeafID, keys); len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing, the first is %s", len(missing), len(keys), missing[0])
		}
		return nil
	})
}

func (p *path) cloudAway(t *testing.T) {
	ctx := p.within(t, 3*time.Minute)
	before := p.pids(t)
	if err := rig.SetLink(ctx, rig.Cloud, false); err != nil {
		t.Fatal(err)
	}
	acked, _ := p.LeafAcked.Count(rig.LeafID)
	eventually(t, ctx, "leaf is acknowledged without a cloud", func() error {
		if now, _ := p.LeafAcked.Count(rig.LeafID); now < acked+50 {
			return fmt.Errorf("%d acknowledged", now-acked)
		}
		return nil
	})
	if err := rig.SetLink(ctx, rig.Cloud, true); err != nil {
		t.Fatal(err)
	}
	keys := p.LeafAcked.Keys(rig.LeafID)
	eventually(t, ctx, "what was stored arrives", func() error {
		if missing := p.Arrived.Missing(rig.LeafID, keys); len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing", len(missing), len(keys))
		}
		return nil
	})
	p.onlyChanged(t, before)
}

func (p *path) methodAndTwin(t *testing.T) {
	ctx := p.within(t, 60*time.Second)
	out, err := p.IoTHub(ctx, "method", rig.EdgeID, "temperature-sensor", "reset", "--payload", "{}")
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status int `json:"status"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Status != 200 {
		t.Errorf("reset answered %q", out)
	}
	if _, err := p.IoTHub(ctx, "twin", "patch", rig.EdgeID, "temperature-sensor", "--desired", `{"SendInterval":1}`); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "sensor reports its setting", func() error {
		out, err := p.IoTHub(ctx, "twin", "show", rig.EdgeID, "temperature-sensor")
		if err != nil {
			return err
		}
		var twin struct {
			Properties struct {
				Reported map[string]any `json:"reported"`
			} `json:"properties"`
		}
		if err := json.Unmarshal([]byte(out), &twin); err != nil {
			return err
		}
		if got := twin.Properties.Reported["SendInterval"]; got != 1.0 {
			return fmt.Errorf("reported SendInterval is %v", got)
		}
		return nil
	})
	if _, err := p.IoTHub(ctx, "twin", "patch", rig.EdgeID, "temperature-sensor", "--desired", `{"SendInterval":null}`); err != nil {
		t.Fatal(err)
	}
}

// newPath makes a rig that is taken down with the test, after which nothing may be left
// of it; limit is for the whole test.
func newPath(t *testing.T, o rig.Options, limit time.Duration) *path {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	o.Registry = images
	o.Root, o.Say = root, func(s string) { t.Logf("%6.1fs %s", time.Since(begin).Seconds(), s) }
	r, err := rig.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.Logs(os.Stderr, 60)
		}
		if err := r.Close(); err != nil {
			t.Errorf("taking the rig down: %v", err)
		}
		nothingLeft(t, r.Dir)
	})
	return &path{Rig: r, ctx: ctx}
}
