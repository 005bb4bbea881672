package runner_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/runner"
)

// executor records what it is given and fails where it is told to.
type executor struct {
	calls []string
	fail  map[string]bool
	hook  func(call string)
}

func (e *executor) Execute(_ context.Context, c plan.Command) error {
	call := string(c.Op) + " " + c.Module
	e.calls = append(e.calls, call)
	if e.hook != nil {
		e.hook(call)
	}
	if e.fail[call] {
		return errors.New("no")
	}
	return nil
}

func (e *executor) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(e.calls, want) {
		t.Fatalf("calls %q, want %q", e.calls, want)
	}
	e.calls = nil
}

func setup(fail ...string) (*executor, *runner.Runner) {
	e := &executor{fail: map[string]bool{}}
	for _, f := range fail {
		e.fail[f] = true
	}
	return e, runner.New(e, 10*time.Second, 4, slog.New(slog.DiscardHandler))
}

func create(name string) plan.Command {
	m := &manifest.Module{Name: name}
	return plan.Command{Op: plan.Group, Module: name, Steps: []plan.Command{
		{Op: plan.Pull, Module: name, Spec: m}, {Op: plan.Create, Module: name, Spec: m}}}
}

func start(name string) plan.Command {
	return plan.Command{Op: plan.Start, Module: name, NeedsContainer: true}
}

func TestFailureStopsItsGroupAndItsModuleOnly(t *testing.T) {
	e, r := setup("pull a")
	res := r.Run(t.Context(), 1, []plan.Command{create("a"), start("a"), create("b"), start("b")})
	e.expect(t, "pull a", "pull b", "create b", "start b")
	if res.Ran != 3 || res.Skipped != 0 || len(res.Failed) != 1 || res.Err() == nil {
		t.Errorf("%+v", res)
	}
	res = r.Run(t.Context(), 1, []plan.Command{create("a"), start("a")})
	e.expect(t)
	if res.Ran != 0 || res.Skipped != 1 || res.Err() != nil {
		t.Errorf("%+v", res)
	}
}

func TestPausesDoubleAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := setup("stop a")
		plan := []plan.Command{{Op: plan.Stop, Module: "a"}}
		var at []time.Duration
		begin := time.Now()
		for time.Since(begin) < time.Hour {
			if res := r.Run(t.Context(), 1, plan); res.Ran > 0 {
				at = append(at, time.Since(begin))
			}
			time.Sleep(time.Second)
		}
		if want := []time.Duration{0, 20 * time.Second, 60 * time.Second, 140 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("runs at %v, want %v", at, want)
		}
		e.calls = nil
		if res := r.Run(t.Context(), 2, plan); res.Ran != 1 {
			t.Error("a new deployment does not try again")
		}
		delete(e.fail, "stop a")
		time.Sleep(20 * time.Second)
		for range 3 {
			if res := r.Run(t.Context(), 2, plan); res.Ran != 1 || res.Err() != nil {
				t.Errorf("after success: %+v", res)
			}
		}
	})
}

func TestEssentialFailureEndsThePlan(t *testing.T) {
	e, r := setup("pull b")
	m := &manifest.Module{}
	plan := []plan.Command{
		{Op: plan.Pull, Module: "a", Spec: m, Essential: true}, {Op: plan.Pull, Module: "b", Spec: m, Essential: true}, {Op: plan.Stop, Module: "a"},
	}
	res := r.Run(t.Context(), 1, plan)
	e.expect(t, "pull a", "pull b")
	if res.Skipped != 1 || len(res.Failed) != 1 {
		t.Errorf("%+v", res)
	}
	res = r.Run(t.Context(), 1, plan)
	e.expect(t, "pull a")
	if res.Skipped != 2 || res.Err() != nil {
		t.Errorf("%+v", res)
	}
}

func TestCancelledRunLeavesTheRest(t *testing.T) {
	e, r := setup()
	ctx, cancel := context.WithCancel(t.Context())
	e.hook = func(string) { cancel() }
	res := r.Run(ctx, 1, []plan.Command{{Op: plan.Stop, Module: "a"}, {Op: plan.Stop, Module: "b"}, {Op: plan.Stop, Module: "c"}})
	e.expect(t, "stop a")
	if res.Skipped != 2 {
		t.Errorf("%+v", res)
	}
}

func TestNothingIsBegunAfterTheAgentsOwnReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := setup()
		m := &manifest.Module{Name: manifest.AgentName}
		commands := []plan.Command{{Op: plan.Group, Module: m.Name, Steps: []plan.Command{{Op: plan.UpdateAgent, Module: m.Name, Spec: m}}}, start("a")}
		if res := r.Run(t.Context(), 1, commands); res.Skipped != 1 {
			t.Errorf("%+v", res)
		}
		e.expect(t, "updateAgent edgeAgent")
		time.Sleep(5 * time.Second) // this process is still here
		r.Run(t.Context(), 1, commands)
		e.expect(t, "start a")
	})
}
