package watchdog_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	"github.com/breakwater-iot/breakwater/daemon/internal/watchdog"
)

type noSockets struct{}

func (noSockets) Open(string) error   { return nil }
func (noSockets) Close(string)        {}
func (noSockets) Remove(string) error { return nil }

// noHandover has no replacement to watch.
type noHandover struct{ made atomic.Int64 }

func (*noHandover) OnTrial() bool { return false }
func (*noHandover) Look(context.Context, module.Steps, runtime.State, bool) (bool, error) {
	return false, nil
}
func (h *noHandover) Made(module.Spec) { h.made.Add(1) }

// fixture runs a watchdog inside a synctest bubble.
type fixture struct {
	*runtimetest.Fake
	handover *noHandover
	manager  *module.Manager
	specs    atomic.Int64
	specErr  atomic.Pointer[error]
	cancel   context.CancelFunc
	result   chan error
}

func start(t *testing.T, retries int, prepare func(*fixture)) *fixture {
	f := &fixture{handover: &noHandover{}, Fake: runtimetest.New("reg/agent:1"), result: make(chan error, 1)}
	f.manager = module.New(module.Options{Runtime: f.Fake, Sockets: noSockets{}, AllowElevated: true, Log: slog.New(slog.DiscardHandler)})
	if prepare != nil {
		prepare(f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.cancel = cancel
	go func() {
		f.result <- watchdog.Run(ctx, watchdog.Options{
			Modules: f.manager, Events: f.Fake, MaxRetries: retries, Log: slog.New(slog.DiscardHandler), Handover: f.handover,
			Spec: func(context.Context) (module.Spec, error) {
				f.specs.Add(1)
				if err := f.specErr.Load(); err != nil {
					return module.Spec{}, *err
				}
				return module.Spec{Name: module.Agent, Image: "reg/agent:1"}, nil
			},
		})
	}()
	synctest.Wait()
	return f
}

// end stops the watchdog and waits.
func (f *fixture) end(t *testing.T) {
	t.Helper()
	f.cancel()
	if err := <-f.result; err != nil {
		t.Errorf("end: %v", err)
	}
}

func (f *fixture) status(t *testing.T) runtime.Status {
	t.Helper()
	st, err := f.Get(t.Context(), module.Agent)
	if errors.Is(err, runtime.ErrNotFound) {
		return "missing"
	}
	if err != nil {
		t.Fatal(err)
	}
	return st.Status
}

func create(f *fixture) {
	_ = f.manager.Create(context.Background(), module.Spec{Name: module.Agent, Image: "reg/agent:1"})
}

func TestFirstLookBringsTheAgentToRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*fixture)
		specs   int64
	}{
		{"missing", nil, 1},
		{"created", create, 0},
		{"failed", func(f *fixture) {
			create(f)
			_ = f.manager.Start(context.Background(), module.Agent)
			f.Exit(module.Agent, 139)
		}, 0},
		{"running", func(f *fixture) { create(f); _ = f.manager.Start(context.Background(), module.Agent) }, 0},
		{"unknown", func(f *fixture) { create(f); f.SetStatus(module.Agent, runtime.StatusUnknown) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, -1, c.prepare)
				if got := f.status(t); got != runtime.StatusRunning {
					t.Errorf("status %s", got)
				}
				if n, told := f.specs.Load(), f.handover.made.Load(); n != c.specs || told != n {
					t.Errorf("%d specs made, %d told, want %d", n, told, c.specs)
				}
				f.end(t)
			})
		})
	}
}

func TestEndOfTheAgentIsNoticedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, -1, nil)
		time.Sleep(10 * time.Second)
		f.Exit(module.Agent, 1)
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusRunning {
			t.Errorf("after exit: %s", got)
		}
		time.Sleep(10 * time.Second)
		if err := f.Remove(t.Context(), module.Agent); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusRunning || f.specs.Load() != 2 {
			t.Errorf("after removal: %s, %d specs", got, f.specs.Load())
		}
		f.end(t)
	})
}

func TestQuickDeathsAreSpacedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, -1, nil)
		began := time.Now()
		for range 3 {
			f.Exit(module.Agent, 1)
			for f.status(t) != runtime.StatusRunning {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
			}
		}
		if d := time.Since(began); d < 14*time.Second || d > 17*time.Second {
			t.Errorf("three restarts took %v", d)
		}
		f.end(t)
	})
}

func TestTickFindsWhatEventsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, -1, nil)
		time.Sleep(10 * time.Second)
		f.SetStatus(module.Agent, runtime.StatusExited) // without an event
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusExited {
			t.Fatalf("found without a tick: %s", got)
		}
		time.Sleep(watchdog.Interval)
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusRunning {
			t.Errorf("after the tick: %s", got)
		}
		f.end(t)
	})
}

func TestOtherModulesDoNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, -1, nil)
		if err := f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/agent:1"}); err != nil {
			t.Error(err)
		}
		if err := f.manager.Start(t.Context(), "temp"); err != nil {
			t.Error(err)
		}
		f.Exit("temp", 1)
		time.Sleep(2 * watchdog.Interval)
		synctest.Wait()
		if st, err := f.Get(t.Context(), "temp"); err != nil || st.Status != runtime.StatusExited {
			t.Errorf("temp: %v, %v", st.Status, err)
		}
		f.end(t)
	})
}

func TestGivesUpAfterTooManyFailuresInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("registry down")
		f := start(t, 2, func(f *fixture) { f.specErr.Store(&broken) })
		time.Sleep(watchdog.Interval)
		synctest.Wait()
		f.specErr.Store(nil) // the third look succeeds and resets the count
		time.Sleep(watchdog.Interval)
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusRunning {
			t.Fatalf("status %s", got)
		}
		f.specErr.Store(&broken)
		f.Fail("Start", broken)
		began := time.Now()
		f.Exit(module.Agent, 1)
		err := <-f.result
		if !errors.Is(err, watchdog.ErrGaveUp) || !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d > 2*watchdog.Interval || d < watchdog.Interval {
			t.Errorf("gave up after %v", d)
		}
		f.cancel()
	})
}

func TestInfiniteRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("registry down")
		f := start(t, -1, func(f *fixture) { f.specErr.Store(&broken) })
		time.Sleep(100 * watchdog.Interval)
		f.specErr.Store(nil)
		time.Sleep(watchdog.Interval)
		synctest.Wait()
		if got := f.status(t); got != runtime.StatusRunning {
			t.Errorf("status %s", got)
		}
		f.end(t)
	})
}

func TestClosingManagerIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 0, nil)
		f.manager.Refuse()
		f.Exit(module.Agent, 0)
		time.Sleep(3 * watchdog.Interval)
		f.end(t)
	})
}
