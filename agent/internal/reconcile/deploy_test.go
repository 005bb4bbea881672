package reconcile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFirstDeploymentGoesByStartupOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "edgeHub", order: 1, policy: "always"}, mod{name: "b", order: 2}, mod{name: "a"}, mod{name: "off", order: 1, status: "stopped"}))
		r.start(true)
		r.expect("identity+ a", "identity+ b", "identity= $edgeHub", "identity+ off",
			"pull edgeHub", "create edgeHub", "start edgeHub", "pull off", "create off",
			"pull b", "create b", "start b", "pull a", "create a", "start a")
		r.expectStatus(1, 200)
		r.pass(time.Minute)
		r.expect()
		r.end()
	})
}

func TestEnvChangeRecreatesOnlyThatModule(t *testing.T) {
	in(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}, mod{name: "b"}), func(r *rig) {
		r.push(desired(2, mod{name: "edgeHub"}, mod{name: "a"}, mod{name: "b", env: map[string]string{"K": "v"}}))
		r.expect("identity= b", "pull b", "stop b", "update b", "start b")
		r.expectStatus(2, 200)
		spec, _ := r.daemon.Spec("b")
		if !slices.Contains(spec.Env, launch.EnvVar{Key: "K", Value: "v"}) {
			t.Errorf("env %v", spec.Env)
		}
	})
}

func TestHubUpdateRestartsNothingElse(t *testing.T) {
	in(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}), func(r *rig) {
		r.push(desired(2, mod{name: "edgeHub", image: "hub:2"}, mod{name: "a"}))
		r.expect("identity= $edgeHub", "pull edgeHub", "stop edgeHub", "update edgeHub", "start edgeHub")
		r.pass(time.Minute)
		r.expect()
	})
}

func TestStatusChangeOnlyStartsOrStops(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.push(desired(2, mod{name: "a", policy: "always", status: "stopped"}))
		r.expect("stop a")
		r.expectStatus(2, 200)
		r.pass(time.Minute)
		r.expect()
		if s := r.reported().Modules["a"]["runtimeStatus"]; s != "stopped" {
			t.Errorf("runtimeStatus %v", s)
		}
		r.push(desired(3, mod{name: "a", policy: "always"}))
		r.expect("start a")
	})
}

func TestFormattingOfOptionsIsNoChange(t *testing.T) {
	in(t, desired(1, mod{name: "a", options: `{"HostConfig":{"Binds":["/x:/y"]}}`}), func(r *rig) {
		r.push(desired(2, mod{name: "a", options: ` {"hostconfig": {"BINDS":["/x:/y"],"Memory":null}, "Tty":false}`}))
		r.expect()
		r.expectStatus(2, 200)
	})
}

func TestRemovedModuleLosesOwnIdentityOnly(t *testing.T) {
	in(t, desired(1, mod{name: "a"}, mod{name: "b"}), func(r *rig) {
		r.daemon.SetIdentity(launch.Identity{ModuleID: "b", ManagedBy: "user", Generation: "g"})
		r.push(desired(2))
		r.expect("identity- a", "stop a", "stop b", "remove a", "remove b")
		if ids := r.daemon.IdentityIDs(); !slices.Equal(ids, []string{"$edgeAgent", "$edgeHub", "b"}) {
			t.Errorf("identities %v", ids)
		}
		v := r.reported()
		if len(v.Modules) != 0 {
			t.Errorf("modules still reported: %v", v.Modules)
		}
	})
}

func TestStrayContainerIsRemovedAndForeignImageReplaced(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		r.daemon.Set(plan.Engine{Name: "stray", Image: "x:1", State: plan.Running, Started: time.Now()})
		r.pass(time.Second)
		r.expect("stop stray", "remove stray")
		r.daemon.Set(plan.Engine{Name: "a", Image: "other:1", State: plan.Running, Started: time.Now()})
		r.pass(time.Second)
		if got := strings.Join(r.daemon.Calls(), ","); !strings.HasSuffix(got, "pull a,stop a,update a,start a") {
			t.Errorf("calls %s", got)
		}
	})
}

func TestDeadModuleIsRemovedThenRecreated(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		r.daemon.Set(plan.Engine{Name: "a", Image: "a:1", State: plan.Dead})
		r.pass(6 * time.Second)
		calls := r.daemon.Calls()
		want := []string{"remove a", "pull a", "create a", "start a"}
		calls = slices.DeleteFunc(calls, func(c string) bool { return strings.HasPrefix(c, "identity") })
		if !slices.Equal(calls, want) {
			t.Errorf("calls %q", calls)
		}
	})
}

func TestContainerRemovedByHandComesBack(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		r.daemon.Forget("a")
		r.pass(6 * time.Second)
		if r.daemon.State("a") != plan.Running {
			t.Errorf("state %q", r.daemon.State("a"))
		}
	})
}

func TestFailingPullBacksOffWhileOthersProceed(t *testing.T) {
	boom := errors.New("registry answers 404")
	in(t, desired(1), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if call == "pull bad" {
				return boom
			}
			return nil
		})
		begin := time.Now()
		r.push(desired(2, mod{name: "bad"}, mod{name: "good"}))
		r.expect("identity+ bad", "identity+ good", "pull bad", "pull good", "create good", "start good")
		r.expectStatus(2, 500)
		if d := r.reported().LastDesiredStatus.Description; !strings.Contains(d, "registry answers 404") {
			t.Errorf("description %q", d)
		}
		var at []time.Duration
		for len(at) < 4 {
			r.pass(time.Second)
			for _, c := range r.daemon.Calls() {
				if c == "pull bad" {
					at = append(at, time.Since(begin).Round(5*time.Second))
				}
			}
		}
		// 20, 40, 80, 160 s after the run before, on a grid of 5 s.
		if want := []time.Duration{20 * time.Second, 60 * time.Second, 140 * time.Second, 300 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("retries at %v, want %v", at, want)
		}
		r.expectStatus(2, 500) // stays while the command is in back-off
		r.daemon.FailWith(nil)
		r.push(desired(3, mod{name: "bad"}, mod{name: "good"}))
		r.pass(time.Second)
		if r.daemon.State("bad") != plan.Running {
			t.Error("a new deployment does not clear the back-off")
		}
		r.expectStatus(3, 200)
	})
}

func TestVersionIsNotReportedBeforeItsImagesAreHere(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		release := r.daemon.HoldPull("b")
		r.push(desired(2, mod{name: "a"}, mod{name: "b"}))
		r.pass(time.Minute)
		r.expectStatus(1, 200)
		r.push(desired(3, mod{name: "a", env: map[string]string{"K": "v"}}, mod{name: "b"}))
		r.pass(time.Minute)
		r.expectStatus(1, 200)
		release()
		r.pass(10 * time.Second)
		r.expectStatus(3, 200)
		if r.daemon.State("b") != plan.Running {
			t.Errorf("b is %s", r.daemon.State("b"))
		}
	})
}

func TestFailedUpdateIsNotTakenForDone(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if call == "update a" {
				return errors.New("disk full")
			}
			return nil
		})
		r.push(desired(2, mod{name: "a", env: map[string]string{"K": "v"}}))
		r.expect("identity= a", "pull a", "stop a", "update a")
		r.expectStatus(2, 500)
		r.daemon.FailWith(nil)
		r.pass(30 * time.Second)
		spec, _ := r.daemon.Spec("a")
		if !slices.Contains(spec.Env, launch.EnvVar{Key: "K", Value: "v"}) || r.daemon.State("a") != plan.Running {
			t.Errorf("not made up for: %v, %s", spec.Env, r.daemon.State("a"))
		}
		r.expectStatus(2, 200)
	})
}

func TestWaitForAllPullsStopsNothingWhenOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "a"}, mod{name: "b"}))
		r.opts.PullsFirst = true
		r.start(true)
		r.expect("identity+ a", "identity+ b", "pull a", "pull b", "create a", "start a", "create b", "start b")
		r.pass(2 * time.Second) // the modules' own start has woken the loop
		r.daemon.FailWith(func(call string) error {
			if call == "pull b" {
				return errors.New("no such image")
			}
			return nil
		})
		r.push(desired(2, mod{name: "a", image: "a:2"}, mod{name: "b", image: "b:2"}))
		r.expect("identity= a", "identity= b", "pull a", "pull b")
		r.expectStatus(2, 500)
		r.pass(7 * time.Second) // while the pull is in back-off
		r.expect("pull a")
		r.expectStatus(2, 500)
		r.end()
	})
}

func TestIdentityFailureSkipsModulesAndReports500(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if call == "identities" {
				return errors.New("hub unreachable")
			}
			return nil
		})
		r.push(desired(2, mod{name: "a", policy: "always"}, mod{name: "b"}))
		r.expect()
		v := r.reported()
		if v.LastDesiredStatus.Code != 500 || !strings.Contains(v.LastDesiredStatus.Description, "identity") {
			t.Errorf("status %+v", v.LastDesiredStatus)
		}
		r.daemon.Exit("a", 1)
		r.pass(11 * time.Second)
		r.expect("stop a", "start a")
	})
}

func TestAgentUpdate(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		r.push(desired(2, mod{name: "edgeAgent", image: "agent:2", env: map[string]string{"RuntimeLogLevel": "debug"}}, mod{name: "a"}))
		r.expect("pull edgeAgent", "update edgeAgent")
		r.pass(time.Minute)
		r.expect()
		spec, _ := r.daemon.Spec("edgeAgent")
		labels := spec.CreateOptions["Labels"].(map[string]any)
		if labels[plan.LabelOptions] != "{}" || labels[plan.LabelEnv] != `{"RuntimeLogLevel":{"value":"debug"}}` {
			t.Errorf("labels %v", labels)
		}
	})
}

func TestAgentWithoutLabelsIsTakenAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "edgeAgent", image: "agent:1", options: `{"Tty":true}`, env: map[string]string{"A": "b"}}))
		r.daemon.Set(plan.Engine{Name: "edgeAgent", Image: "agent:1", State: plan.Running, Started: time.Now()})
		r.start(true)
		r.expect()
		r.pass(time.Minute)
		r.expect()
		r.end()
	})
}

func TestUnfinishedAgentUpdateIsNotRepeatedAtOnce(t *testing.T) {
	in(t, desired(1), func(r *rig) {
		// The daemon accepts, and the container stays as it was.
		r.push(desired(2, mod{name: "edgeAgent", image: "agent:2"}))
		r.daemon.Set(plan.Engine{Name: "edgeAgent", Image: "agent:1", State: plan.Running, Started: time.Now()})
		r.daemon.Calls()
		r.pass(15 * time.Second)
		r.expect()
		r.pass(10 * time.Second)
		r.expect("pull edgeAgent", "update edgeAgent")
	})
}

func TestAgentThatWasTakenBackIsReportedWhileTheRestGoesOn(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		const why = "agent:2 was taken back: it ended 3 times"
		r.daemon.FailWith(func(call string) error {
			if call == "pull edgeAgent" {
				return fmt.Errorf("%w: %s", launch.ErrTakenBack, why)
			}
			return nil
		})
		r.daemon.Set(plan.Engine{Name: "edgeAgent", Image: "agent:1", State: plan.Running, Started: time.Now(), Description: why})
		r.push(desired(2, mod{name: "edgeAgent", image: "agent:2"}, mod{name: "a", image: "a:2"}))
		r.pass(time.Minute)
		r.expectStatus(2, 500)
		v := r.reported()
		if got := v.SystemModules["edgeAgent"]; !strings.Contains(v.LastDesiredStatus.Description, why) ||
			got["statusDescription"] != why || got["runtimeStatus"] != "running" {
			t.Errorf("%+v, edgeAgent %v", v.LastDesiredStatus, got)
		}
		if r.image("a") != "a:2" {
			t.Errorf("a has %s", r.image("a"))
		}
	})
}
