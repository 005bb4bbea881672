// Package health decides how a module feels, from probes that are run in it: the
// state machine and the times of Docker's HEALTHCHECK.
//
//	            a probe succeeds
//	starting ─────────────────────► healthy
//	    │                            │  ▲
//	    │ Retries fail in a row,     │  │ a probe succeeds
//	    │ after StartPeriod          ▼  │
//	    └─────────────────────────► unhealthy
//
// Failures within StartPeriod do not count until a probe has succeeded.
package health

import (
	"context"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Check says how to probe.
type Check struct {
	// Args is the command.
	Args []string `json:"args"`
	// Interval is the pause after a probe, and before the first; StartInterval instead
	// while a module within its StartPeriod is starting.
	Interval      time.Duration `json:"interval"`
	StartInterval time.Duration `json:"startInterval"`
	// Timeout bounds a probe; one that takes longer has failed.
	Timeout     time.Duration `json:"timeout"`
	StartPeriod time.Duration `json:"startPeriod,omitempty"`
	Retries     int           `json:"retries"`
}

// The values of Docker for what is not given.
const (
	DefaultInterval      = 30 * time.Second
	DefaultStartInterval = 5 * time.Second
	DefaultTimeout       = 30 * time.Second
	DefaultRetries       = 3
)

// State is how a module feels in one run.
type State struct {
	Status runtime.Health `json:"status"`
	// Failures is how many probes in a row have failed.
	Failures int `json:"failures,omitempty"`
	// Output is what the last failed probe said; bounded.
	Output string `json:"output,omitempty"`
}

// Result of a probe.
type Result struct {
	OK     bool
	Output string
	// Void says that it could not be made, which says nothing of the module.
	Void bool
}

// Next returns the state after a probe that ended when the module had run for age.
func (c Check) Next(s State, r Result, age time.Duration) State {
	switch {
	case r.Void:
		return s
	case r.OK:
		return State{Status: runtime.Healthy}
	case s.Status == runtime.HealthStarting && age < c.StartPeriod:
		s.Output = r.Output
		return s
	}
	s.Failures = min(s.Failures+1, c.Retries)
	s.Output = r.Output
	if s.Failures >= c.Retries {
		s.Status = runtime.Unhealthy
	}
	return s
}

// pause before the next probe.
func (c Check) pause(s State, age time.Duration) time.Duration {
	if s.Status == runtime.HealthStarting && age < c.StartPeriod {
		return c.StartInterval
	}
	return c.Interval
}

// Run probes until ctx ends, beginning with state s of a module that was started at
// the time given. changed is called with each state of another status than the one
// before, in order.
func (c Check) Run(ctx context.Context, s State, started time.Time, probe func(context.Context) Result, changed func(State)) {
	// By a clock that nobody sets; across a restart of the daemon the wall clock must do.
	begin := time.Now().Add(-max(time.Since(started), 0))
	age := func() time.Duration { return time.Since(begin) }
	timer := time.NewTimer(c.pause(s, age()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		limited, cancel := context.WithTimeout(ctx, c.Timeout)
		r := probe(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		next := c.Next(s, r, age())
		if next.Status != s.Status {
			changed(next)
		}
		s = next
		timer.Reset(c.pause(s, age()))
	}
}
