package plan

import (
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// Plan is what to do now, in order.
type Plan struct {
	Commands []Command
	// Next is when a module in back-off becomes due; zero when none waits.
	Next time.Time
}

// Inputs is what Make needs besides the diff.
type Inputs struct {
	Policy Policy
	Now    time.Time
	// Current holds the modules as they are, for startup orders and saved state.
	Current map[string]Current
	// HasIdentity tells whether the module's identity is known; modules without
	// one are neither created nor updated.
	HasIdentity func(module string) bool
	// PullsFirst moves all pulls to the beginning and gives up the plan when one
	// fails (ModuleUpdateMode WaitForAllPulls).
	PullsFirst bool
}

// group collects the commands of one startup order, by the steps of spec 6.5.
type group struct {
	agent, stops, removes, dead, forgets, added, updated, states, statuses, healthy []Command
}

func (g *group) commands() []Command {
	return slices.Concat(g.agent, g.stops, g.removes, g.dead, g.forgets,
		g.added, g.updated, g.states, g.statuses, g.healthy)
}

type maker struct {
	Inputs
	groups map[uint32]*group
	next   time.Time
}

// Make orders the work: by startup order, and within one by the kind of change.
func Make(d Diff, in Inputs) Plan {
	m := &maker{Inputs: in, groups: map[uint32]*group{}}
	if d.Agent != nil && m.HasIdentity(d.Agent.Name) {
		g := m.group(0)
		g.agent = append(g.agent, Command{Op: Group, Module: d.Agent.Name,
			Steps: m.withPull(Command{Op: UpdateAgent, Module: d.Agent.Name, Spec: d.Agent})})
	}
	for _, c := range d.Removed {
		g := m.group(c.order())
		if c.Runs() || c.State == Unknown {
			g.stops = append(g.stops, Command{Op: Stop, Module: c.Name})
		}
		g.removes = append(g.removes, Command{Op: Remove, Module: c.Name})
		m.forget(g, c.Name)
	}
	for _, c := range d.Dead {
		g := m.group(c.order())
		g.dead = append(g.dead, Command{Op: Remove, Module: c.Name})
		m.forget(g, c.Name)
	}
	for _, w := range d.Added {
		m.add(w)
	}
	for _, w := range d.Updated {
		m.update(w)
	}
	for _, c := range d.StateChanged {
		m.state(c)
	}
	for _, w := range d.StatusChanged {
		g := m.group(w.Order)
		m.forget(g, w.Name)
		op := Start
		if w.Status == manifest.Stopped {
			op = Stop
		}
		g.statuses = append(g.statuses, Command{Op: op, Module: w.Name, Wanted: w.Status})
	}
	for _, c := range d.Healthy {
		if !c.Restart.IsZero() && m.Now.Sub(c.Started) > m.Policy.IntensiveCare {
			g := m.group(c.Wanted.Order)
			g.healthy = append(g.healthy, Command{Op: Forget, Module: c.Name})
		}
	}
	return Plan{Commands: m.ordered(), Next: m.next}
}

func (m *maker) ordered() []Command {
	orders := make([]uint32, 0, len(m.groups))
	for o := range m.groups {
		orders = append(orders, o)
	}
	slices.Sort(orders)
	var list []Command
	for _, o := range orders {
		list = append(list, m.groups[o].commands()...)
	}
	if m.PullsFirst {
		list = pullsFirst(list)
	}
	return list
}

func (m *maker) group(order uint32) *group {
	g := m.groups[order]
	if g == nil {
		g = &group{}
		m.groups[order] = g
	}
	return g
}

// forget drops the saved restart state of a module that begins anew.
func (m *maker) forget(g *group, name string) {
	if !m.Current[name].Restart.IsZero() {
		g.forgets = append(g.forgets, Command{Op: Forget, Module: name})
	}
}

// withPull puts a pull before the last step unless the policy forbids it.
func (m *maker) withPull(steps ...Command) []Command {
	last := steps[len(steps)-1]
	if last.Spec.Pull == manifest.PullNever {
		return steps
	}
	return append([]Command{{Op: Pull, Module: last.Module, Spec: last.Spec}}, steps...)
}

func (m *maker) add(w manifest.Module) {
	if !m.HasIdentity(w.Name) {
		return
	}
	g := m.group(w.Order)
	g.added = append(g.added, Command{Op: Group, Module: w.Name,
		Steps: m.withPull(Command{Op: Create, Module: w.Name, Spec: &w})})
	if w.Status == manifest.Running {
		g.added = append(g.added, Command{Op: Start, Module: w.Name, NeedsContainer: true})
	}
}

func (m *maker) update(w manifest.Module) {
	if !m.HasIdentity(w.Name) {
		return
	}
	g := m.group(w.Order)
	m.forget(g, w.Name)
	g.updated = append(g.updated, Command{Op: Group, Module: w.Name,
		Steps: m.withPull(Command{Op: Stop, Module: w.Name}, Command{Op: Update, Module: w.Name, Spec: &w})})
	if w.Status == manifest.Running {
		g.updated = append(g.updated, Command{Op: Start, Module: w.Name, NeedsContainer: true})
	}
}

func (m *maker) state(c Change) {
	w := c.Wanted
	g := m.group(w.Order)
	if w.Status == manifest.Stopped {
		g.states = append(g.states, Command{Op: Stop, Module: w.Name})
		return
	}
	switch m.Policy.StatusOf(c.Current, w.Status, w.Restart) {
	case Stopped:
		if w.Restart == manifest.RestartNever && !c.Started.IsZero() {
			return
		}
		if !c.Started.IsZero() {
			g.states = append(g.states, m.startAfterCleanEnd(c))
			return
		}
		g.states = append(g.states, Command{Op: Start, Module: w.Name})
	case Unhealthy:
		if w.Restart >= manifest.RestartOnUnhealthy && c.Restart.Count < m.Policy.MaxRestarts {
			m.restart(g, c)
		}
	case Backoff:
		m.restart(g, c)
	}
}

// restart starts a module again, if it is due.
func (m *maker) restart(g *group, c Change) {
	w := c.Wanted
	if due := m.Policy.due(c.Current, w.Restart, m.Now); due.After(m.Now) {
		if m.next.IsZero() || due.Before(m.next) {
			m.next = due
		}
		return
	}
	if cleanEnd(c.Current, w.Restart) {
		g.states = append(g.states, m.startAfterCleanEnd(c))
		return
	}
	saved := c.Restart
	saved.Count++
	saved.Last = m.Now
	g.states = append(g.states, Command{Op: Group, Module: w.Name, Steps: []Command{
		{Op: Stop, Module: w.Name}, {Op: Start, Module: w.Name}, {Op: Save, Module: w.Name, Restart: saved}}})
}

// startAfterCleanEnd starts a module that ended with exit code 0. Such a start
// does not count as a restart; only quick ends in a row are remembered.
func (m *maker) startAfterCleanEnd(c Change) Command {
	start := Command{Op: Start, Module: c.Name}
	saved := c.Restart
	saved.QuickExits = 0
	if quick(c.Current) {
		saved.QuickExits = c.Restart.QuickExits + 1
	}
	if saved == c.Restart {
		return start
	}
	return Command{Op: Group, Module: c.Name, Steps: []Command{start, {Op: Save, Module: c.Name, Restart: saved}}}
}

// pullsFirst takes the pulls out of the groups and puts them first.
func pullsFirst(list []Command) []Command {
	var pulls, rest []Command
	for _, c := range list {
		if c.Op == Group && c.Steps[0].Op == Pull {
			pull := c.Steps[0]
			pull.Essential = true
			pulls = append(pulls, pull)
			c.Steps = c.Steps[1:]
		}
		rest = append(rest, c)
	}
	return append(pulls, rest...)
}
