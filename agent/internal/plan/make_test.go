package plan_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func module(name string, change ...func(*manifest.Module)) manifest.Module {
	m := manifest.Module{Name: name, Type: "docker", Status: manifest.Running, Restart: manifest.RestartAlways,
		Pull: manifest.PullOnCreate, Order: manifest.DefaultOrder, Image: name + ":1", CreateOptions: "{}"}
	for _, f := range change {
		f(&m)
	}
	return m
}

func running(m manifest.Module) plan.Current {
	return plan.Current{Engine: plan.Engine{Name: m.Name, Image: m.Image, State: plan.Running, Started: now.Add(-time.Minute)}, Applied: &m}
}

func unhealthy(m manifest.Module, r plan.Restart) plan.Current {
	c := running(m)
	c.State, c.Restart = plan.Unhealthy, r
	return c
}

func order(n uint32) func(*manifest.Module) { return func(m *manifest.Module) { m.Order = n } }
func env(k, v string) func(*manifest.Module) {
	return func(m *manifest.Module) { m.Env = map[string]string{k: v} }
}
func status(s manifest.Status) func(*manifest.Module) {
	return func(m *manifest.Module) { m.Status = s }
}
func policy(p manifest.RestartPolicy) func(*manifest.Module) {
	return func(m *manifest.Module) { m.Restart = p }
}
func neverPull(m *manifest.Module) { m.Pull = manifest.PullNever }

// system is what is wanted and what is there.
type system struct {
	wanted     []manifest.Module
	current    []plan.Current
	unknown    []string // modules without identity
	pullsFirst bool
}

func (s system) plan() plan.Plan {
	wanted, current := map[string]manifest.Module{}, map[string]plan.Current{}
	for _, m := range s.wanted {
		wanted[m.Name] = m
	}
	for _, c := range s.current {
		current[c.Name] = c
	}
	return plan.Make(plan.Compare(wanted, current, plan.DefaultPolicy()), plan.Inputs{
		Policy: plan.DefaultPolicy(), Now: now, Current: current, PullsFirst: s.pullsFirst,
		HasIdentity: func(name string) bool {
			for _, u := range s.unknown {
				if u == name {
					return false
				}
			}
			return true
		},
	})
}

// ended is a module whose container ended ago, after running for a minute.
func ended(m manifest.Module, code int, ago time.Duration, restart plan.Restart) plan.Current {
	c := running(m)
	c.State, c.ExitCode, c.Exited = plan.Stopped, code, now.Add(-ago)
	if code != 0 {
		c.State = plan.Failed
	}
	c.Started, c.Restart = c.Exited.Add(-time.Minute), restart
	return c
}

func with(c plan.Current, change func(*plan.Current)) plan.Current {
	change(&c)
	return c
}

var systems = map[string]system{
	"all kinds of change in startup groups": {
		wanted: []manifest.Module{
			module("edgeAgent", order(0), func(m *manifest.Module) { m.Image = "edgeAgent:2" }),
			module("edgeHub", order(1), env("a", "b")),
			module("new1", order(1)), module("new2", order(2), status(manifest.Stopped)), module("local", order(2), neverPull),
			module("stop", order(2), status(manifest.Stopped)), module("go"),
			module("changed", order(2)), module("dead", order(3)),
			module("crashed", order(3)), module("healthy"),
		},
		current: []plan.Current{
			running(module("edgeAgent")), running(module("edgeHub", order(1))),
			running(module("old", order(1))), running(module("old2")),
			running(module("stop", order(2))), with(running(module("go", status(manifest.Stopped))), func(c *plan.Current) { c.State = plan.Stopped }),
			with(running(module("changed", order(5))), func(c *plan.Current) { c.Restart.Count = 2 }),
			with(running(module("dead", order(3))), func(c *plan.Current) { c.State = plan.Dead; c.Restart.Count = 1 }),
			ended(module("crashed", order(3)), 1, time.Minute, plan.Restart{Count: 1}),
			with(running(module("healthy")), func(c *plan.Current) { c.Started = now.Add(-time.Hour); c.Restart.Count = 3 }),
		},
	},
	"nothing to do": {
		wanted:  []manifest.Module{module("edgeAgent", order(0)), module("edgeHub"), module("a", status(manifest.Stopped)), module("once", policy(manifest.RestartNever))},
		current: []plan.Current{running(module("edgeAgent")), running(module("edgeHub")), ended(module("a", status(manifest.Stopped)), 137, time.Hour, plan.Restart{}), ended(module("once", policy(manifest.RestartNever)), 1, time.Hour, plan.Restart{})},
	},
	"all pulls first": {
		wanted:     []manifest.Module{module("a", order(1)), module("b", order(2), env("x", "y")), module("c", neverPull)},
		current:    []plan.Current{running(module("b", order(2)))},
		pullsFirst: true,
	},
	"modules without identity are left": {
		wanted:  []manifest.Module{module("a"), module("b", env("x", "y")), module("c")},
		current: []plan.Current{running(module("b"))},
		unknown: []string{"a", "b"},
	},
	"restarts": {
		wanted: []manifest.Module{
			module("due"), module("waits"), module("exhausted"), module("clean", policy(manifest.RestartOnFailure)),
			module("fresh", policy(manifest.RestartNever)), module("unknown"),
		},
		current: []plan.Current{
			ended(module("due"), 1, 21*time.Second, plan.Restart{Count: 1}),
			ended(module("waits"), 1, 19*time.Second, plan.Restart{Count: 1}),
			ended(module("exhausted"), 1, time.Hour, plan.Restart{Count: 20}),
			ended(module("clean", policy(manifest.RestartOnFailure)), 0, time.Second, plan.Restart{}),
			with(running(module("fresh", policy(manifest.RestartNever))), func(c *plan.Current) { c.State = plan.Stopped; c.Started = time.Time{} }),
			with(running(module("unknown")), func(c *plan.Current) { c.State = plan.Unknown }),
		},
	},
	"no hub and no agent in the manifest": {
		wanted:  []manifest.Module{module("a")},
		current: []plan.Current{running(module("edgeAgent")), running(module("edgeHub")), running(module("a"))},
	},
	"unhealthy modules": {
		wanted: []manifest.Module{
			module("always"), module("on-unhealthy", policy(manifest.RestartOnUnhealthy)),
			module("on-failure", policy(manifest.RestartOnFailure)), module("never", policy(manifest.RestartNever)),
			module("just-restarted"), module("given-up"), module("stopped", status(manifest.Stopped)),
		},
		current: []plan.Current{
			unhealthy(module("always"), plan.Restart{}), unhealthy(module("on-unhealthy", policy(manifest.RestartOnUnhealthy)), plan.Restart{}),
			unhealthy(module("on-failure", policy(manifest.RestartOnFailure)), plan.Restart{}), unhealthy(module("never", policy(manifest.RestartNever)), plan.Restart{}),
			unhealthy(module("just-restarted"), plan.Restart{Count: 2, Last: now.Add(-10 * time.Second)}), unhealthy(module("given-up"), plan.Restart{Count: 20}),
			unhealthy(module("stopped", status(manifest.Stopped)), plan.Restart{}), unhealthy(module("removed"), plan.Restart{}),
		},
	},
	"container that nobody remembers": {
		wanted:  []manifest.Module{module("a")},
		current: []plan.Current{{Engine: plan.Engine{Name: "a", Image: "a:1", State: plan.Running}}, {Engine: plan.Engine{Name: "b", State: plan.Stopped}}},
	},
}

func TestPlans(t *testing.T) {
	for name, s := range systems {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			p := s.plan()
			for _, c := range p.Commands {
				fmt.Fprintln(&b, c)
			}
			if !p.Next.IsZero() {
				fmt.Fprintln(&b, "next in", p.Next.Sub(now))
			}
			file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "_")+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got\n%swant\n%s", b.String(), want)
			}
		})
	}
}

func TestStatusOf(t *testing.T) {
	never, onFailure, onUnhealthy, always := manifest.RestartNever, manifest.RestartOnFailure, manifest.RestartOnUnhealthy, manifest.RestartAlways
	for _, tt := range []struct {
		engine  plan.State
		policy  manifest.RestartPolicy
		count   int
		started bool
		want    plan.State
	}{
		{plan.Running, never, 0, true, plan.Running},
		{plan.Running, always, 20, true, plan.Running},
		{plan.Unhealthy, never, 0, true, plan.Unhealthy},
		{plan.Unhealthy, always, 20, true, plan.Unhealthy},
		{plan.Stopped, never, 0, true, plan.Stopped},
		{plan.Stopped, onFailure, 0, true, plan.Stopped},
		{plan.Stopped, onUnhealthy, 20, true, plan.Stopped},
		{plan.Stopped, always, 0, true, plan.Backoff},
		{plan.Stopped, always, 20, true, plan.Failed},
		{plan.Stopped, always, 0, false, plan.Stopped},
		{plan.Failed, never, 0, true, plan.Failed},
		{plan.Failed, onFailure, 19, true, plan.Backoff},
		{plan.Failed, onFailure, 20, true, plan.Failed},
		{plan.Failed, onUnhealthy, 0, true, plan.Backoff},
		{plan.Failed, always, 20, true, plan.Failed},
		{plan.Dead, always, 0, true, plan.Dead},
		{plan.Dead, never, 0, true, plan.Dead},
		{plan.Unknown, always, 0, true, plan.Unknown},
	} {
		c := plan.Current{Engine: plan.Engine{State: tt.engine}, Restart: plan.Restart{Count: tt.count}}
		if tt.started {
			c.Started, c.Exited = now.Add(-time.Hour), now
		}
		if got := plan.DefaultPolicy().StatusOf(c, manifest.Running, tt.policy); got != tt.want {
			t.Errorf("%s under %s after %d restarts, started %v: %s, want %s", tt.engine, tt.policy, tt.count, tt.started, got, tt.want)
		}
	}
}

func TestCoolOff(t *testing.T) {
	for _, tt := range []struct {
		unit  time.Duration
		count int
		want  time.Duration
	}{
		{10 * time.Second, 0, 10 * time.Second}, {10 * time.Second, 4, 160 * time.Second},
		{10 * time.Second, 5, 300 * time.Second}, {10 * time.Second, 1 << 30, 300 * time.Second},
		{0, 7, 0}, {300 * time.Second, 0, 300 * time.Second}, {time.Second, 3, 8 * time.Second},
	} {
		if got := (plan.Policy{Unit: tt.unit}).CoolOff(tt.count); got != tt.want {
			t.Errorf("unit %v, count %d: %v, want %v", tt.unit, tt.count, got, tt.want)
		}
	}
}

func TestCommandIDs(t *testing.T) {
	a, b := module("a"), module("a", env("x", "y"))
	create := func(m manifest.Module) string {
		return plan.Command{Op: plan.Create, Module: m.Name, Spec: &m}.ID()
	}
	if create(a) == create(b) {
		t.Error("another specification has the same id")
	}
	if create(a) != create(module("a")) {
		t.Error("the same specification has another id")
	}
	s := plan.Command{Op: plan.Save, Module: "a", Restart: plan.Restart{Count: 1}}
	if s.ID() != (plan.Command{Op: plan.Save, Module: "a", Restart: plan.Restart{Count: 2}}).ID() {
		t.Error("saved state is part of the id")
	}
}
