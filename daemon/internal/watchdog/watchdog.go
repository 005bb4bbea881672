// Package watchdog keeps the agent running: it looks every minute, and at once
// when the engine reports the agent's end (spec security-daemon 7.2).
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Interval is the time between two looks; TrialInterval that while a new agent is on
// trial, which ends by time, too.
const (
	Interval      = 60 * time.Second
	TrialInterval = 10 * time.Second
)

// restartPause bounds how often ends of the agent lead to a look at once: an agent that
// ends within seconds of its start is started again after restartPause.
const restartPause = 5 * time.Second

// Modules runs operations on the agent; *module.Manager does.
type Modules interface {
	Exclusive(ctx context.Context, name string, f func(module.Steps) error) error
}

// Events tells what happens to modules; see runtime.Observer.
type Events interface {
	Events(ctx context.Context) <-chan runtime.Event
}

// Handover watches over the agent's replacement; *handover.Handover does.
type Handover interface {
	// OnTrial tells whether a replacement is under way.
	OnTrial() bool
	// Look moves it on; it tells whether there is one.
	Look(ctx context.Context, s module.Steps, st runtime.State, missing bool) (bool, error)
	// Made is told of an agent that was made from Spec.
	Made(spec module.Spec)
}

// Options configures a Watchdog. All fields are needed.
type Options struct {
	Modules Modules
	Events  Events
	// Spec makes the agent's spec when its container is missing; it registers the
	// agent's identity.
	Spec func(ctx context.Context) (module.Spec, error)
	// Handover says how far the replacement of the agent is.
	Handover Handover
	// MaxRetries is how many failures in a row are tolerated; -1 for any number.
	MaxRetries int
	Log        *slog.Logger
}

// ErrGaveUp says that starting the agent failed more often than allowed.
var ErrGaveUp = errors.New("agent could not be started")

// Run looks at once and then at every tick and end of the agent. It returns nil
// when ctx ends, and an error that wraps ErrGaveUp after too many failures in a
// row; a success resets their count.
func Run(ctx context.Context, o Options) error {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	w := &watchdog{Options: o, ticks: ticker.C}
	w.events = o.Events.Events(ctx)
	onTrial := false
	for {
		began := time.Now()
		if err := w.look(ctx); err != nil {
			return err
		}
		if w.Handover.OnTrial() {
			ticker.Reset(TrialInterval)
			onTrial = true
		} else if onTrial {
			ticker.Reset(Interval)
			onTrial = false
		}
		if !w.wait(ctx) {
			return nil
		}
		// Not more often than this, whatever the engine reports.
		if rest := restartPause - time.Since(began); rest > 0 && !pause(ctx, rest) {
			return nil
		}
	}
}

type watchdog struct {
	Options
	ticks    <-chan time.Time
	events   <-chan runtime.Event
	failures int
}

// wait returns when it is time to look again; false when ctx has ended.
func (w *watchdog) wait(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.ticks:
			if w.events == nil {
				w.events = w.Events.Events(ctx)
			}
			return true
		case e, ok := <-w.events:
			if !ok {
				// Lost or fallen behind: the tick looks, and subscribes again.
				w.events = nil
				continue
			}
			if e.Module == module.Agent && (e.Type == runtime.EventExited || e.Type == runtime.EventRemoved) {
				return true
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// look brings the agent to run, and counts failures.
func (w *watchdog) look(ctx context.Context) error {
	err := w.Modules.Exclusive(ctx, module.Agent, func(s module.Steps) error { return w.ensure(ctx, s) })
	if err == nil {
		w.failures = 0
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, module.ErrClosing) {
		return nil //nolint:nilerr // the end is no failure of the agent
	}
	w.failures++
	w.Log.ErrorContext(ctx, "agent does not run", "failures", w.failures, "error", err)
	if w.MaxRetries >= 0 && w.failures > w.MaxRetries {
		return fmt.Errorf("%w: %d failures in a row, the last: %w", ErrGaveUp, w.failures, err)
	}
	return nil
}

// ensure is the table of spec security-daemon 7.2.
func (w *watchdog) ensure(ctx context.Context, s module.Steps) error {
	state, err := s.Get(ctx)
	missing := errors.Is(err, runtime.ErrNotFound)
	if err != nil && !missing {
		return err
	}
	if done, err := w.Handover.Look(ctx, s, state, missing); done || err != nil {
		return err
	}
	switch {
	case missing:
	case state.Status == runtime.StatusRunning:
		return nil
	case state.Status == runtime.StatusUnknown:
		w.Log.WarnContext(ctx, "agent is in an unknown state and made anew")
		if err := s.Remove(ctx); err != nil {
			return fmt.Errorf("remove agent: %w", err)
		}
		missing = true
	}
	if missing {
		w.Log.InfoContext(ctx, "creating the agent")
		spec, err := w.Spec(ctx)
		if err != nil {
			return fmt.Errorf("prepare agent: %w", err)
		}
		if err := s.Create(ctx, spec); err != nil {
			return fmt.Errorf("create agent: %w", err)
		}
		w.Handover.Made(spec)
	}
	w.Log.InfoContext(ctx, "starting the agent")
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	return nil
}
