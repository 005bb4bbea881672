package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// Verdict is what is known of a trial. The zero value: all is well.
type Verdict struct {
	// Waiting names the modules that are not healthy yet, with reasons.
	Waiting string
	// Failed is why the trial cannot end well any more.
	Failed string
}

// Healthy tells whether all modules are.
func (v Verdict) Healthy() bool { return v.Waiting == "" && v.Failed == "" }

// Watch judges the modules of a trial. Times are those that this process has seen
// pass, so that a clock that is set does not end a trial. Used by one goroutine.
type Watch struct {
	begun time.Time
	runs  map[string]run
}

// run is one uninterrupted run of a module.
type run struct {
	started time.Time // as the engine says; tells runs apart
	seen    time.Time // by this process
}

// NewWatch begins to watch at now.
func NewWatch(now time.Time) *Watch { return &Watch{begun: now, runs: map[string]run{}} }

// Judge looks at the modules. trouble is what went wrong in carrying out the plan,
// nil when nothing did; it becomes part of the reason.
func (w *Watch) Judge(d *manifest.Deployment, current map[string]plan.Current, policy plan.Policy, trouble error, now time.Time) Verdict {
	diff := plan.Compare(d.Modules, current, policy)
	waiting := unmade(diff)
	var failed []string
	for _, c := range diff.StateChanged {
		switch status := policy.StatusOf(c.Current, c.Wanted.Status, c.Wanted.Restart); {
		case c.Wanted.Status == manifest.Stopped:
			waiting = append(waiting, c.Name+" still runs")
		case status == plan.Stopped && c.Wanted.Restart == manifest.RestartNever && !c.Started.IsZero():
			// It has done its work.
		case status == plan.Failed:
			failed = append(failed, fmt.Sprintf("%s has ended with code %d and is not started again", c.Name, c.ExitCode))
		default:
			waiting = append(waiting, fmt.Sprintf("%s is %s (exit code %d)", c.Name, status, c.ExitCode))
		}
	}
	for name := range w.runs {
		if !slices.ContainsFunc(diff.Healthy, func(c plan.Change) bool { return c.Name == name }) {
			delete(w.runs, name)
		}
	}
	for _, c := range diff.Healthy {
		if r, ok := w.runs[c.Name]; !ok || !r.started.Equal(c.Started) {
			w.runs[c.Name] = run{c.Started, now}
		}
		if now.Sub(w.runs[c.Name].seen) < d.Safe.Settle {
			waiting = append(waiting, fmt.Sprintf("%s runs for less than %v", c.Name, d.Safe.Settle))
		} else if c.Probing {
			waiting = append(waiting, c.Name+" has not passed its health check yet")
		}
	}
	slices.Sort(waiting)
	v := Verdict{Waiting: strings.Join(waiting, "; "), Failed: strings.Join(failed, "; ")}
	if v.Failed == "" && v.Waiting != "" && now.Sub(w.begun) >= d.Safe.Timeout {
		v.Failed = fmt.Sprintf("not healthy within %v: %s", d.Safe.Timeout, v.Waiting)
	}
	if v.Failed != "" && trouble != nil {
		v.Failed += ": " + trouble.Error()
	}
	return v
}

func unmade(d plan.Diff) []string {
	var list []string
	if d.Agent != nil {
		list = append(list, d.Agent.Name+" is not replaced yet")
	}
	for _, m := range d.Added {
		list = append(list, m.Name+" is not made yet")
	}
	for _, m := range d.Updated {
		list = append(list, m.Name+" is not replaced yet")
	}
	for _, c := range d.Removed {
		list = append(list, c.Name+" is not removed yet")
	}
	for _, c := range d.Dead {
		list = append(list, c.Name+" is dead")
	}
	for _, m := range d.StatusChanged {
		list = append(list, fmt.Sprintf("%s is not %s yet", m.Name, m.Status))
	}
	return list
}
