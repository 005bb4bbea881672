package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/rollout"
	"github.com/breakwater-iot/breakwater/agent/internal/runner"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
)

// safe is what the loop holds of a safe deployment beside the saved state.
type safe struct {
	puller *runner.Runner // of pulls before the switch, with a back-off of its own
	// pulled holds the commands that have succeeded, by id; of the deployment that
	// is being pulled.
	pulled map[string]bool
	of     *manifest.Deployment
	watch  *rollout.Watch // nil outside a trial
	// missing holds modules whose image may not be here after all.
	missing map[string]bool
	waiting string // what the trial waits for
}

// resumeSafe takes up a trial that another process has begun.
func (l *Loop) resumeSafe() {
	before := l.taken.Safe
	next := before.Resumed(now())
	if next != before {
		l.setSafe(next)
	}
}

func now() time.Time { return time.Now().UTC().Round(0) }

// setSafe makes s the state; see enter for the one step that must be on disk first.
func (l *Loop) setSafe(s rollout.State) {
	if s.Phase != l.taken.Safe.Phase {
		l.log.Info("safe deployment", "phase", s.Phase, "before", l.taken.Safe.Phase, "reason", s.Reason)
		l.safe.watch, l.safe.missing, l.safe.waiting = nil, nil, ""
	}
	if s.Phase == rollout.Trial && l.safe.watch == nil {
		l.safe.watch = rollout.NewWatch(time.Now())
	}
	l.change(func(t *state.Taken) {
		if t.Safe.Phase == rollout.Trial && s.Old == nil {
			names := slices.AppendSeq(slices.Clone(t.Retired), maps.Keys(t.Safe.Old.Modules))
			slices.Sort(names)
			t.Retired = slices.Compact(names)
		}
		if t.Safe = s; s.Old == nil {
			t.Images = nil
		}
	})
}

// target decides which deployment is enforced in this cycle. The error tells of
// images of a new deployment that do not come.
func (l *Loop) target(ctx context.Context, wanted *manifest.Deployment, engines []plan.Engine) (*manifest.Deployment, error) {
	var inForce *manifest.Deployment
	if l.hasTaken {
		d := l.taken.Deployment
		inForce = &d
	}
	l.offer(wanted, inForce, engines)
	err := l.keepImages(ctx)
	if l.taken.Safe.Phase != rollout.Pulling {
		if err != nil {
			l.log.Warn("the daemon does not know which images are needed", "error", err)
		}
		return l.taken.Safe.Target(wanted), nil
	}
	if err == nil {
		err = l.pullAll(ctx, engines)
	}
	return l.taken.Safe.Target(wanted), err
}

// pullAll pulls the images of the new deployment that differ from what runs, and
// begins the trial when all are here.
func (l *Loop) pullAll(ctx context.Context, engines []plan.Engine) error {
	d := l.taken.Safe.New
	if l.safe.of == nil || !l.safe.of.SameContent(d) {
		l.safe.of, l.safe.pulled = d, map[string]bool{}
	}
	l.work = work{credentials: d.Runtime.Registries}
	diff := plan.Compare(d.Modules, l.current(engines), l.opts.Policy)
	changed := append(diff.Added, diff.Updated...)
	if diff.Agent != nil {
		changed = append(changed, *diff.Agent)
	}
	var left []plan.Command
	for _, m := range changed {
		c := plan.Command{Op: plan.Pull, Module: m.Name, Spec: &m}
		if m.Pull != manifest.PullNever && !l.safe.pulled[c.ID()] {
			left = append(left, c)
		}
	}
	var errs []error
	done := true
	for _, c := range left {
		res := l.safe.puller.Run(ctx, d.Version, []plan.Command{c})
		if err := res.Err(); err != nil {
			errs = append(errs, err)
		}
		l.safe.pulled[c.ID()] = res.Ran == 1 && res.Skipped == 0 && len(res.Failed) == 0
		done = done && l.safe.pulled[c.ID()]
	}
	if err := errors.Join(errs...); errors.Is(err, launch.ErrTakenBack) {
		l.takeBack(err.Error())
		return nil
	} else if !done {
		return err
	}
	return l.enter(ctx, l.taken.Safe.Pulled(now()))
}

// enter begins a trial. The disk has to know of it before anything is switched:
// otherwise a crash would leave the new deployment in force with nobody watching.
func (l *Loop) enter(ctx context.Context, s rollout.State) error {
	before := l.taken
	l.setSafe(s)
	if l.save(ctx); l.dirty {
		l.taken, l.safe.watch = before, nil
		return errors.New("safe deployment: the switch waits until the state can be saved")
	}
	return nil
}

// judgeSafe looks at the modules of a trial. It tells whether the target has changed.
func (l *Loop) judgeSafe(engines []plan.Engine, trouble error) bool {
	s := l.taken.Safe
	if s.Phase != rollout.Trial {
		return false
	}
	v := l.safe.watch.Judge(s.New, l.current(engines), l.opts.Policy, trouble, time.Now())
	l.safe.waiting = v.Waiting
	if errors.Is(trouble, launch.ErrTakenBack) {
		v.Failed = trouble.Error() // and will for ever
	}
	switch {
	case v.Failed != "":
		l.takeBack(v.Failed)
		return true
	case v.Healthy():
		l.setSafe(s.Passed(now()))
		l.setStatus(report.Status{Code: report.CodeSuccessful})
	}
	return false
}

// takeBack ends a safe deployment for a reason.
func (l *Loop) takeBack(reason string) {
	s := l.taken.Safe
	l.log.Error("safe deployment is taken back", "version", s.New.Version, "to", s.Old.Version, "reason", reason)
	l.setSafe(s.Failed(reason, now()))
}

// imagesAreHere tells whether the images of the target were pulled or used before,
// so that neither the switch nor the way back needs a registry.
func (l *Loop) imagesAreHere() bool {
	return l.taken.Safe.Phase == rollout.Trial || l.taken.Safe.Phase == rollout.Returned
}

func (l *Loop) hasImage(module string) bool { return l.work.local && !l.safe.missing[module] }

// doubtImage makes the next try pull: the image may have been removed meanwhile.
func (l *Loop) doubtImage(module string) {
	if !l.work.local {
		return
	}
	if l.safe.missing == nil {
		l.safe.missing = map[string]bool{}
	}
	l.safe.missing[module] = true
}

// provenVersion is the version of the deployment that is reported as taken over.
func (l *Loop) provenVersion() int64 {
	if l.held != nil {
		return *l.held
	}
	if s := l.taken.Safe; s.Phase == rollout.Trial {
		return s.Old.Version
	}
	return l.taken.Deployment.Version
}

func (l *Loop) safeReport() *report.Safe {
	s := l.taken.Safe
	if s.Phase == rollout.Direct {
		return nil
	}
	r := &report.Safe{State: string(s.Phase), Version: s.New.Version, Since: s.Since, Reason: s.Reason}
	if s.Old != nil {
		r.Fallback = s.Old.Version
	}
	if s.Phase == rollout.Trial {
		r.Reason = l.safe.waiting
	}
	return r
}
