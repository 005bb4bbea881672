package rollout_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/rollout"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func deployment(version, content int, safe bool) *manifest.Deployment {
	d := &manifest.Deployment{Version: int64(version), Modules: map[string]manifest.Module{
		"m": {Name: "m", Image: fmt.Sprintf("m:%d", content), Status: manifest.Running, Restart: manifest.RestartAlways},
	}}
	if safe {
		d.Safe = &manifest.Safe{Timeout: time.Minute, Settle: 10 * time.Second}
	}
	return d
}

// device is the part of the loop that the state needs, with a disk.
type device struct {
	state, disk     rollout.State
	inForce, onDisk *manifest.Deployment
	wanted          *manifest.Deployment
}

func (d *device) save() { d.disk, d.onDisk = d.state, d.inForce }

func (d *device) cycle(t *rapid.T, now time.Time) {
	before := d.inForce
	offered := d.state.Offer(d.wanted, d.inForce, now)
	if offered.Phase == rollout.Pulling && before != nil && !offered.Target(d.wanted).SameWork(before) && d.state.Phase != rollout.Trial {
		t.Fatalf("an offer switches from %s to %s before the images are here", image(before), image(offered.Target(d.wanted)))
	}
	d.state = offered
	d.inForce = d.state.Target(d.wanted)
}

func image(d *manifest.Deployment) string { return d.Modules["m"].Image }

// TestTargetIsAlwaysOldOrNew does to a device whatever may happen in any order. At
// every moment exactly one whole deployment is the target: the one wanted, or the
// one before. A crash at any moment comes back to such a state.
func TestTargetIsAlwaysOldOrNew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now, version := start, 1
		d := &device{wanted: deployment(1, 0, false)}
		d.cycle(rt, now)
		d.save()
		check := func(rt *rapid.T) {
			s := d.state
			target := s.Target(d.wanted)
			switch s.Phase {
			case rollout.Direct, rollout.Accepted:
				if s.Old != nil || target != d.wanted {
					rt.Fatalf("%s: target %s, want %s", s.Phase, image(target), image(d.wanted))
				}
			case rollout.Trial:
				if s.Starts < 1 || s.Starts > rollout.MaxStarts || s.Old == nil || !target.SameContent(s.New) {
					rt.Fatalf("trial: %+v", s)
				}
			case rollout.Pulling, rollout.Returned:
				if s.Old == nil || target != s.Old || s.New == nil || s.Old.SameWork(s.New) {
					rt.Fatalf("%s: target %s", s.Phase, image(target))
				}
			default:
				rt.Fatalf("phase %q", s.Phase)
			}
			if (s.Reason != "") != (s.Phase == rollout.Returned) {
				rt.Fatalf("%s with reason %q", s.Phase, s.Reason)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": check,
			"deploy": func(rt *rapid.T) {
				version++
				d.wanted = deployment(version, rapid.IntRange(0, 3).Draw(rt, "content"), rapid.Bool().Draw(rt, "safe"))
				d.cycle(rt, now)
				d.save()
			},
			"same again": func(rt *rapid.T) {
				version++
				same, phase := *d.wanted, d.state.Phase
				same.Version = int64(version)
				d.wanted = &same
				d.cycle(rt, now)
				if d.state.Phase != phase && d.state.Phase != rollout.Accepted {
					rt.Fatalf("the same manifest leads from %q to %q", phase, d.state.Phase)
				}
			},
			"images come": func(rt *rapid.T) {
				if d.state.Phase != rollout.Pulling {
					return
				}
				d.state = d.state.Pulled(now)
				d.save() // before the switch
				d.inForce = d.state.Target(d.wanted)
			},
			"healthy": func(rt *rapid.T) { d.state = d.state.Passed(now); d.inForce = d.state.Target(d.wanted) },
			"unhealthy": func(rt *rapid.T) {
				old := d.state.Old
				trial := d.state.Phase == rollout.Trial
				d.state = d.state.Failed("m crashes", now)
				if trial && d.state.Target(d.wanted) != old {
					rt.Fatal("does not go back to where it came from")
				}
				d.inForce = d.state.Target(d.wanted)
			},
			"saved": func(*rapid.T) { d.save() },
			"crash": func(rt *rapid.T) {
				b, err := json.Marshal(d.disk)
				if err != nil {
					rt.Fatal(err)
				}
				var back rollout.State
				if err := json.Unmarshal(b, &back); err != nil {
					rt.Fatal(err)
				}
				d.inForce = d.onDisk
				d.state = back.Resumed(now)
				if back.Phase == rollout.Trial && back.Starts == rollout.MaxStarts && d.state.Phase != rollout.Returned {
					rt.Fatal("tried for ever")
				}
				d.cycle(rt, now)
				d.save()
			},
			"time": func(*rapid.T) { now = now.Add(time.Minute) },
		})
	})
}

func TestRefusedDeploymentIsTriedAgainWhenItChanges(t *testing.T) {
	old, bad := deployment(1, 1, false), deployment(2, 2, true)
	s := rollout.State{}.Offer(bad, old, start).Pulled(start).Failed("why", start)
	if s.Phase != rollout.Returned || s.Target(bad) != old {
		t.Fatalf("%+v", s)
	}
	again := deployment(3, 2, true)
	s = s.Offer(again, old, start)
	if s.Phase != rollout.Returned || s.New.Version != 3 || s.Reason != "why" {
		t.Errorf("same content, other version: %+v", s)
	}
	patient := deployment(4, 2, true)
	patient.Safe.Timeout *= 2
	if s := s.Offer(patient, old, start); s.Phase != rollout.Pulling || s.Target(patient) != old {
		t.Errorf("more time is granted: %+v", s)
	}
	if s := s.Offer(deployment(4, 1, true), old, start); s.Phase != rollout.Accepted {
		t.Errorf("the old one is wanted: %+v", s)
	}
	if s := s.Offer(deployment(4, 2, false), old, start); s.Phase != rollout.Direct {
		t.Errorf("no safety is wanted: %+v", s)
	}
	if s := (rollout.State{}).Offer(bad, nil, start); s.Phase != rollout.Direct {
		t.Errorf("there is nothing to go back to: %+v", s)
	}
}

func TestJudge(t *testing.T) {
	d := deployment(2, 2, true)
	m := d.Modules["m"]
	running := plan.Current{Engine: plan.Engine{Name: "m", Image: "m:2", State: plan.Running, Started: start.Add(-time.Hour)}, Applied: &m}
	judge := func(w *rollout.Watch, c plan.Current, at time.Duration) rollout.Verdict {
		return w.Judge(d, map[string]plan.Current{"m": c}, plan.DefaultPolicy(), nil, start.Add(at))
	}
	w := rollout.NewWatch(start)
	for _, at := range []time.Duration{0, 9 * time.Second} {
		if v := judge(w, running, at); v.Failed != "" || !strings.Contains(v.Waiting, "m runs for less than 10s") {
			t.Errorf("after %v: %+v", at, v)
		}
	}
	if v := judge(w, running, 10*time.Second); !v.Healthy() {
		t.Errorf("%+v", v)
	}
	restarted := running
	restarted.Started = start
	if v := judge(w, restarted, 11*time.Second); v.Healthy() {
		t.Error("a restart that was not seen counts as one run")
	}
	crashed := running
	crashed.State, crashed.ExitCode = plan.Failed, 3
	if v := judge(w, crashed, 12*time.Second); v.Failed != "" || v.Waiting != "m is backoff (exit code 3)" {
		t.Errorf("%+v", v)
	}
	if v := judge(w, crashed, time.Minute); v.Failed != "not healthy within 1m0s: m is backoff (exit code 3)" {
		t.Errorf("%+v", v)
	}
	other := running
	other.Image = "m:1"
	if v := judge(w, other, time.Second); !strings.Contains(v.Waiting, "not replaced") {
		t.Errorf("%+v", v)
	}

	m.Restart = manifest.RestartNever
	d.Modules["m"] = m
	ended := running
	ended.State, ended.Exited = plan.Stopped, start
	if v := judge(w, ended, time.Second); !v.Healthy() {
		t.Errorf("a task that has done its work: %+v", v)
	}
	ended.State, ended.ExitCode = plan.Failed, 7
	if v := judge(w, ended, time.Second); !strings.Contains(v.Failed, "m has ended with code 7") {
		t.Errorf("a task that has failed for good: %+v", v)
	}
}

func TestAHealthCheckMustHavePassed(t *testing.T) {
	d := deployment(2, 2, true)
	m := d.Modules["m"]
	c := plan.Current{Engine: plan.Engine{Name: "m", Image: "m:2", State: plan.Running, Started: start, Probing: true}, Applied: &m}
	w := rollout.NewWatch(start)
	judge := func(at time.Duration) rollout.Verdict {
		return w.Judge(d, map[string]plan.Current{"m": c}, plan.DefaultPolicy(), nil, start.Add(at))
	}
	judge(0)
	settled := d.Safe.Settle + time.Second
	if v := judge(settled); !strings.Contains(v.Waiting, "m has not passed its health check yet") || v.Failed != "" {
		t.Errorf("before it has: %+v", v)
	}
	c.State, c.Probing = plan.Unhealthy, false
	if v := judge(settled); !strings.Contains(v.Waiting, "m is unhealthy") || v.Failed != "" {
		t.Errorf("when it has failed: %+v", v)
	}
	if v := judge(d.Safe.Timeout); v.Failed == "" {
		t.Errorf("when it has failed for too long: %+v", v)
	}
	c.State = plan.Running
	w = rollout.NewWatch(start)
	judge(0)
	if v := judge(settled); !v.Healthy() {
		t.Errorf("when it has passed: %+v", v)
	}
}
