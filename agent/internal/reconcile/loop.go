package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/rollout"
	"github.com/breakwater-iot/breakwater/agent/internal/runner"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
)

// minInterval lies between cycles that modules cause: the loop's own commands make
// events too, and a module that can never be as it is wanted must not make it spin.
const minInterval = time.Second

// Options of the loop. Zero durations get the values of spec edgeagent 6.1.
type Options struct {
	Host            launch.Host
	Build           report.Build
	Policy          plan.Policy
	PullsFirst      bool // ModuleUpdateMode WaitForAllPulls
	DeleteOrphans   bool // EnableOrphanedIdentityCleanup
	HideCredentials bool
	// Local: the deployment is a file's, and to be carried out without a cloud, too.
	Local           bool
	Interval        time.Duration
	FirstWait       time.Duration // for the twin, at start
	CycleTimeout    time.Duration
	ShutdownTimeout time.Duration
	Observe         func(Cycle) // called at the end of each cycle, if set
	Log             *slog.Logger
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.Interval, 5 * time.Second}, {&o.FirstWait, 5 * time.Second},
		{&o.CycleTimeout, 10 * time.Minute}, {&o.ShutdownTimeout, time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
}

// Loop reconciles. Only Wake may be called while Run runs, and Shutdown after it.
type Loop struct {
	opts   Options
	daemon Daemon
	twin   Twin
	store  *state.Store
	ids    *identities
	runner *runner.Runner
	log    *slog.Logger
	wake   chan struct{}

	// Owned by Run.
	taken    *state.Taken // what was taken over; never nil after load
	hasTaken bool
	dirty    bool   // taken differs from the saved one
	held     *int64 // the version to report, see holdVersion
	source   source
	status   report.Status
	platform *report.Platform
	seen     []plan.Engine // of the last cycle, for Shutdown
	work     work          // of the plan that runs
	pulls    *pulls
	safe     safe
	fallback fallback
}

// work is what the commands of the current plan need.
type work struct {
	ids         map[string]launch.Identity
	credentials []manifest.Registry
	// local: the images are here already, see safe.
	local bool
}

// New returns a loop that has done nothing yet.
func New(daemon Daemon, api Identities, tw Twin, store *state.Store, opts Options) *Loop {
	opts.setDefaults()
	l := &Loop{
		opts: opts, daemon: daemon, twin: tw, store: store, log: opts.Log,
		wake:   make(chan struct{}, 1),
		status: report.Status{Code: report.CodeUnknown},
	}
	l.ids = &identities{api: api, deleteOrphans: opts.DeleteOrphans, log: opts.Log}
	l.runner = runner.New(l, opts.Policy.Unit, opts.Policy.MaxRestarts, opts.Log)
	l.pulls = newPulls(daemon, l.Wake)
	l.safe.puller = runner.New(l, opts.Policy.Unit, opts.Policy.MaxRestarts, opts.Log)
	return l
}

// Wake makes the loop begin a cycle soon. It returns at once.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run reconciles until ctx ends, and returns nil. The modules go on as they are;
// see Shutdown.
func (l *Loop) Run(ctx context.Context) error {
	defer l.pulls.end()
	l.load(ctx)
	timer := time.NewTimer(l.opts.FirstWait)
	defer timer.Stop()
	if _, ok := l.twin.Desired(); !ok {
		select {
		case <-ctx.Done():
		case <-timer.C:
			l.log.Warn("no twin yet: starting with what was saved")
		case <-l.twin.Changed():
		}
	}
	for ctx.Err() == nil {
		next := l.cycle(ctx)
		ended := time.Now()
		timer.Reset(l.pause(next))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-l.twin.Changed():
		case <-l.wake:
			timer.Reset(time.Until(ended.Add(minInterval)))
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-l.twin.Changed():
			}
		}
	}
	return nil
}

// pause is the time to the next cycle when nothing happens before.
func (l *Loop) pause(next time.Time) time.Duration {
	if next.IsZero() {
		return l.opts.Interval
	}
	return max(min(time.Until(next), l.opts.Interval), 0)
}

// load reads what was taken over before. Unreadable state is as none: containers
// that nobody remembers are made anew once there is a deployment.
func (l *Loop) load(ctx context.Context) {
	taken, err := l.store.LoadTaken(ctx)
	switch {
	case err == nil:
		l.hasTaken = true
		if taken.Applied == nil {
			taken.Applied = map[string]manifest.Module{}
		}
		l.taken = taken
		l.resumeSafe()
		return
	case !errors.Is(err, state.ErrNone):
		l.log.Error("saved deployment is unreadable and counts as none", "error", err)
	}
	l.taken = &state.Taken{Applied: map[string]manifest.Module{}}
}

// cycle is one pass. It returns when the next is due at the latest, zero for the
// ordinary interval.
func (l *Loop) cycle(ctx context.Context) time.Time {
	ctx, cancel := context.WithTimeout(ctx, l.opts.CycleTimeout)
	defer cancel()
	wanted, configErr := l.config(ctx)
	engines, err := l.observe(ctx)
	if err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return time.Time{}
		}
		l.log.Error("modules not listed", "error", err)
		l.setStatus(report.Status{Code: report.CodeFailed, Description: errors.Join(err, configErr).Error()})
		l.reportStatus(ctx)
		return time.Time{}
	}
	var next time.Time
	var worked time.Duration
	if wanted != nil {
		begin := time.Now()
		target, pullErr := l.target(ctx, wanted, engines)
		done := l.apply(ctx, target, engines)
		next = done.next
		if done.ran {
			worked = time.Since(begin)
			if again, err := l.daemon.Modules(ctx); err == nil {
				engines = again
			}
		}
		if l.judgeSafe(engines, done.err) {
			next = time.Now() // the target has changed
		}
		l.retire(ctx, l.taken.Safe.Target(wanted))
		if configErr == nil {
			l.setOutcome(errors.Join(pullErr, done.err), done.skipped || l.taken.Safe.Phase == rollout.Pulling)
		}
	} else if configErr == nil {
		l.setStatus(report.Status{Code: report.CodeSuccessful})
	}
	if e, ok := manifest.AsError(configErr); ok {
		l.setStatus(report.Status{Code: e.Code, Description: e.Description()})
	}
	l.seen = engines
	l.save(ctx)
	l.report(ctx, engines, l.status, false)
	l.observed(engines, worked)
	return next
}

// observe asks the daemon for the modules, and once for the host.
func (l *Loop) observe(ctx context.Context) ([]plan.Engine, error) {
	if l.platform == nil {
		p, err := l.daemon.Platform(ctx)
		if err != nil {
			return nil, err
		}
		l.platform = &p
	}
	return l.daemon.Modules(ctx)
}

// outcome is what came of bringing the modules towards a deployment.
type outcome struct {
	next    time.Time // when the next cycle is due, zero when nothing waits
	ran     bool      // some command was tried
	skipped bool      // some command was not
	err     error
}

// apply brings the modules towards wanted.
func (l *Loop) apply(ctx context.Context, wanted *manifest.Deployment, engines []plan.Engine) outcome {
	l.adopt(ctx, wanted, engines)
	current := l.current(engines)
	diff := plan.Compare(wanted.Modules, current, l.opts.Policy)
	var idErr error
	l.work = work{credentials: wanted.Runtime.Registries, local: l.imagesAreHere()}
	if diff.NeedsIdentities() {
		l.work.ids, idErr = l.ids.ensure(ctx, wanted, diff, l.terms())
		if idErr != nil {
			l.log.Error("identities not settled: modules are neither added nor updated", "error", idErr)
		}
	}
	p := plan.Make(diff, plan.Inputs{
		Policy: l.opts.Policy, Now: time.Now().UTC().Round(0), Current: current, PullsFirst: l.opts.PullsFirst,
		HasIdentity: func(name string) bool { _, ok := l.work.ids[name]; return ok },
	})
	res := l.runner.Run(ctx, wanted.Version, p.Commands)
	l.holdVersion(res.Pending > 0)
	l.takeOver(wanted, engines)
	return outcome{next: p.Next, ran: res.Ran > 0, skipped: res.Skipped > 0, err: errors.Join(idErr, res.Err())}
}

// setOutcome makes what came of a cycle the status. When a part was not tried, what
// is known of that part from before stays.
func (l *Loop) setOutcome(err error, skipped bool) {
	switch s := l.taken.Safe; {
	case s.Phase == rollout.Trial:
		// The status is that of the old deployment until the new one has proved itself.
	case s.Phase == rollout.Returned:
		text := fmt.Sprintf("safe deployment of version %d was taken back: %s", s.New.Version, s.Reason)
		if err != nil {
			text += "; " + err.Error()
		}
		l.setStatus(report.Status{Code: report.CodeFailed, Description: text})
	case err != nil:
		l.setStatus(report.Status{Code: report.CodeFailed, Description: err.Error()})
	case !skipped:
		l.setStatus(report.Status{Code: report.CodeSuccessful})
	}
}

// holdVersion keeps what is reported as taken over while images are still on their
// way: with the status of before, the new version would say that all is done.
func (l *Loop) holdVersion(pending bool) {
	switch {
	case !pending:
		l.held = nil
	case l.held == nil:
		version := l.provenVersion()
		l.held = &version
	}
}

// takeOver notes wanted as the deployment in force, whether or not all commands
// succeeded.
func (l *Loop) takeOver(wanted *manifest.Deployment, engines []plan.Engine) {
	if !l.hasTaken || !equalJSON(l.taken.Deployment, *wanted) {
		l.change(func(t *state.Taken) { t.Deployment = *wanted })
		l.hasTaken = true
	}
	exists := make(map[string]bool, len(engines))
	for _, e := range engines {
		exists[e.Name] = true
	}
	for name := range l.taken.Applied {
		if _, keep := wanted.Modules[name]; !keep && !exists[name] {
			l.setApplied(func(a map[string]manifest.Module) { delete(a, name) })
		}
	}
}

// change changes a copy of what was taken over: the store may hold the old one.
func (l *Loop) change(f func(*state.Taken)) {
	t := *l.taken
	f(&t)
	l.taken, l.dirty = &t, true
}

func (l *Loop) setApplied(f func(map[string]manifest.Module)) {
	applied := maps.Clone(l.taken.Applied)
	f(applied)
	l.change(func(t *state.Taken) { t.Applied = applied })
}

// save writes what was taken over, even when the cycle was cut short.
func (l *Loop) save(ctx context.Context) {
	if !l.dirty || !l.hasTaken {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := l.store.SaveTaken(ctx, l.taken); err != nil {
		l.log.Error("deployment not saved", "error", err)
		return
	}
	l.dirty = false
}

// current joins what runs with what is remembered.
func (l *Loop) current(engines []plan.Engine) map[string]plan.Current {
	restarts := l.store.Restarts()
	list := make(map[string]plan.Current, len(engines))
	for _, e := range engines {
		c := plan.Current{Engine: e, Restart: restarts[e.Name]}
		if m, ok := l.taken.Applied[e.Name]; ok {
			c.Applied = &m
		}
		if e.Name == manifest.AgentName {
			if m, ok := l.taken.Deployment.Modules[e.Name]; ok {
				c.Applied = &m
			}
		}
		list[e.Name] = c
	}
	return list
}

// adopt takes containers as they are whose labels say that they were made from what is
// wanted, and for the identities that the modules have. The agent that made them was another
// one, whose memory this one does not have.
func (l *Loop) adopt(ctx context.Context, wanted *manifest.Deployment, engines []plan.Engine) {
	var found []plan.Engine
	for _, e := range engines {
		m, ok := wanted.Modules[e.Name]
		if _, known := l.taken.Applied[e.Name]; !known && ok && e.Labels[plan.LabelModule] == m.Fingerprint() {
			found = append(found, e)
		}
	}
	for _, e := range l.ids.current(ctx, found) {
		l.log.Info("module was made from what is wanted", "module", e.Name)
		l.setApplied(func(a map[string]manifest.Module) { a[e.Name] = wanted.Modules[e.Name] })
	}
}

func (l *Loop) setStatus(s report.Status) {
	if s != l.status {
		l.log.Info("deployment status", "code", s.Code, "description", s.Description)
		l.status = s
	}
}

// observed tells the observer about the modules that were deployed.
func (l *Loop) observed(engines []plan.Engine, worked time.Duration) {
	if l.opts.Observe == nil {
		return
	}
	c := Cycle{Modules: map[string]Sample{}, Worked: worked}
	current := l.current(engines)
	for name, m := range l.taken.Deployment.Modules {
		have, exists := current[name]
		c.Modules[name] = Sample{
			Version:       m.Version,
			WantedRunning: m.Status == manifest.Running,
			Correct:       exists && l.opts.Policy.StatusOf(have, m.Status, m.Restart) == plan.State(m.Status),
		}
	}
	l.opts.Observe(c)
}
