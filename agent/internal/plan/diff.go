package plan

import (
	"maps"
	"slices"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// Diff sorts the modules by what is to be done about them. Each module is in one
// list at most; lists are sorted by name.
type Diff struct {
	Agent         *manifest.Module // the agent's container differs from what is wanted
	Added         []manifest.Module
	Updated       []manifest.Module
	Removed       []Current
	Dead          []Current
	StatusChanged []manifest.Module // only the wanted status differs
	StateChanged  []Change          // the wanted status is not the actual one
	Healthy       []Change          // running and wanted running
}

// Change is a module whose container is as wanted.
type Change struct {
	Wanted manifest.Module
	Current
}

// NeedsIdentities tells whether identities must be looked at before planning.
func (d Diff) NeedsIdentities() bool {
	return d.Agent != nil || len(d.Added)+len(d.Updated)+len(d.Removed) > 0
}

// Compare sorts the modules of both sides. The arguments are not changed.
func Compare(wanted map[string]manifest.Module, current map[string]Current, policy Policy) Diff {
	var d Diff
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		m := wanted[name]
		c, exists := current[name]
		switch {
		case name == manifest.AgentName:
			if exists && agentDiffers(m, c) {
				d.Agent = &m
			}
		case !exists:
			d.Added = append(d.Added, m)
		case c.State == Dead:
			d.Dead = append(d.Dead, c)
		case c.Applied == nil || !c.Applied.Same(m) || !manifest.SameImage(c.Image, m.Image):
			d.Updated = append(d.Updated, m)
		case c.Applied.Status != m.Status:
			d.StatusChanged = append(d.StatusChanged, m)
		case policy.StatusOf(c, m.Status, m.Restart) != State(m.Status):
			d.StateChanged = append(d.StateChanged, Change{m, c})
		case m.Status == manifest.Running:
			d.Healthy = append(d.Healthy, Change{m, c})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(current)) {
		if _, keep := wanted[name]; !keep && name != manifest.AgentName {
			d.Removed = append(d.Removed, current[name])
		}
	}
	return d
}

// agentDiffers compares with the labels of the running container; a container
// without labels, as an older daemon makes it, is taken as it is.
func agentDiffers(m manifest.Module, c Current) bool {
	if !manifest.SameImage(c.Image, m.Image) {
		return true
	}
	if text, ok := c.Labels[LabelOptions]; ok {
		options, err := manifest.CanonicalOptions(text)
		if err != nil || options != m.CreateOptions {
			return true
		}
	}
	if text, ok := c.Labels[LabelEnv]; ok {
		env, err := manifest.ParseEnv(text)
		if err != nil || !maps.Equal(env, m.Env) {
			return true
		}
	}
	return false
}
