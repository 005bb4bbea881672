package rollout

import (
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// Phase is where a safe deployment stands.
type Phase string

// The phases. In each of them either the old or the new deployment is enforced.
const (
	Direct   Phase = ""         // no safe deployment: what is wanted is enforced
	Pulling  Phase = "pulling"  // the old one is enforced; images of the new one come
	Trial    Phase = "trial"    // the new one is enforced and watched
	Accepted Phase = "accepted" // the new one is enforced
	Returned Phase = "returned" // the old one is enforced; the new one is refused
)

// MaxStarts is how many processes of the agent may watch one trial. One more, and
// it has failed: a deployment that brings the agent or the machine down would
// otherwise be tried for ever.
const MaxStarts = 3

// State is the whole memory of a safe deployment. It is a value: methods return
// the next one. Deployments in it are not changed.
type State struct {
	Phase Phase                `json:"phase,omitempty"`
	Old   *manifest.Deployment `json:"old,omitempty"` // in Pulling, Trial, Returned
	New   *manifest.Deployment `json:"new,omitempty"` // in all but Direct
	// Starts counts the processes that have watched the trial.
	Starts int       `json:"starts,omitempty"`
	Since  time.Time `json:"since,omitzero"`   // of the phase
	Reason string    `json:"reason,omitempty"` // why it was returned
}

// Target is the deployment to enforce, when wanted is what the cloud asks for.
func (s State) Target(wanted *manifest.Deployment) *manifest.Deployment {
	switch s.Phase {
	case Pulling, Returned:
		return s.Old
	case Trial:
		return s.New
	}
	return wanted
}

// Offer takes what the cloud asks for. inForce is the deployment that is enforced
// until now, nil when there is none. A deployment that was offered before stays in
// its phase, whatever its version.
func (s State) Offer(wanted, inForce *manifest.Deployment, now time.Time) State {
	if wanted.Safe == nil {
		return State{}
	}
	if s.Phase != Direct && s.New.SameContent(wanted) {
		if s.New.Version != wanted.Version {
			s.New = wanted
		}
		return s
	}
	base := inForce
	if s.Old != nil {
		base = s.Old // the one in between has not proved itself
	}
	switch {
	case base == nil:
		return State{} // nothing to go back to
	case base.SameWork(wanted):
		return State{Phase: Accepted, New: wanted, Since: now}
	}
	return State{Phase: Pulling, Old: base, New: wanted, Since: now}
}

// Pulled begins the trial. To be written to disk before anything is switched.
func (s State) Pulled(now time.Time) State {
	if s.Phase != Pulling {
		return s
	}
	s.Phase, s.Since, s.Starts = Trial, now, 1
	return s
}

// Resumed is the state of a new process of the agent.
func (s State) Resumed(now time.Time) State {
	if s.Phase != Trial {
		return s
	}
	if s.Starts >= MaxStarts {
		return s.Failed("the agent was started again too often meanwhile", now)
	}
	s.Starts++
	return s
}

// Passed ends the trial well.
func (s State) Passed(now time.Time) State {
	if s.Phase != Trial {
		return s
	}
	return State{Phase: Accepted, New: s.New, Since: now}
}

// Failed ends the trial, or what comes before it, with the reason.
func (s State) Failed(reason string, now time.Time) State {
	if s.Phase != Trial && s.Phase != Pulling {
		return s
	}
	s.Phase, s.Since, s.Starts, s.Reason = Returned, now, 0, reason
	return s
}
