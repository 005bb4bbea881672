package module_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal wraps the engine and sockets and notes the order of what happens.
type journal struct {
	*runtimetest.Fake
	mu    sync.Mutex
	steps []string
	open  map[string]bool
	file  map[string]bool
	fail  error // of Sockets.Open
	pause func()
	// onStop runs when a stop begins; slowStop lasts until its context ends; lasts is how
	// long a module takes to end by itself.
	onStop   func()
	slowStop bool
	lasts    map[string]time.Duration
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.steps = append(j.steps, fmt.Sprintf(format, args...))
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.steps
	j.steps = nil
	return out
}

func (j *journal) Pull(ctx context.Context, r runtime.PullRequest) (runtime.Image, error) {
	j.note("pull %s", r.Image)
	if j.pause != nil {
		j.pause()
	}
	return j.Fake.Pull(ctx, r)
}

func (j *journal) Create(ctx context.Context, s runtime.Spec) error {
	j.note("create %s", s.Name)
	return j.Fake.Create(ctx, s)
}

func (j *journal) Start(ctx context.Context, name string) error {
	j.note("start %s", name)
	return j.Fake.Start(ctx, name)
}

func (j *journal) Stop(ctx context.Context, name string, d time.Duration) error {
	j.note("stop %s", name)
	if j.onStop != nil {
		j.onStop()
	}
	if j.slowStop {
		<-ctx.Done()
	}
	if need := j.lasts[name]; need > 0 {
		time.Sleep(min(need, d))
		j.note("ended %s after %v", name, min(need, d))
	}
	return j.Fake.Stop(ctx, name, d)
}

func (j *journal) Remove(ctx context.Context, name string) error {
	j.note("remove %s", name)
	return j.Fake.Remove(ctx, name)
}

// sockets is the journal as module.Sockets.
type sockets struct{ *journal }

func (s sockets) Open(name string) error {
	s.note("open %s", name)
	if s.fail != nil {
		return s.fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[name], s.file[name] = true, true
	return nil
}

func (s sockets) Close(name string) {
	s.note("close %s", name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, name)
}

func (s sockets) Remove(name string) error {
	s.note("unlink %s", name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, name)
	delete(s.file, name)
	return nil
}

func newManager(t testing.TB, elevated bool) (*module.Manager, *journal) {
	j := &journal{Fake: runtimetest.New("reg/a:1", "reg/a:2"), open: map[string]bool{}, file: map[string]bool{}}
	m := module.New(module.Options{Runtime: j, Sockets: sockets{j}, AllowElevated: elevated, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(m.Close)
	return m, j
}

func spec(name, image string) module.Spec { return module.Spec{Name: name, Image: image} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (j *journal) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := j.take(); !slices.Equal(got, want) {
		t.Errorf("steps\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOrderOfSteps(t *testing.T) {
	m, j := newManager(t, true)
	ctx := t.Context()
	must(t, m.Create(ctx, spec("a", "reg/a:1")))
	j.expect(t, "pull reg/a:1", "open a", "create a")
	must(t, m.Start(ctx, "a"))
	j.expect(t, "open a", "start a")
	must(t, m.Restart(ctx, "a"))
	j.expect(t, "stop a", "open a", "start a")
	must(t, m.Update(ctx, spec("a", "reg/a:2"), true))
	j.expect(t, "pull reg/a:2", "stop a", "close a", "remove a", "open a", "create a", "open a", "start a")
	must(t, m.Update(ctx, spec("a", "reg/a:1"), false))
	j.expect(t, "pull reg/a:1", "stop a", "close a", "remove a", "open a", "create a")
	must(t, m.Stop(ctx, "a"))
	j.expect(t, "stop a", "close a")
	must(t, m.PrepareUpdate(ctx, spec("a", "reg/a:2")))
	j.expect(t, "pull reg/a:2")
	must(t, m.Delete(ctx, "a"))
	j.expect(t, "remove a", "unlink a")
	must(t, m.Update(ctx, spec("new", "reg/a:1"), true))
	j.expect(t, "pull reg/a:1", "stop new", "remove new", "open new", "create new", "open new", "start new")
}

func TestFailuresLeaveThingsAsTheyWere(t *testing.T) {
	m, j := newManager(t, true)
	ctx := t.Context()
	must(t, m.Create(ctx, spec("a", "reg/a:1")))
	must(t, m.Start(ctx, "a"))
	j.take()
	for _, c := range []struct {
		name string
		do   func() error
		want error
	}{
		{"create twice", func() error { return m.Create(ctx, spec("a", "reg/a:1")) }, runtime.ErrExists},
		{"update to a missing image", func() error { return m.Update(ctx, spec("a", "reg/none"), true) }, runtime.ErrImageNotFound},
		{"update without image", func() error { return m.Update(ctx, spec("a", ""), true) }, runtime.ErrInvalid},
		{"update with a double variable", func() error {
			s := spec("a", "reg/a:2")
			s.Env = []createopts.EnvVar{{Key: "A", Value: "1"}, {Key: "A", Value: "2"}}
			return m.Update(ctx, s, true)
		}, runtime.ErrInvalid},
		{"bad name", func() error { return m.Create(ctx, spec("../x", "reg/a:1")) }, runtime.ErrInvalid},
		{"start nobody", func() error { return m.Start(ctx, "nobody") }, runtime.ErrNotFound},
		{"stop nobody", func() error { return m.Stop(ctx, "nobody") }, runtime.ErrNotFound},
		{"restart nobody", func() error { return m.Restart(ctx, "nobody") }, runtime.ErrNotFound},
		{"delete nobody", func() error { return m.Delete(ctx, "nobody") }, runtime.ErrNotFound},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	st, err := m.Get(ctx, "a")
	if err != nil || st.Status != runtime.StatusRunning || st.Image != "reg/a:1" || !j.open["a"] || len(j.file) != 1 {
		t.Fatalf("%+v, %v, sockets %v", st, err, j.file)
	}
}

func TestUsesOfImagesAreTold(t *testing.T) {
	j := &journal{Fake: runtimetest.New("reg/a:1", "reg/a:2"), open: map[string]bool{}, file: map[string]bool{}}
	var told []string
	m := module.New(module.Options{
		Runtime: j, Sockets: sockets{j}, Log: slog.New(slog.DiscardHandler), ImageUsed: func(id string) { told = append(told, id) },
	})
	t.Cleanup(m.Close)
	ctx := t.Context()
	first, second := j.AddImage("reg/a:1"), j.AddImage("reg/a:2")
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"create", func() error { return m.Create(ctx, spec("a", "reg/a:1")) }, []string{first}},
		{"start", func() error { return m.Start(ctx, "a") }, nil},
		{"prepare", func() error { return m.PrepareUpdate(ctx, spec("a", "reg/a:2")) }, []string{second}},
		{"update", func() error { return m.Update(ctx, spec("a", "reg/a:2"), true) }, []string{second, first}},
		{"delete", func() error { return m.Delete(ctx, "a") }, []string{second}},
		{"remove nothing", func() error { return m.Exclusive(ctx, "a", func(s module.Steps) error { return s.Remove(ctx) }) }, nil},
	} {
		told = nil
		must(t, step.do())
		if !slices.Equal(told, step.want) {
			t.Errorf("%s: told %v, want %v", step.name, told, step.want)
		}
	}
	told = nil
	if err := m.Create(ctx, spec("b", "reg/none")); err == nil || len(told) != 0 {
		t.Errorf("told %v, %v", told, err)
	}
}

func TestFailedCreateLeavesNoSocket(t *testing.T) {
	m, j := newManager(t, true)
	j.Fail("Create", errors.New("disk full"))
	if err := m.Create(t.Context(), spec("a", "reg/a:1")); err == nil || len(j.file) != 0 {
		t.Fatalf("%v, sockets %v", err, j.file)
	}
	j.Fail("Create", nil)
	j.fail = errors.New("no socket")
	if err := m.Create(t.Context(), spec("a", "reg/a:1")); !errors.Is(err, j.fail) {
		t.Fatalf("got %v", err)
	}
	if _, err := m.Get(t.Context(), "a"); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatal("container without a socket")
	}
}

func TestEnvironmentAndPrivileges(t *testing.T) {
	for _, elevated := range []bool{true, false} {
		m, j := newManager(t, elevated)
		s := spec("a", "reg/a:1")
		s.Env = []createopts.EnvVar{{Key: "A", Value: "manifest"}, {Key: "B", Value: "manifest"}}
		s.Create.Env = []string{"A=options"}
		s.Create.HostConfig.Privileged = true
		s.Create.HostConfig.CapAdd = []string{"NET_ADMIN"}
		must(t, m.Create(t.Context(), s))
		got, ok := j.Spec("a")
		if !ok {
			t.Fatal("not created")
		}
		if !slices.Equal(got.Options.Env, []string{"B=manifest", "A=options"}) {
			t.Errorf("env %v", got.Options.Env)
		}
		h := got.Options.HostConfig
		if h.Privileged != elevated || (len(h.CapAdd) == 1) != elevated || slices.Contains(h.CapDrop, "CHOWN") == elevated || slices.Contains(h.CapDrop, "SETUID") == elevated {
			t.Errorf("elevated %v: %+v", elevated, h)
		}
	}
}

func TestClosingRefusesWhatStarts(t *testing.T) {
	m, _ := newManager(t, true)
	ctx := t.Context()
	must(t, m.Create(ctx, spec("a", "reg/a:1")))
	must(t, m.Start(ctx, "a"))
	m.Refuse()
	for name, err := range map[string]error{
		"create": m.Create(ctx, spec("b", "reg/a:1")), "start": m.Start(ctx, "a"), "restart": m.Restart(ctx, "a"),
		"update": m.Update(ctx, spec("a", "reg/a:2"), true), "later": m.Later(ctx, "a", func(module.Steps) error { return nil }),
		"prepare": m.PrepareUpdate(ctx, spec("a", "reg/a:2")),
	} {
		if !errors.Is(err, module.ErrClosing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := m.Get(ctx, "a"); err != nil || st.Status != runtime.StatusRunning {
		t.Fatalf("%v, %v", st.Status, err)
	}
	must(t, m.Stop(ctx, "a"))
	must(t, m.Delete(ctx, "a"))
}

func TestOneModuleOneOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newManager(t, true)
		gate := make(chan struct{})
		j.pause = func() { <-gate }
		first := make(chan error, 1)
		go func() { first <- m.Create(t.Context(), spec("a", "reg/a:1")) }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() { second <- m.Delete(t.Context(), "a") }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Stop(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("impatient caller: %v", err)
		}
		j.pause = nil
		close(gate)
		must(t, <-first)
		must(t, <-second)
		j.expect(t, "pull reg/a:1", "open a", "create a", "remove a", "unlink a")
	})
}

func TestCallerThatGivesUpLeavesNothingHalfDone(t *testing.T) {
	m, j := newManager(t, true)
	must(t, m.Create(t.Context(), spec("a", "reg/a:1")))
	must(t, m.Start(t.Context(), "a"))
	ctx, cancel := context.WithCancel(t.Context())
	j.onStop = cancel // as when the agent stops itself
	must(t, m.Update(ctx, spec("a", "reg/a:2"), true))
	if st, err := m.Get(t.Context(), "a"); err != nil || st.Image != "reg/a:2" || st.Status != runtime.StatusRunning {
		t.Fatalf("%+v, %v", st, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	j.onStop = cancel
	must(t, m.Restart(ctx, "a"))
	ctx, cancel = context.WithCancel(t.Context())
	j.onStop = cancel
	must(t, m.Stop(ctx, "a"))
	if j.open["a"] {
		t.Fatal("socket of a stopped module is open")
	}
	j.onStop = nil
	gate, cancel := context.WithCancel(t.Context())
	cancel()
	j.pause = func() {}
	if err := m.Update(gate, spec("a", "reg/a:1"), true); !errors.Is(err, context.Canceled) {
		t.Fatalf("pull for nobody: %v", err)
	}
}

func TestRefuseBreaksOffWhatNobodyWaitsFor(t *testing.T) {
	m, j := newManager(t, true)
	must(t, m.Create(t.Context(), spec("a", "reg/a:1")))
	must(t, m.Start(t.Context(), "a"))
	j.onStop = m.Refuse
	j.slowStop = true
	if err := m.Update(t.Context(), spec("a", "reg/a:2"), true); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func later(t *testing.T, m *module.Manager, spec module.Spec) error {
	return m.Later(t.Context(), spec.Name, func(s module.Steps) error { return s.Replace(t.Context(), spec, true) })
}

func TestFetchChangesNothingThatRuns(t *testing.T) {
	m, j := newManager(t, true)
	must(t, m.Create(t.Context(), spec("a", "reg/a:1")))
	j.take()
	for _, c := range []struct {
		image string
		want  error
	}{{"reg/a:2", nil}, {"reg/none", runtime.ErrImageNotFound}, {"", runtime.ErrInvalid}} {
		err := m.Exclusive(t.Context(), "a", func(s module.Steps) error { _, err := s.Fetch(t.Context(), spec("a", c.image)); return err })
		if !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.image, err, c.want)
		}
	}
	j.expect(t, "pull reg/a:2", "pull reg/none")
}

func TestLaterWorksInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newManager(t, true)
		must(t, m.Create(t.Context(), spec(module.Agent, "reg/a:1")))
		must(t, m.Start(t.Context(), module.Agent))
		gate := make(chan struct{})
		j.pause = func() { <-gate }
		must(t, later(t, m, spec(module.Agent, "reg/a:2")))
		synctest.Wait()
		if st, err := m.Get(t.Context(), module.Agent); err != nil || st.Image != "reg/a:1" || st.Status != runtime.StatusRunning {
			t.Errorf("during: %+v, %v", st, err)
		}
		close(gate)
		synctest.Wait()
		if st, err := m.Get(t.Context(), module.Agent); err != nil || st.Image != "reg/a:2" || st.Status != runtime.StatusRunning {
			t.Errorf("after: %+v, %v", st, err)
		}
	})
}

func TestCloseWaitsForBackgroundWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newManager(t, true)
		gate := make(chan struct{})
		j.pause = func() { <-gate }
		must(t, later(t, m, spec(module.Agent, "reg/a:2")))
		synctest.Wait()
		closed := make(chan struct{})
		go func() { m.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed during an update")
		default:
		}
		close(gate)
		<-closed
	})
}

func TestStopAllAndRemoveAll(t *testing.T) {
	m, j := newManager(t, true)
	ctx := t.Context()
	for _, n := range []string{"a", "b", "c"} {
		must(t, m.Create(ctx, spec(n, "reg/a:1")))
		must(t, m.Start(ctx, n))
	}
	must(t, m.StopAll(ctx))
	all, err := m.List(ctx)
	must(t, err)
	for _, s := range all {
		if s.Status != runtime.StatusExited || j.open[s.Name] {
			t.Errorf("%s: %s, socket open %v", s.Name, s.Status, j.open[s.Name])
		}
	}
	must(t, m.RemoveAll(ctx))
	if all, err = m.List(ctx); err != nil || len(all) != 0 || len(j.file) != 0 {
		t.Errorf("%v, %v, sockets %v", all, err, j.file)
	}
	must(t, m.Create(ctx, spec("d", "reg/a:1")))
	j.Fail("Stop", errors.New("stuck"))
	if err := m.StopAll(ctx); err == nil || !strings.Contains(err.Error(), "d: stuck") {
		t.Errorf("got %v", err)
	}
}

func TestStopAllGoesInReverseOrderOfStart(t *testing.T) {
	for name, tc := range map[string]struct {
		lasts map[string]time.Duration
		want  []string
	}{
		"the next when the one before has ended": {
			map[string]time.Duration{"late": time.Second, "early": 2 * time.Second, "hub": time.Second},
			[]string{
				"stop edgeAgent", "close edgeAgent", "stop late", "ended late after 1s", "close late",
				"stop early", "ended early after 2s", "close early", "stop hub", "ended hub after 1s", "close hub",
			},
		},
		"one that hangs holds the others up for its share of half the time": {
			map[string]time.Duration{"late": time.Hour, "early": time.Second, "hub": time.Second},
			[]string{
				"stop edgeAgent", "close edgeAgent", "stop late",
				"stop early", "ended early after 1s", "close early", "stop hub", "ended hub after 1s", "close hub",
				"ended late after 30s", "close late",
			},
		},
		"all hang": {
			map[string]time.Duration{"edgeAgent": time.Hour, "late": time.Hour, "early": time.Hour, "hub": time.Hour},
			[]string{"stop edgeAgent", "stop late", "stop early", "stop hub"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, j := newManager(t, true)
				ctx := t.Context()
				for _, n := range []string{module.Agent, "hub", "early", "late"} { // not by name
					must(t, m.Create(ctx, spec(n, "reg/a:1")))
					must(t, m.Start(ctx, n))
					time.Sleep(time.Second)
				}
				j.take()
				j.lasts = tc.lasts
				began := time.Now()
				must(t, m.StopAll(ctx))
				if took := time.Since(began); took > module.StopAllTimeout {
					t.Errorf("took %v", took)
				}
				got := j.take()
				if len(tc.want) < len(got) {
					got = got[:len(tc.want)]
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("got  %q\nwant %q", got, tc.want)
				}
			})
		})
	}
}

func TestTakeOver(t *testing.T) {
	m, j := newManager(t, true)
	ctx := t.Context()
	for _, n := range []string{"runs", "stopped"} {
		must(t, m.Create(ctx, spec(n, "reg/a:1")))
	}
	must(t, m.Start(ctx, "runs"))
	j.take()
	paths := func(name string) []string { return []string{"/run/shared.sock", "/mnt/" + name + ".sock"} }
	must(t, m.TakeOver(ctx, paths))
	j.expect(t, "open runs", "open stopped")
	if got, want := j.Rebound("runs"), paths("runs"); !slices.Equal(got, want) {
		t.Errorf("bound anew: %q, want %q", got, want)
	}
	// One that cannot have its socket is of no use as it is. If it cannot be stopped either,
	// that is no reason to leave the others without a daemon.
	j.Fail("Rebind", errors.New("no such call"))
	j.Fail("Stop", errors.New("does not end"))
	must(t, m.TakeOver(ctx, paths))
	j.expect(t, "open runs", "stop runs", "open stopped")
	j.Fail("Stop", nil)
	must(t, m.TakeOver(ctx, paths))
	j.expect(t, "open runs", "stop runs", "close runs", "open stopped")
	must(t, m.TakeOver(ctx, paths)) // nothing runs, and nothing is bound anew
	j.fail = errors.New("no room")
	if err := m.TakeOver(ctx, paths); err == nil || !strings.Contains(err.Error(), "runs: no room") {
		t.Errorf("got %v", err)
	}
}

// TestSocketsFollowModules drives random operations: a module that runs has an
// open socket, and a socket file exists only for a module that exists.
func TestSocketsFollowModules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, j := newManager(t, true)
		name := rapid.SampledFrom([]string{"a", "b"})
		image := rapid.SampledFrom([]string{"reg/a:1", "reg/a:2", "reg/none"})
		ctx := context.Background()
		do := func(f func() error) func(*rapid.T) {
			return func(t *rapid.T) {
				err := f()
				if err != nil && !errors.Is(err, runtime.ErrNotFound) && !errors.Is(err, runtime.ErrExists) && !errors.Is(err, runtime.ErrImageNotFound) {
					t.Fatal(err)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				do(func() error { return m.Create(ctx, spec(name.Draw(t, "m"), image.Draw(t, "i"))) })(t)
			},
			"update": func(t *rapid.T) {
				do(func() error {
					return m.Update(ctx, spec(name.Draw(t, "m"), image.Draw(t, "i")), rapid.Bool().Draw(t, "start"))
				})(t)
			},
			"start":   func(t *rapid.T) { do(func() error { return m.Start(ctx, name.Draw(t, "m")) })(t) },
			"stop":    func(t *rapid.T) { do(func() error { return m.Stop(ctx, name.Draw(t, "m")) })(t) },
			"restart": func(t *rapid.T) { do(func() error { return m.Restart(ctx, name.Draw(t, "m")) })(t) },
			"delete":  func(t *rapid.T) { do(func() error { return m.Delete(ctx, name.Draw(t, "m")) })(t) },
			"exit":    func(t *rapid.T) { j.Exit(name.Draw(t, "m"), 1) },
			"": func(t *rapid.T) {
				all, err := m.List(ctx)
				if err != nil {
					t.Fatal(err)
				}
				exists := map[string]bool{}
				for _, s := range all {
					exists[s.Name] = true
					if s.Status == runtime.StatusRunning && !j.open[s.Name] {
						t.Fatalf("%s runs without a socket", s.Name)
					}
					if !j.file[s.Name] {
						t.Fatalf("%s exists without a socket file", s.Name)
					}
				}
				for n := range j.file {
					if !exists[n] {
						t.Fatalf("socket file of %s, which does not exist", n)
					}
				}
			},
		})
	})
}
