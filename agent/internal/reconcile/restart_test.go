package reconcile_test

import (
	"slices"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// crashes lets a module exit with code whenever it runs, n times, and returns how
// long the agent waited each time.
func (r *rig) crashes(name string, code, n int, limit time.Duration) []time.Duration {
	r.t.Helper()
	var waits []time.Duration
	for range n {
		r.daemon.Exit(name, code)
		begin := time.Now()
		for r.daemon.State(name) != plan.Running {
			if time.Since(begin) > limit {
				return waits
			}
			r.pass(time.Second)
		}
		waits = append(waits, time.Since(begin))
	}
	return waits
}

func seconds(list ...int) []time.Duration {
	out := make([]time.Duration, len(list))
	for i, s := range list {
		out[i] = time.Duration(s) * time.Second
	}
	return out
}

func TestCoolOffDoublesToFiveMinutes(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		waits := r.crashes("a", 1, 7, time.Hour)
		if want := seconds(10, 20, 40, 80, 160, 300, 300); !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
		m := r.reported().Modules["a"]
		if m["restartCount"] != 7.0 || m["runtimeStatus"] != "running" {
			t.Errorf("reported %v", m)
		}
	})
}

func TestAlwaysBacksOffAfterExitZeroToo(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.daemon.Exit("a", 0)
		r.pass(time.Second)
		if s := r.reported().Modules["a"]["runtimeStatus"]; s != "backoff" {
			t.Errorf("runtimeStatus %v", s)
		}
		r.pass(8 * time.Second)
		r.expect()
		r.pass(2 * time.Second)
		r.expect("stop a", "start a")
	})
}

func TestFailedAfterTwentyRestarts(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "on-failure"}), func(r *rig) {
		if waits := r.crashes("a", 1, 25, time.Hour); len(waits) != 20 {
			t.Fatalf("%d restarts, want 20", len(waits))
		}
		if s := r.reported().Modules["a"]["runtimeStatus"]; s != "failed" {
			t.Errorf("runtimeStatus %v", s)
		}
		r.expectStatus(1, 200)
		r.daemon.Calls()
		r.push(desired(2, mod{name: "a", policy: "on-failure", env: map[string]string{"x": "y"}}))
		r.expect("identity= a", "pull a", "stop a", "update a", "start a")
		if n := r.reported().Modules["a"]["restartCount"]; n != 0.0 {
			t.Errorf("restartCount %v after an update", n)
		}
	})
}

func TestRestartCountIsForgottenAfterIntensiveCare(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.crashes("a", 1, 3, time.Hour)
		r.pass(9 * time.Minute)
		if n := r.reported().Modules["a"]["restartCount"]; n != 3.0 {
			t.Errorf("restartCount %v before", n)
		}
		r.pass(2 * time.Minute)
		if n := r.reported().Modules["a"]["restartCount"]; n != 0.0 {
			t.Errorf("restartCount %v after", n)
		}
		if waits := r.crashes("a", 1, 1, time.Hour); !slices.Equal(waits, seconds(10)) {
			t.Errorf("waits %v", waits)
		}
	})
}

func TestExitZeroUnderOnFailureStartsAgainAtOnceButNotForEver(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "on-failure"}), func(r *rig) {
		waits := r.crashes("a", 0, 7, time.Hour)
		if want := seconds(1, 1, 1, 10, 20, 40, 80); !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
		if n := r.reported().Modules["a"]["restartCount"]; n != 0.0 {
			t.Errorf("restartCount %v: an end with code 0 does not count", n)
		}
		r.pass(30 * time.Second) // a run that is not quick
		if waits := r.crashes("a", 0, 2, time.Hour); !slices.Equal(waits, seconds(1, 1)) {
			t.Errorf("after a long run: waits %v", waits)
		}
	})
}

func TestNeverPolicyRunsOnce(t *testing.T) {
	for _, code := range []int{0, 1} {
		in(t, desired(1, mod{name: "a", policy: "never"}), func(r *rig) {
			r.daemon.Exit("a", code)
			r.pass(time.Hour)
			r.expect()
			want := map[int]string{0: "stopped", 1: "failed"}[code]
			if s := r.reported().Modules["a"]["runtimeStatus"]; s != want {
				t.Errorf("exit %d: runtimeStatus %v, want %s", code, s, want)
			}
			r.expectStatus(1, 200)
		})
	}
}

func TestUserStoppedModuleIsStartedAgain(t *testing.T) {
	in(t, desired(1, mod{name: "a", status: "stopped", policy: "always"}), func(r *rig) {
		r.daemon.Set(plan.Engine{Name: "a", Image: "a:1", State: plan.Running, Started: time.Now()})
		r.pass(time.Second)
		r.expect("stop a")
	})
}

func TestClockSetBackRestartsNow(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.daemon.Set(plan.Engine{Name: "a", Image: "a:1", State: plan.Failed, ExitCode: 1,
			Started: time.Now(), Exited: time.Now().Add(time.Hour)})
		r.pass(time.Second)
		r.expect("stop a", "start a")
	})
}
