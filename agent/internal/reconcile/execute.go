package reconcile

import (
	"context"
	"fmt"
	"time"

	"encoding/json"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
)

// Execute carries out one command of the plan that runs. It is called by the
// runner, on the goroutine of Run.
func (l *Loop) Execute(ctx context.Context, c plan.Command) error {
	var spec launch.Spec
	if c.Spec != nil {
		var err error
		if spec, err = l.opts.Host.Build(*c.Spec, l.work.ids[c.Module], l.work.credentials); err != nil {
			return err
		}
	}
	switch c.Op {
	case plan.Pull:
		if l.hasImage(c.Module) {
			return nil
		}
		return l.pulls.pull(ctx, spec)
	case plan.Create:
		return l.made(*c.Spec, l.daemon.Create(ctx, l.offline(spec)))
	case plan.Update:
		return l.made(*c.Spec, l.daemon.Update(ctx, l.offline(spec), false))
	case plan.UpdateAgent:
		err := l.daemon.Update(ctx, l.offline(spec), true)
		l.doubtImage(c.Module) // what becomes of it is not told
		return err
	case plan.Start:
		return l.switched(c, l.daemon.Start(ctx, c.Module))
	case plan.Stop:
		return l.switched(c, l.daemon.Stop(ctx, c.Module))
	case plan.Remove:
		err := l.daemon.Remove(ctx, c.Module)
		if err == nil {
			l.setApplied(func(a map[string]manifest.Module) { delete(a, c.Module) })
		}
		return err
	case plan.Save:
		return l.store.SaveRestart(c.Module, c.Restart)
	case plan.Forget:
		return l.store.ForgetRestart(c.Module)
	}
	return fmt.Errorf("command %s cannot be carried out alone", c.Op)
}

// made notes what a container was made from.
func (l *Loop) made(m manifest.Module, err error) error {
	if err != nil {
		l.doubtImage(m.Name)
		return err
	}
	l.setApplied(func(a map[string]manifest.Module) { a[m.Name] = m })
	return nil
}

// switched notes a wanted status that has been reached.
func (l *Loop) switched(c plan.Command, err error) error {
	if m, ok := l.taken.Applied[c.Module]; ok && err == nil && c.Wanted != "" {
		m.Status = c.Wanted
		l.setApplied(func(a map[string]manifest.Module) { a[c.Module] = m })
	}
	return err
}

// report sends the state of all modules.
func (l *Loop) report(ctx context.Context, engines []plan.Engine, status report.Status, ended bool) {
	in := report.Input{
		Build: l.opts.Build, DesiredVersion: l.provenVersion(), Status: status, Safe: l.safeReport(),
		Modules: l.current(engines), Policy: l.opts.Policy,
		HideCredentials: l.opts.HideCredentials, Ended: ended,
	}
	if l.hasTaken {
		in.Runtime = &l.taken.Deployment.Runtime
	}
	if l.platform != nil {
		in.Platform = *l.platform
	}
	doc, dropped, err := report.Document(in)
	if err != nil {
		l.log.Error("report not built", "error", err)
		return
	}
	if len(dropped) > 0 {
		l.log.Warn("report is larger than the hub takes: members are left out", "members", dropped)
	}
	if err := l.twin.Report(ctx, doc); err != nil && ctx.Err() == nil {
		l.log.Warn("report not sent", "error", err)
	}
}

// reportStatus sends the status alone, for when the state is not known.
func (l *Loop) reportStatus(ctx context.Context) {
	patch, err := json.Marshal(map[string]report.Status{"lastDesiredStatus": l.status})
	if err == nil {
		err = l.twin.ReportPart(ctx, patch)
	}
	if err != nil && ctx.Err() == nil {
		l.log.Warn("report not sent", "error", err)
	}
}

// askTimeout is how long the daemon has to show, at the end of this process, that it goes
// on.
const askTimeout = 5 * time.Second

// Shutdown reports that the agent is not running. It is called after Run returned, and
// leaves the modules alone. When the device ends, the daemon stops them itself, and tells
// of none before it ends the agent: then nobody knows how they are, and they are reported
// as unknown. While the daemon answers, only this process ends, because the agent is
// replaced or restarted: the modules run on, and the next agent tells how they are.
func (l *Loop) Shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.opts.ShutdownTimeout)
	defer cancel()
	asking, done := context.WithTimeout(ctx, askTimeout)
	defer done()
	if _, err := l.daemon.Modules(asking); err != nil && l.seen != nil {
		l.log.Info("the daemon is gone: modules are reported as unknown", "error", err)
		l.report(ctx, l.seen, report.NotRunning, true)
		return
	}
	l.setStatus(report.NotRunning)
	l.reportStatus(ctx)
}
