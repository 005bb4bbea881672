package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// Harness is an engine to be tested.
type Harness struct {
	Runtime runtime.Runtime
	// Image can be pulled and runs Programs.
	Image string
	// Missing is an image that its registry does not have.
	Missing string
}

// patience bounds how long the suite waits for something to happen.
const patience = 30 * time.Second

// Run checks what every engine must do. The engine must have no modules.
func Run(t *testing.T, h Harness) {
	for _, tc := range []struct {
		name string
		test func(suite, *testing.T)
	}{
		{"a missing image is told apart", suite.missingImage},
		{"policy never does not pull", suite.pullNever},
		{"create makes a stopped module", suite.create},
		{"create refuses what cannot be", suite.createRefuses},
		{"start and stop", suite.startStop},
		{"a stubborn module is killed", suite.stubborn},
		{"an exit code is kept", suite.exitCode},
		{"a module can be started again", suite.restart},
		{"remove is forced and idempotent", suite.remove},
		{"logs keep streams and select", suite.logs},
		{"following a log ends with the module", suite.follow},
		{"events come in order", suite.events},
		{"a process is resolved to its module", suite.process},
		{"what runs is measured", suite.stats},
		{"an image in use stays", suite.images},
		{"binds that a module does not have are not made anew", suite.rebind},
		{"operations on unknown modules fail", suite.unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			tc.test(suite{Harness: h, ctx: ctx}, t)
		})
	}
}

type suite struct {
	Harness
	ctx context.Context // one test's
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// module creates a module that the test's end removes.
func (s suite) module(t *testing.T, name string, p Program) {
	t.Helper()
	_, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Image})
	must(t, err)
	must(t, s.Runtime.Create(s.ctx, runtime.Spec{
		Name: name, Image: s.Image, Options: createopts.Options{Cmd: p.Args()},
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), patience)
		defer cancel()
		if err := s.Runtime.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	})
}

func (s suite) state(t *testing.T, name string) runtime.State {
	t.Helper()
	st, err := s.Runtime.Get(s.ctx, name)
	must(t, err)
	return st
}

// until reads events up to one of this type for the module.
func until(t *testing.T, events <-chan runtime.Event, module string, want runtime.EventType) runtime.Event {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("events ended before %s of %s", want, module)
			}
			if e.Module == module && e.Type == want {
				return e
			}
		case <-timer.C:
			t.Fatalf("no event %s of %s", want, module)
		}
	}
}

func (s suite) missingImage(t *testing.T) {
	_, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Missing})
	wantErr(t, err, runtime.ErrImageNotFound)
	var pull *runtime.PullError
	if !errors.As(err, &pull) || pull.Image != s.Missing || !strings.HasPrefix(s.Missing, pull.Registry+"/") {
		t.Errorf("%v does not name image and registry", err)
	}
}

func (s suite) pullNever(t *testing.T) {
	_, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Missing, Policy: runtime.PullNever})
	wantErr(t, err, runtime.ErrImageNotFound)
	want, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Image})
	must(t, err)
	got, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Image, Policy: runtime.PullNever})
	must(t, err)
	if got.ID == "" || got.ID != want.ID || got.Digest != want.Digest {
		t.Errorf("got %+v, pulled %+v", got, want)
	}
}

func (s suite) create(t *testing.T) {
	img, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Image})
	must(t, err)
	labels := map[string]string{
		"mine": "yes", runtime.LabelOwner: "thief", "long": strings.Repeat("x", 10000),
	}
	before := time.Now().Add(-time.Minute)
	must(t, s.Runtime.Create(s.ctx, runtime.Spec{
		Name: "created", Image: s.Image, Options: createopts.Options{Cmd: Program{Exit: -1}.Args(), Labels: maps.Clone(labels)},
	}))
	first := s.state(t, "created")
	labels[runtime.LabelOwner], labels[runtime.LabelOriginalImage] = runtime.Owner, s.Image
	for k, v := range labels {
		if first.Labels[k] != v {
			t.Errorf("label %s is %.50q", k, first.Labels[k])
		}
	}
	if first.Status != runtime.StatusCreated || first.Image != s.Image || first.ImageID != img.ID || first.Pid != 0 ||
		!first.Started.IsZero() || !first.Exited.IsZero() || first.Created.Before(before) {
		t.Errorf("state %+v", first)
	}
	wantErr(t, s.Runtime.Create(s.ctx, runtime.Spec{Name: "created", Image: s.Image}), runtime.ErrExists)
	list, err := s.Runtime.List(s.ctx)
	must(t, err)
	if len(list) != 1 || list[0].Name != "created" || list[0].Instance != first.Instance {
		t.Errorf("list %+v", list)
	}
	must(t, s.Runtime.Remove(s.ctx, "created"))
	s.module(t, "created", Program{Exit: -1})
	if again := s.state(t, "created"); again.Instance == first.Instance || again.Instance == "" {
		t.Errorf("instance %q after %q", again.Instance, first.Instance)
	}
}

func (s suite) createRefuses(t *testing.T) {
	wantErr(t, s.Runtime.Create(s.ctx, runtime.Spec{Name: "../x", Image: s.Image}), runtime.ErrInvalid)
	wantErr(t, s.Runtime.Create(s.ctx, runtime.Spec{Name: "x", Image: s.Missing}), runtime.ErrImageNotFound)
}

func (s suite) startStop(t *testing.T) {
	s.module(t, "runner", Program{Say: []string{"up"}, Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "runner"))
	s.awaitLine(t, "runner") // the kernel drops a signal that the first process of a container does not handle yet
	running := s.state(t, "runner")
	if running.Status != runtime.StatusRunning || running.Pid == 0 || running.Started.IsZero() || running.Address == "" {
		t.Errorf("state %+v", running)
	}
	must(t, s.Runtime.Start(s.ctx, "runner"))
	if again := s.state(t, "runner"); again.Pid != running.Pid {
		t.Errorf("pid %d after a second start, %d before", again.Pid, running.Pid)
	}
	must(t, s.Runtime.Stop(s.ctx, "runner", runtime.DefaultStopTimeout))
	stopped := s.state(t, "runner")
	if stopped.Status != runtime.StatusExited || stopped.Pid != 0 || stopped.ExitCode != 0 || stopped.Exited.IsZero() ||
		stopped.Exited.Before(stopped.Started) || stopped.Address != "" {
		t.Errorf("state %+v", stopped)
	}
	must(t, s.Runtime.Stop(s.ctx, "runner", runtime.DefaultStopTimeout))
}

func (s suite) stubborn(t *testing.T) {
	s.module(t, "stubborn", Program{Say: []string{"up"}, Stubborn: true, Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "stubborn"))
	s.awaitLine(t, "stubborn") // it ignores the signal only once it is up
	must(t, s.Runtime.Stop(s.ctx, "stubborn", time.Second))
	if st := s.state(t, "stubborn"); st.Status != runtime.StatusExited || st.ExitCode != 137 {
		t.Errorf("state %+v", st)
	}
}

func (s suite) awaitLine(t *testing.T, name string) {
	t.Helper()
	for _, err := range s.Runtime.Logs(s.ctx, name, runtime.LogOptions{Follow: true}) {
		must(t, err)
		return
	}
	t.Fatalf("%s ended without a line", name)
}

func (s suite) exitCode(t *testing.T) {
	events := s.Runtime.Events(s.ctx)
	s.module(t, "failing", Program{Exit: 42})
	must(t, s.Runtime.Start(s.ctx, "failing"))
	if e := until(t, events, "failing", runtime.EventExited); e.ExitCode != 42 {
		t.Errorf("event %+v", e)
	}
	if st := s.state(t, "failing"); st.Status != runtime.StatusExited || st.ExitCode != 42 || st.Exited.IsZero() {
		t.Errorf("state %+v", st)
	}
}

func (s suite) restart(t *testing.T) {
	events := s.Runtime.Events(s.ctx)
	s.module(t, "again", Program{Say: []string{"hello"}, Exit: 0})
	for range 3 {
		must(t, s.Runtime.Start(s.ctx, "again"))
		until(t, events, "again", runtime.EventExited)
	}
	if got := s.lines(t, "again", runtime.LogOptions{}); len(got) != 3 {
		t.Errorf("log %q, want a line of each run", got)
	}
}

func (s suite) remove(t *testing.T) {
	s.module(t, "gone", Program{Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "gone"))
	must(t, s.Runtime.Remove(s.ctx, "gone"))
	_, err := s.Runtime.Get(s.ctx, "gone")
	wantErr(t, err, runtime.ErrNotFound)
	must(t, s.Runtime.Remove(s.ctx, "gone"))
	must(t, s.Runtime.Remove(s.ctx, "never was"))
	s.module(t, "gone", Program{Say: []string{"new"}, Exit: -1})
	if got := s.lines(t, "gone", runtime.LogOptions{}); len(got) != 0 {
		t.Errorf("a new module has an old log: %q", got)
	}
}

func (s suite) lines(t *testing.T, name string, opts runtime.LogOptions) []string {
	t.Helper()
	var got []string
	for e, err := range s.Runtime.Logs(s.ctx, name, opts) {
		must(t, err)
		if e.Time.IsZero() {
			t.Errorf("entry %q has no time", e.Line)
		}
		got = append(got, fmt.Sprintf("%d:%s", e.Stream, e.Line))
	}
	return got
}

func (s suite) logs(t *testing.T) {
	events := s.Runtime.Events(s.ctx)
	s.module(t, "talker", Program{Say: []string{"one", "two", "three"}, Complain: []string{"oh"}, Exit: 1})
	must(t, s.Runtime.Start(s.ctx, "talker"))
	until(t, events, "talker", runtime.EventExited)
	all := s.lines(t, "talker", runtime.LogOptions{})
	want := []string{"1:one\n", "1:two\n", "1:three\n", "2:oh\n"}
	sorted := slices.Clone(all) // the two streams may overtake each other
	slices.Sort(sorted)
	slices.Sort(want)
	if !slices.Equal(sorted, want) {
		t.Errorf("log %q, want %q", all, want)
	}
	if got := s.lines(t, "talker", runtime.LogOptions{Tail: 2}); !slices.Equal(got, all[2:]) {
		t.Errorf("tail 2 is %q of %q", got, all)
	}
	if got := s.lines(t, "talker", runtime.LogOptions{Tail: runtime.TailNone}); len(got) != 0 {
		t.Errorf("tail none is %q", got)
	}
	if got := s.lines(t, "talker", runtime.LogOptions{Since: time.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("since the future: %q", got)
	}
	if got := s.lines(t, "talker", runtime.LogOptions{Until: time.Now().Add(-time.Hour)}); len(got) != 0 {
		t.Errorf("until the past: %q", got)
	}
}

func (s suite) follow(t *testing.T) {
	s.module(t, "followed", Program{Say: []string{"here"}, Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "followed"))
	stopped := make(chan error, 1)
	n := 0
	for e, err := range s.Runtime.Logs(s.ctx, "followed", runtime.LogOptions{Follow: true}) {
		must(t, err)
		if string(e.Line) != "here\n" {
			t.Errorf("line %q", e.Line)
		}
		if n++; n == 1 {
			go func() { stopped <- s.Runtime.Stop(s.ctx, "followed", runtime.DefaultStopTimeout) }()
		}
	}
	must(t, <-stopped)
	if n != 1 {
		t.Errorf("%d lines", n)
	}
}

func (s suite) events(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	events := s.Runtime.Events(ctx)
	s.module(t, "eventful", Program{Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "eventful"))
	must(t, s.Runtime.Stop(s.ctx, "eventful", runtime.DefaultStopTimeout))
	must(t, s.Runtime.Remove(s.ctx, "eventful"))
	for _, want := range []runtime.EventType{runtime.EventCreated, runtime.EventStarted, runtime.EventExited, runtime.EventRemoved} {
		e := <-events
		if e.Type != want || e.Module != "eventful" || e.Time.IsZero() {
			t.Errorf("event %+v, want %s", e, want)
		}
	}
	cancel()
	for range events { // closes
		t.Error("an event after the context's end")
	}
}

func (s suite) process(t *testing.T) {
	s.module(t, "owner", Program{Exit: -1})
	s.module(t, "other", Program{Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "owner"))
	must(t, s.Runtime.Start(s.ctx, "other"))
	for _, name := range []string{"owner", "other"} {
		st := s.state(t, name)
		p, err := s.Runtime.ModuleOfPid(s.ctx, st.Pid)
		must(t, err)
		if p.Module != name || p.Pid != st.Pid || p.StartTicks == 0 || p.Instance != st.Instance || p.Labels[runtime.LabelOwner] != runtime.Owner {
			t.Errorf("process %+v of %+v", p, st)
		}
	}
	pid := s.state(t, "owner").Pid
	must(t, s.Runtime.Stop(s.ctx, "owner", runtime.DefaultStopTimeout))
	for _, pid := range []int{pid, os.Getpid(), 1, 0, -1, 1 << 30} {
		_, err := s.Runtime.ModuleOfPid(s.ctx, pid)
		wantErr(t, err, runtime.ErrNotFound)
	}
}

func (s suite) stats(t *testing.T) {
	s.module(t, "first", Program{Exit: -1})
	s.module(t, "second", Program{Exit: -1})
	s.module(t, "stopped", Program{Exit: -1})
	must(t, s.Runtime.Start(s.ctx, "second"))
	must(t, s.Runtime.Start(s.ctx, "first"))
	got, err := s.Runtime.Stats(s.ctx)
	must(t, err)
	if len(got) != 2 || got[0].Module != "first" || got[1].Module != "second" {
		t.Fatalf("measured %+v", got)
	}
	st := got[0]
	if st.Instance != s.state(t, "first").Instance || st.Processes == 0 || st.CPUTotal == 0 || st.Read.IsZero() ||
		st.MemoryUsage == 0 || st.MemoryLimit <= st.MemoryUsage {
		t.Errorf("measured %+v", st)
	}
	if _, ok := st.Memory["inactive_file"]; !ok || len(st.Networks) != 1 {
		t.Errorf("measured %+v", st)
	}
}

func (s suite) images(t *testing.T) {
	img, err := s.Runtime.Pull(s.ctx, runtime.PullRequest{Image: s.Image})
	must(t, err)
	listed := func() bool {
		list, err := s.Runtime.ListImages(s.ctx)
		must(t, err)
		return slices.ContainsFunc(list, func(i runtime.Image) bool { return i.ID == img.ID && len(i.Names) > 0 })
	}
	s.module(t, "user", Program{Exit: -1})
	wantErr(t, s.Runtime.RemoveImage(s.ctx, img.ID), runtime.ErrInUse)
	if !listed() {
		t.Error("the image is not listed")
	}
	must(t, s.Runtime.Remove(s.ctx, "user"))
	must(t, s.Runtime.RemoveImage(s.ctx, img.ID))
	if listed() {
		t.Error("a removed image is listed")
	}
	must(t, s.Runtime.RemoveImage(s.ctx, img.ID))
}

func (s suite) rebind(t *testing.T) {
	s.module(t, "unbound", Program{Exit: -1})
	must(t, s.Runtime.Rebind(s.ctx, "unbound", "/nowhere"))
	must(t, s.Runtime.Start(s.ctx, "unbound"))
	before := s.state(t, "unbound").Pid
	must(t, s.Runtime.Rebind(s.ctx, "unbound", "/nowhere"))
	if after := s.state(t, "unbound").Pid; after != before {
		t.Errorf("pid %d, was %d", after, before)
	}
}

func (s suite) unknown(t *testing.T) {
	_, err := s.Runtime.Get(s.ctx, "unknown")
	wantErr(t, err, runtime.ErrNotFound)
	wantErr(t, s.Runtime.Start(s.ctx, "unknown"), runtime.ErrNotFound)
	wantErr(t, s.Runtime.Stop(s.ctx, "unknown", 0), runtime.ErrNotFound)
	wantErr(t, s.Runtime.Rebind(s.ctx, "unknown", "/nowhere"), runtime.ErrNotFound)
	for _, err = range s.Runtime.Logs(s.ctx, "unknown", runtime.LogOptions{}) {
		wantErr(t, err, runtime.ErrNotFound)
	}
	wantErr(t, err, runtime.ErrNotFound)
	info, err := s.Runtime.Info(s.ctx)
	if err != nil || info.Name == "" || info.Version == "" {
		t.Errorf("info %+v, %v", info, err)
	}
}
