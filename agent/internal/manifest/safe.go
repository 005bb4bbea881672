package manifest

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// Safe asks for a safe deployment: the modules switch together when all images are
// here, and go back together when one does not become healthy in time.
type Safe struct {
	// Timeout is how long modules may take to become healthy after the switch.
	Timeout time.Duration `json:"timeout"`
	// Settle is how long a module must run without an end to count as healthy.
	Settle time.Duration `json:"settle"`
}

// The variables of edgeAgent in the manifest that ask for it. They are taken out of
// the agent's environment, so that a change of them does not replace its container.
// The original hands them to its own process, which ignores them.
const (
	safeVar        = "SafeDeployment"
	safeTimeoutVar = "SafeDeploymentTimeoutSecs"
	safeSettleVar  = "SafeDeploymentSettleSecs"

	defaultSafeTimeout = 300
	defaultSafeSettle  = 30
	maxSafeSeconds     = 24 * 3600
)

// takeSafe reads the settings and removes them from modules.
func takeSafe(modules map[string]Module) (*Safe, error) {
	agent, ok := modules[AgentName]
	if !ok {
		return nil, nil
	}
	vars := safeVars{path: "systemModules." + AgentName + ".env", env: agent.Env}
	on, err := vars.flag(safeVar)
	if err != nil {
		return nil, err
	}
	timeout, err := vars.seconds(safeTimeoutVar, defaultSafeTimeout)
	if err != nil {
		return nil, err
	}
	settle, err := vars.seconds(safeSettleVar, defaultSafeSettle)
	if err != nil {
		return nil, err
	}
	if settle >= timeout {
		return nil, invalid(vars.path, "%s (%v) must be less than %s (%v)", safeSettleVar, settle, safeTimeoutVar, timeout)
	}
	if !on {
		return nil, nil
	}
	return &Safe{Timeout: timeout, Settle: settle}, nil
}

type safeVars struct {
	path string
	env  map[string]string
}

// take returns a variable in any letter case, empty when absent, and removes it.
func (v safeVars) take(name string) string {
	var text string
	for k := range v.env {
		if strings.EqualFold(k, name) {
			text = strings.TrimSpace(v.env[k])
			delete(v.env, k)
		}
	}
	return text
}

func (v safeVars) flag(name string) (bool, error) {
	text := v.take(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(strings.ToLower(text))
	if err != nil {
		return false, invalid(v.path+"."+name, "must be true or false, not %q", text)
	}
	return on, nil
}

func (v safeVars) seconds(name string, def int) (time.Duration, error) {
	text := v.take(name)
	if text == "" {
		return time.Duration(def) * time.Second, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxSafeSeconds {
		return 0, invalid(v.path+"."+name, "must be a number of seconds from 1 to %d, not %q", maxSafeSeconds, text)
	}
	return time.Duration(n) * time.Second, nil
}

// SameContent tells whether two deployments differ in their versions at most.
func (d *Deployment) SameContent(o *Deployment) bool {
	a, b := *d, *o
	a.Version, b.Version = 0, 0
	return bytes.Equal(marshal(a), marshal(b))
}

// SameWork tells whether two deployments differ in their versions and in how they
// are to be carried out at most.
func (d *Deployment) SameWork(o *Deployment) bool {
	a, b := *d, *o
	a.Safe, b.Safe = nil, nil
	return a.SameContent(&b)
}
