package handover_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/handover"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	"github.com/breakwater-iot/breakwater/daemon/internal/watchdog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	configured = "reg/agent:0" // by the config
	old        = "reg/agent:1"
	next       = "reg/agent:2"
	third      = "reg/agent:3"
)

// usual is the trial of the tests.
var usual = handover.Trial{Attempts: 3, Settle: 30 * time.Second, Limit: 2 * time.Minute}

// engine is one whose containers of some images cannot be made or started, and whose
// registry may be away. It notes what stops and starts.
type engine struct {
	*runtimetest.Fake

	mu       sync.Mutex
	noCreate map[string]bool
	noStart  map[string]bool
	away     bool
	onStop   func()
	steps    []string
}

// change changes what the engine can do.
func (e *engine) change(f func(e *engine)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e)
}

// taken returns the steps since the last call.
func (e *engine) taken() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	steps := e.steps
	e.steps = nil
	return steps
}

func (e *engine) note(step string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.steps = append(e.steps, step)
}

func (e *engine) Pull(ctx context.Context, r runtime.PullRequest) (runtime.Image, error) {
	e.mu.Lock()
	away := e.away
	e.mu.Unlock()
	if away && r.Policy != runtime.PullNever {
		return runtime.Image{}, &runtime.PullError{Image: r.Image, Registry: "reg", Err: runtime.ErrUnavailable}
	}
	return e.Fake.Pull(ctx, r)
}

func (e *engine) Create(ctx context.Context, s runtime.Spec) error {
	e.mu.Lock()
	bad := e.noCreate[s.Image]
	e.mu.Unlock()
	if bad {
		return errors.New("exec format error")
	}
	return e.Fake.Create(ctx, s)
}

func (e *engine) Start(ctx context.Context, name string) error {
	spec, _ := e.Spec(name)
	e.note("start " + spec.Image)
	e.mu.Lock()
	bad := e.noStart[spec.Image]
	e.mu.Unlock()
	if bad {
		return errors.New("no such file: /app/agent")
	}
	return e.Fake.Start(ctx, name)
}

func (e *engine) Stop(ctx context.Context, name string, d time.Duration) error {
	spec, _ := e.Spec(name)
	e.note("stop " + spec.Image)
	e.mu.Lock()
	f := e.onStop
	e.onStop = nil
	e.mu.Unlock()
	if f != nil {
		f()
	}
	return e.Fake.Stop(ctx, name, d)
}

type noSockets struct{}

func (noSockets) Open(string) error   { return nil }
func (noSockets) Close(string)        {}
func (noSockets) Remove(string) error { return nil }

// device is a daemon's part that the agent's replacement needs, in virtual time.
type device struct {
	*engine
	t        *testing.T
	file     string
	trial    handover.Trial
	handover *handover.Handover
	manager  *module.Manager
	stop     func()
}

// run starts a process of the daemon that stops modules first, as after a change of the
// configuration or a power cut.
func (d *device) run() {
	d.open()
	if err := d.manager.StopAll(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.watch()
}

// takeOver starts a process of the daemon while modules run on.
func (d *device) takeOver() {
	d.open()
	d.watch()
}

func (d *device) bootstrap(context.Context) (module.Spec, error) { return agent(configured), nil }

func (d *device) open() {
	log := slog.New(slog.DiscardHandler)
	d.manager = module.New(module.Options{
		Runtime: d.engine, Sockets: noSockets{}, AllowElevated: true, Log: log,
		Kept: func() []string { return d.handover.Images() },
	})
	d.handover = handover.Open(handover.Options{
		Modules: d.manager, File: d.file, Bootstrap: d.bootstrap, Trial: d.trial, Log: log,
		LastWords: func(context.Context) string { return "segmentation fault" },
	})
}

func (d *device) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- watchdog.Run(ctx, watchdog.Options{
			Modules: d.manager, Events: d.engine, Spec: d.bootstrap, Handover: d.handover, MaxRetries: 0, Log: slog.New(slog.DiscardHandler),
		})
	}()
	d.stop = func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("watchdog: %v", err)
		}
		d.manager.Close()
	}
	synctest.Wait()
}

func agent(image string, cmd ...string) module.Spec {
	s := module.Spec{Name: module.Agent, Image: image, Auth: runtime.Auth{Username: "u", Password: "secret"}}
	s.Env = []createopts.EnvVar{{Key: "StorageFolder", Value: "/data"}}
	s.Create.Cmd = cmd
	s.Create.HostConfig.Binds = []string{"data:/data"}
	return s
}

// on runs f on a device whose agent has the image old and is good.
func on(t *testing.T, f func(d *device)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &device{t: t, trial: usual, file: filepath.Join(t.TempDir(), "agent.json"), engine: &engine{
			Fake: runtimetest.New(configured, old, next, third), noCreate: map[string]bool{}, noStart: map[string]bool{},
		}}
		d.run()
		defer func() { d.stop() }()
		d.update(agent(old))
		d.ask(time.Minute)
		d.expect(old)
		if d.handover.OnTrial() {
			t.Fatal("the first agent is not accepted")
		}
		f(d)
	})
}

func (d *device) update(s module.Spec) {
	d.t.Helper()
	if err := d.handover.Update(d.t.Context(), s, true); err != nil {
		d.t.Fatal(err)
	}
	synctest.Wait()
}

func (d *device) pass(t time.Duration) {
	time.Sleep(t)
	synctest.Wait()
}

// ask lets time pass while the agent asks for work.
func (d *device) ask(t time.Duration) {
	for range t / (5 * time.Second) {
		d.pass(5 * time.Second)
		d.handover.Asked()
	}
	d.pass(watchdog.TrialInterval)
}

// expect checks that the agent runs and is made from the image.
func (d *device) expect(image string) {
	d.t.Helper()
	synctest.Wait()
	st, err := d.Get(d.t.Context(), module.Agent)
	spec, _ := d.Spec(module.Agent)
	if err != nil || st.Status != runtime.StatusRunning || st.Image != image {
		d.t.Fatalf("agent is %s with %s, %v; want %s", st.Status, st.Image, err, image)
	}
	if !slices.Contains(spec.Options.Env, "StorageFolder=/data") || !slices.Equal(spec.Options.HostConfig.Binds, []string{"data:/data"}) {
		d.t.Fatalf("made from %+v", spec.Options)
	}
}

// expectTakenBack checks that the agent is the old one, that the other is refused, and
// why.
func (d *device) expectTakenBack(s module.Spec, to, reason string) {
	d.t.Helper()
	d.expect(to)
	err := d.handover.Update(d.t.Context(), s, true)
	if !errors.Is(err, handover.ErrTakenBack) || !strings.Contains(err.Error(), reason) || !strings.Contains(d.handover.Note(), reason) {
		d.t.Errorf("refused with %v, note %q; want %q", err, d.handover.Note(), reason)
	}
	if d.handover.OnTrial() {
		d.t.Error("still on trial")
	}
	d.pass(time.Hour)
	d.expect(to)
}

func TestAgentThatIsNoGoodIsTakenBackWithoutARegistry(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		cmd          []string
		prepare      func(e *engine)
		live         func(d *device)
		within       time.Duration
	}{
		{"ends at once", "started 3 times, and ended the last time with exit code 3; its last words: segmentation fault",
			[]string{"exit=3"}, nil, nil, 30 * time.Second},
		{"ends at once with code 0", "started 3 times, and ended the last time with exit code 0", []string{"exit=0"}, nil, nil, 30 * time.Second},
		{"cannot be made", "with the error: exec format error", nil, func(e *engine) { e.noCreate[next] = true }, nil, 40 * time.Second},
		{"cannot be started", "with the error: no such file: /app/agent", nil, func(e *engine) { e.noStart[next] = true }, nil, 40 * time.Second},
		{"runs and never asks for work", "it runs, but has not asked", nil, nil, nil, usual.Limit + watchdog.TrialInterval},
		{"asks for work in the beginning only", "it runs, but has not asked", nil, nil,
			func(d *device) { d.ask(usual.Settle - 10*time.Second) }, usual.Limit + watchdog.TrialInterval},
		{"ends after it has asked", "ended the last time with exit code 1", nil, nil, func(d *device) {
			for range usual.Attempts {
				d.ask(10 * time.Second)
				d.Exit(module.Agent, 1)
				d.pass(5 * time.Second)
			}
		}, time.Minute},
		{"does not pass its health check", `its health check says "unhealthy"`, nil, nil, func(d *device) {
			d.SetHealth(module.Agent, runtime.Unhealthy, "")
			d.ask(usual.Limit)
		}, usual.Limit + watchdog.TrialInterval},
	} {
		t.Run(c.name, func(t *testing.T) {
			on(t, func(d *device) {
				if c.prepare != nil {
					d.change(c.prepare)
				}
				bad := agent(next, c.cmd...)
				d.update(bad)
				began := time.Now()
				d.change(func(e *engine) { e.away = true })
				if c.live != nil {
					c.live(d)
				}
				if rest := c.within - time.Since(began); rest > 0 {
					d.pass(rest)
				}
				d.expectTakenBack(bad, old, c.reason)
				d.change(func(e *engine) { e.away = false })
				d.update(agent(third))
				d.ask(time.Minute)
				d.expect(third)
				if note := d.handover.Note(); note != "" {
					t.Errorf("after a good one the note is %q", note)
				}
			})
		})
	}
}

func TestImageComesBeforeTheOldAgentGoes(t *testing.T) {
	on(t, func(d *device) {
		d.taken()
		d.update(agent("reg/none"))
		if steps := d.taken(); len(steps) != 0 || !strings.Contains(d.handover.Note(), "reg/none was not made") {
			t.Errorf("steps %q, note %q", steps, d.handover.Note())
		}
		d.change(func(e *engine) { e.away = true })
		d.update(agent(next))
		bad := agent(third)
		bad.Env = append(bad.Env, bad.Env[0])
		d.update(bad)
		if steps := d.taken(); len(steps) != 0 || d.handover.OnTrial() {
			t.Errorf("steps %q", steps)
		}
		d.expect(old)
	})
}

func TestGoodAgentIsNotTakenBackLater(t *testing.T) {
	on(t, func(d *device) {
		d.update(agent(next))
		d.ask(usual.Settle)
		for range 3 * usual.Attempts {
			d.pass(10 * time.Second)
			d.Exit(module.Agent, 1)
		}
		d.pass(10 * time.Second)
		d.expect(next)
	})
}

func TestReplacementIsAskedForTwice(t *testing.T) {
	on(t, func(d *device) {
		d.taken()
		d.update(agent(next))
		d.update(agent(next))
		if steps, want := d.taken(), []string{"stop " + old, "start " + next}; !slices.Equal(steps, want) {
			t.Errorf("steps %q, want %q", steps, want)
		}
	})
}

func TestAgentThatFollowsABadOneHasTheSameWayBack(t *testing.T) {
	on(t, func(d *device) {
		d.update(agent(next)) // never asks
		d.pass(time.Minute)
		bad := agent(third, "exit=1")
		d.update(bad)
		d.pass(time.Minute)
		d.expectTakenBack(bad, old, "exit code 1")
	})
}

func TestAllThatWereTakenBackAreRefused(t *testing.T) {
	on(t, func(d *device) {
		var bad []module.Spec
		for i := range 10 {
			s := agent(next, fmt.Sprintf("exit=%d", i+1))
			bad = append(bad, s)
			d.update(s)
			d.pass(time.Minute)
		}
		d.stop()
		d.run()
		for i, s := range bad {
			err := d.handover.Check(s)
			if i >= 2 && (!errors.Is(err, handover.ErrTakenBack) || !strings.HasSuffix(err.Error(), "segmentation fault") ||
				!strings.Contains(err.Error(), fmt.Sprintf("exit code %d;", i+1))) {
				t.Errorf("%d: %v", i, err)
			}
		}
		d.update(agent(third))
		d.ask(time.Minute)
		d.expect(third)
		if err := d.handover.Check(bad[9]); err != nil {
			t.Errorf("the deployment has asked for another meanwhile: %v", err)
		}
	})
}

func TestWithoutAnotherAgentTheConfigsComesBack(t *testing.T) {
	on(t, func(d *device) {
		d.stop()
		if err := os.Remove(d.file); err != nil { // as after an update from a daemon without it
			t.Fatal(err)
		}
		d.run()
		d.expect(old)
		bad := agent(next, "exit=1")
		d.update(bad)
		d.pass(time.Minute)
		d.expectTakenBack(bad, configured, "exit code 1")
	})
}

func TestImageToGoBackToThatIsGoneIsPulled(t *testing.T) {
	on(t, func(d *device) {
		st, err := d.Get(t.Context(), module.Agent)
		if err != nil {
			t.Fatal(err)
		}
		bad := agent(next, "exit=1")
		d.update(bad)
		if err := d.RemoveImage(t.Context(), st.ImageID); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Minute)
		d.expectTakenBack(bad, old, "exit code 1")
	})
}

func TestThereIsNoWayBackFromTheOnlyAgent(t *testing.T) {
	on(t, func(d *device) {
		d.update(agent(old)) // the same again
		for range 2 * usual.Attempts {
			d.Exit(module.Agent, 1)
			d.pass(watchdog.TrialInterval)
		}
		d.pass(watchdog.Interval)
		d.expect(old)
		if err := d.handover.Check(agent(old)); err != nil {
			t.Errorf("the only agent is refused: %v", err)
		}
	})
}

// TestEndOfTheDaemonAtAnyTime kills the daemon where it writes its record, and between.
func TestEndOfTheDaemonAtAnyTime(t *testing.T) {
	again := func(d *device) { d.stop(); d.run() }
	for _, c := range []struct {
		name string
		do   func(d *device)
		good bool
		want string
	}{
		{"in a trial of a good one", func(d *device) { d.update(agent(next)); d.pass(time.Second); again(d) }, true, next},
		{"in a trial of a bad one", func(d *device) { d.update(agent(next)); d.pass(time.Minute); again(d) }, false, old},
		{"again and again", func(d *device) {
			d.update(agent(next))
			for range usual.Attempts {
				d.ask(usual.Settle - 10*time.Second)
				again(d)
			}
		}, true, old},
		{"again and again, while the agent runs on", func(d *device) {
			d.update(agent(next))
			for range 2 * usual.Attempts {
				d.ask(usual.Settle - 10*time.Second)
				d.stop()
				d.takeOver()
			}
		}, true, next},
		{"in the only attempt", func(d *device) {
			d.trial.Attempts = 1
			again(d)
			ctx, cancel := context.WithCancel(d.t.Context())
			d.change(func(e *engine) { e.onStop = func() { cancel(); d.manager.Refuse() } })
			if err := d.handover.Update(ctx, agent(next), true); err != nil {
				d.t.Fatal(err)
			}
			synctest.Wait()
			d.stop()
			d.takeOver()
		}, true, next},
		{"before the old one was stopped", func(d *device) {
			d.change(func(e *engine) { e.onStop = d.manager.Refuse })
			d.update(agent(next))
			again(d)
		}, true, next},
		{"between old and new", func(d *device) {
			d.change(func(e *engine) { e.noCreate[next] = true })
			d.update(agent(next))
			d.change(func(e *engine) { e.noCreate[next] = false })
			again(d)
		}, true, next},
		{"on the way back", func(d *device) {
			d.change(func(e *engine) { e.noStart[old] = true })
			d.update(agent(next, "exit=1"))
			d.stop = func() { d.manager.Close() } // its watchdog has given up
			d.pass(time.Minute)
			d.change(func(e *engine) { e.noStart[old] = false })
			again(d)
		}, false, old},
	} {
		t.Run(c.name, func(t *testing.T) {
			on(t, func(d *device) {
				c.do(d)
				if c.good {
					d.ask(2 * time.Minute)
				} else {
					d.pass(usual.Limit + 2*watchdog.Interval)
				}
				d.expect(c.want)
				if d.handover.OnTrial() {
					t.Error("still on trial")
				}
				again(d)
				d.expect(c.want)
			})
		})
	}
}

func TestFullDisk(t *testing.T) {
	on(t, func(d *device) {
		d.taken()
		folder := filepath.Dir(d.file)
		if err := os.Rename(folder, folder+".away"); err != nil {
			t.Fatal(err)
		}
		d.update(agent(next))
		if steps := d.taken(); len(steps) != 0 {
			t.Errorf("replaced although it cannot be remembered: %q", steps)
		}
		if err := os.Rename(folder+".away", folder); err != nil {
			t.Fatal(err)
		}
		bad := agent(next, "exit=1")
		d.update(bad)
		if err := os.Rename(folder, folder+".away"); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Minute)
		d.expectTakenBack(bad, old, "exit code 1")
		if err := os.Rename(folder+".away", folder); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRecordHoldsNoPasswordAndSpoiledOneIsNone(t *testing.T) {
	on(t, func(d *device) {
		d.update(agent(next))
		text, err := os.ReadFile(d.file)
		if err != nil || strings.Contains(string(text), "secret") {
			t.Errorf("%v: %s", err, text)
		}
		if info, err := os.Stat(d.file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		for _, bad := range []string{"{", `{"phase":"trial"}`} {
			d.stop()
			if err := os.WriteFile(d.file, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			d.run()
			d.expect(next)
			if d.handover.OnTrial() {
				t.Errorf("%s: on trial", bad)
			}
		}
	})
}

func TestForgottenWithTheDevice(t *testing.T) {
	on(t, func(d *device) {
		bad := agent(next, "exit=1")
		d.update(bad)
		d.pass(time.Minute)
		if err := d.handover.Forget(); err != nil {
			t.Fatal(err)
		}
		if err := d.handover.Check(bad); err != nil || d.handover.Note() != "" {
			t.Errorf("%v, %q", err, d.handover.Note())
		}
		if _, err := os.Stat(d.file); !os.IsNotExist(err) {
			t.Error(fmt.Sprint("file: ", err))
		}
	})
}
