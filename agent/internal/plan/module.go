package plan

import (
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// State is what the engine says about a container, and, after StatusOf, what the
// agent says about a module.
type State string

// The states. The engine knows running, unhealthy, stopped, failed, dead and unknown.
const (
	Unknown State = "unknown"
	Running State = "running"
	Stopped State = "stopped"
	Failed  State = "failed"
	Dead    State = "dead"
	Backoff State = "backoff"
	// Unhealthy runs, and its health check says that it should not.
	Unhealthy State = "unhealthy"
)

// Labels that tell what a container was made from; the first two only of the agent's own.
const (
	LabelOptions = "net.azure-devices.edge.create-options"
	LabelEnv     = "net.azure-devices.edge.env"
	LabelImage   = "net.azure-devices.edge.original-image"
	// LabelModule is what any other container was made from: Module.Fingerprint. The
	// original's containers do not have it.
	LabelModule = "io.breakwater.module"
	// LabelGeneration is the generation of the module's identity that the container was told.
	LabelGeneration = "io.breakwater.generation"
)

// Engine is one container as the daemon reports it.
type Engine struct {
	Name        string
	Image       string // as it was requested
	ImageHash   string
	State       State
	Description string
	ExitCode    int
	Started     time.Time // zero: never
	Exited      time.Time // zero: never
	Labels      map[string]string
	// Probing says that it runs and its health check has not come to a result yet.
	Probing bool
}

// Runs tells whether the container has a process.
func (e Engine) Runs() bool { return e.State == Running || e.State == Unhealthy }

// Restart is what the agent remembers about a module's restarts.
type Restart struct {
	Count int       `json:"restartCount"`
	Last  time.Time `json:"lastRestartTimeUtc"`
	// QuickExits counts ends with exit code 0 soon after the start, in a row.
	QuickExits int `json:"quickExits,omitempty"`
}

// IsZero tells whether there is nothing to remember.
func (r Restart) IsZero() bool { return r == Restart{} }

// Current is one module as it is.
type Current struct {
	Engine
	// Applied is what the container was made from; nil for a container that no
	// deployment known to this agent made.
	Applied *manifest.Module
	Restart Restart
}

func (c Current) order() uint32 {
	if c.Applied == nil {
		return 0
	}
	return c.Applied.Order
}

// Policy holds the numbers of spec edgeagent 6.6.
type Policy struct {
	Unit          time.Duration // cool-off unit
	MaxRestarts   int
	IntensiveCare time.Duration // running so long resets the restart count
}

// DefaultPolicy returns the numbers that hold when the environment says nothing.
func DefaultPolicy() Policy {
	return Policy{Unit: 10 * time.Second, MaxRestarts: 20, IntensiveCare: 10 * time.Minute}
}

const (
	maxCoolOff = 300 * time.Second
	// A module may end with exit code 0 this often in a row, each time within
	// quickRun of its start, before its restarts are slowed down.
	freeQuickExits = 3
	quickRun       = 10 * time.Second
)

// CoolOff is the pause before restart number count+1: Unit doubled count times,
// at most 300 s.
func (p Policy) CoolOff(count int) time.Duration {
	d := p.Unit
	for range count {
		if d >= maxCoolOff {
			return maxCoolOff
		}
		d *= 2
	}
	return min(d, maxCoolOff)
}

// StatusOf is the status of a module that is reported and planned with. A module
// wanted stopped is stopped however it ended.
func (p Policy) StatusOf(c Current, wanted manifest.Status, restart manifest.RestartPolicy) State {
	switch c.State {
	case Running, Unhealthy, Dead, Unknown:
		return c.State
	}
	if wanted == manifest.Stopped {
		return Stopped
	}
	switch {
	case c.State == Stopped && c.Started.IsZero():
		return Stopped
	case restart == manifest.RestartNever:
		return c.State
	case c.State == Stopped && restart < manifest.RestartAlways:
		if c.Restart.QuickExits >= freeQuickExits && quick(c) {
			return Backoff
		}
		return Stopped
	case c.Restart.Count >= p.MaxRestarts:
		return Failed
	}
	return Backoff
}

// due tells when a module in back-off is restarted, counted from its last end or
// its last restart, whichever is later. A time in the future, after the clock was
// set back, counts as long ago.
func (p Policy) due(c Current, restart manifest.RestartPolicy, now time.Time) time.Time {
	n := c.Restart.Count
	if cleanEnd(c, restart) {
		n = c.Restart.QuickExits - freeQuickExits
	}
	base := c.Exited
	if c.Restart.Last.After(base) {
		base = c.Restart.Last
	}
	if base.After(now) {
		return now
	}
	return base.Add(p.CoolOff(n))
}

// cleanEnd tells whether the module ended with exit code 0 under a policy that
// restarts it then without counting.
func cleanEnd(c Current, restart manifest.RestartPolicy) bool {
	return c.State == Stopped && (restart == manifest.RestartOnFailure || restart == manifest.RestartOnUnhealthy)
}

func quick(c Current) bool {
	run := c.Exited.Sub(c.Started)
	return !c.Exited.IsZero() && run >= 0 && run < quickRun
}
