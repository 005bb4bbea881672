// Package runner carries out plans. It remembers the commands that failed and
// leaves them alone until their back-off has passed, while the others go on (spec
// edgeagent 6.7).
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// ErrPending is returned by a command whose work goes on by itself: it is no failure,
// and the command is to be given again.
var ErrPending = errors.New("still under way")

// Executor carries out one command that is not a group. It may return ErrPending.
type Executor interface {
	Execute(ctx context.Context, c plan.Command) error
}

// Result is what became of a plan.
type Result struct {
	Ran     int     // commands tried
	Skipped int     // commands in back-off, pending, or behind an essential one
	Pending int     // of these, commands whose work goes on by itself
	Failed  []error // one for each command that failed
}

// Err joins the failures.
func (r Result) Err() error { return errors.Join(r.Failed...) }

type record struct {
	runs int
	last time.Time
}

// Runner is used by one goroutine.
type Runner struct {
	exec    Executor
	unit    time.Duration // back-off unit
	maxRuns int
	log     *slog.Logger
	version int64
	records map[string]record
}

// New returns a runner whose commands wait unit·2^runs after a failure and are
// given up after maxRuns.
func New(exec Executor, unit time.Duration, maxRuns int, log *slog.Logger) *Runner {
	return &Runner{exec: exec, unit: unit, maxRuns: maxRuns, log: log, records: map[string]record{}}
}

// Run carries out the commands in order, for the given version of the deployment;
// a new version forgets all failures. A cancelled context ends the run: the rest
// counts as skipped.
func (r *Runner) Run(ctx context.Context, version int64, commands []plan.Command) Result {
	if version != r.version {
		r.version = version
		clear(r.records)
	}
	var res Result
	noContainer := map[string]bool{}
	for i, c := range commands {
		if ctx.Err() != nil {
			res.Skipped += len(commands) - i
			break
		}
		if c.NeedsContainer && noContainer[c.Module] {
			continue
		}
		id := c.ID()
		ok := r.ready(id)
		if !ok {
			res.Skipped++
		} else {
			res.Ran++
			switch err := r.runOne(ctx, id, c); {
			case errors.Is(err, ErrPending):
				res.Skipped++
				res.Pending++
				ok = false
			case err != nil:
				res.Failed = append(res.Failed, err)
				ok = false
			}
		}
		if ok && replacesAgent(c) {
			// This process is about to end. What it began now would be cut off; the
			// next one, or the next cycle, goes on.
			res.Skipped += len(commands) - i - 1
			break
		}
		if ok {
			continue
		}
		if makesContainer(c) {
			noContainer[c.Module] = true
		}
		if c.Essential {
			res.Skipped += len(commands) - i - 1
			break
		}
	}
	return res
}

func (r *Runner) runOne(ctx context.Context, id string, c plan.Command) error {
	r.log.Info("command", "command", c.String())
	err := r.execute(ctx, c)
	if errors.Is(err, ErrPending) {
		return err
	}
	if err == nil && !replacesAgent(c) {
		delete(r.records, id)
		return nil
	}
	// The agent's own replacement goes on in the daemon after it was accepted: do
	// not ask again at once if this process is still here in the next cycle.
	rec := r.records[id]
	rec.runs++
	rec.last = time.Now()
	r.records[id] = rec
	if err != nil {
		r.log.Error("command failed", "command", c.String(), "error", err, "runs", rec.runs, "retry_in", r.pause(rec.runs))
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func (r *Runner) execute(ctx context.Context, c plan.Command) error {
	if c.Op != plan.Group {
		return r.exec.Execute(ctx, c)
	}
	for _, s := range c.Steps {
		if err := r.exec.Execute(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.Op, err)
		}
	}
	return nil
}

func (r *Runner) ready(id string) bool {
	rec, failed := r.records[id]
	if !failed {
		return true
	}
	return rec.runs < r.maxRuns && !time.Now().Before(rec.last.Add(r.pause(rec.runs)))
}

// pause doubles without a cap, as the original's does, up to what a duration holds.
func (r *Runner) pause(runs int) time.Duration {
	d := r.unit
	for range runs {
		if d > 1<<61 {
			break
		}
		d *= 2
	}
	return d
}

func makesContainer(c plan.Command) bool {
	switch c.Op {
	case plan.Create, plan.Update:
		return true
	case plan.Group:
		last := c.Steps[len(c.Steps)-1].Op
		return last == plan.Create || last == plan.Update
	}
	return false
}

func replacesAgent(c plan.Command) bool {
	return c.Module == manifest.AgentName && c.Op == plan.Group && c.Steps[len(c.Steps)-1].Op == plan.UpdateAgent
}
