package reconcile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// safely writes a manifest that asks for a safe deployment: healthy after 10 s of
// running, within a minute.
func safely(version int, mods ...mod) string {
	agent := mod{name: "edgeAgent", image: "agent:1", env: map[string]string{
		"SafeDeployment": "true", "SafeDeploymentTimeoutSecs": "60", "SafeDeploymentSettleSecs": "10",
	}}
	return desired(version, append([]mod{agent}, mods...)...)
}

type safeReport struct {
	State, Reason, Since     string
	Version, FallbackVersion int64
}

func (r *rig) safe() safeReport {
	r.t.Helper()
	synctest.Wait()
	var v struct{ SafeDeployment safeReport }
	if err := json.Unmarshal(r.cloud.Reported(), &v); err != nil {
		r.t.Fatal(err)
	}
	return v.SafeDeployment
}

func (r *rig) image(name string) string {
	s, _ := r.daemon.Spec(name)
	return s.Image
}

func broken(images ...string) func(string) bool {
	return func(image string) bool { return slices.Contains(images, image) }
}

func TestSafeDeploymentPullsAllThenSwitchesThenWaitsForHealth(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}, mod{name: "b", image: "b:1"}), func(r *rig) {
		release := r.daemon.HoldPull("b")
		r.push(safely(2, mod{name: "a", image: "a:2"}, mod{name: "b", image: "b:2"}))
		r.pass(time.Minute)
		r.expect("pull a", "pull b")
		if s := r.safe(); s.State != "pulling" || s.Version != 2 || s.FallbackVersion != 1 {
			t.Errorf("%+v", s)
		}
		r.daemon.Exit("a", 1)
		r.pass(time.Minute)
		r.expect("stop a", "start a") // the old deployment is enforced meanwhile
		release()
		r.pass(2 * time.Second)
		r.expect("identity= a", "identity= b", "stop a", "update a", "start a", "stop b", "update b", "start b")
		r.expectStatus(1, 200)
		if s := r.safe(); s.State != "trial" || !strings.Contains(s.Reason, "a runs for less than 10s") {
			t.Errorf("%+v", s)
		}
		r.pass(15 * time.Second)
		r.expectStatus(2, 200)
		if s := r.safe(); s.State != "accepted" || s.FallbackVersion != 0 || s.Reason != "" {
			t.Errorf("%+v", s)
		}
		r.expect()
		r.push(desired(3, mod{name: "a", image: "a:2"}, mod{name: "b", image: "b:2"}))
		r.pass(time.Second)
		if strings.Contains(string(r.cloud.Reported()), "safeDeployment") {
			t.Error("reported though it is not asked for any more")
		}
	})
}

func TestPullThatFailsHoldsTheWholeSafeDeployment(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}, mod{name: "b", image: "b:1"}), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if call == "pull b" {
				return errors.New("no such image")
			}
			return nil
		})
		r.push(safely(2, mod{name: "a", image: "a:2"}, mod{name: "b", image: "b:2"}))
		r.pass(10 * time.Minute)
		r.expectStatus(1, 500)
		if text := r.reported().LastDesiredStatus.Description; !strings.Contains(text, "no such image") {
			t.Errorf("%q", text)
		}
		if r.image("a") != "a:1" || r.image("b") != "b:1" {
			t.Error("switched")
		}
		r.daemon.FailWith(nil)
		r.pass(30 * time.Minute)
		r.expectStatus(2, 200)
	})
}

func TestUnhealthyDeploymentIsTakenBackAsAWhole(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}, mod{name: "b", image: "b:1"}, mod{name: "old"}), func(r *rig) {
		r.daemon.BreakImages(broken("b:2"))
		bad := []mod{{name: "a", image: "a:2"}, {name: "b", image: "b:2", policy: "always"}, {name: "new"}}
		r.push(safely(2, bad...))
		r.pass(59 * time.Second)
		if r.image("a") != "a:2" || r.daemon.State("old") != "" || r.daemon.State("new") == "" {
			t.Error("not switched")
		}
		r.pass(10 * time.Second)
		for name, image := range map[string]string{"a": "a:1", "b": "b:1", "old": "old:1"} {
			if r.image(name) != image || r.daemon.State(name) != plan.Running {
				t.Errorf("%s is %s with %s", name, r.daemon.State(name), r.image(name))
			}
		}
		if r.daemon.State("new") != "" {
			t.Error("new is still there")
		}
		r.expectStatus(1, 500)
		if s, d := r.safe(), r.reported().LastDesiredStatus.Description; s.State != "returned" || !strings.Contains(s.Reason, "b is backoff (exit code 1)") ||
			!strings.HasPrefix(d, "safe deployment of version 2 was taken back: not healthy within 1m0s") {
			t.Errorf("%+v %q", s, d)
		}
		r.daemon.Calls()
		r.pass(20 * time.Minute)
		r.expect()
		r.push(safely(3, bad...)) // the same under another version
		r.pass(20 * time.Minute)
		r.expect()
		r.expectStatus(1, 500)
		r.daemon.BreakImages(nil)
		bad[1].env = map[string]string{"fixed": "1"}
		r.push(safely(4, bad...))
		r.pass(time.Minute)
		r.expectStatus(4, 200)
	})
}

func TestWayBackNeedsNeitherCloudNorRegistry(t *testing.T) {
	in(t, desired(1, mod{name: "edgeHub", image: "hub:1"}, mod{name: "a", image: "a:1"}), func(r *rig) {
		r.daemon.BreakImages(broken("a:2"))
		r.push(safely(2, mod{name: "edgeHub", image: "hub:2"}, mod{name: "a", image: "a:2"}, mod{name: "new"}))
		r.cloud.SetDown(true)
		r.mirror.HandleConnection(false)
		r.daemon.FailWith(func(call string) error {
			if strings.HasPrefix(call, "pull") || strings.HasPrefix(call, "identity") {
				return errors.New("offline")
			}
			return nil
		})
		r.daemon.Calls()
		r.pass(2 * time.Minute)
		for name, image := range map[string]string{"edgeHub": "hub:1", "a": "a:1"} {
			if r.image(name) != image || r.daemon.State(name) != plan.Running {
				t.Errorf("%s is %s with %s", name, r.daemon.State(name), r.image(name))
			}
		}
		for _, c := range r.daemon.Calls() {
			if strings.HasPrefix(c, "pull") {
				t.Errorf("%s on the way back", c)
			}
		}
		r.cloud.SetDown(false)
		r.mirror.HandleConnection(true)
		r.expectStatus(1, 500)
	})
}

// hash is the image that a module is made from.
func (r *rig) hash(name string) string {
	r.t.Helper()
	list, err := r.daemon.Modules(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range list {
		if e.Name == name {
			return e.ImageHash
		}
	}
	return ""
}

func TestTheOldContentComesBackAlthoughItsTagHasMoved(t *testing.T) {
	for name, restart := range map[string]bool{"one process": false, "another process goes back": true} {
		t.Run(name, func(t *testing.T) {
			in(t, desired(1, mod{name: "a", image: "a:latest"}, mod{name: "b"}), func(r *rig) {
				good := r.hash("a")
				r.daemon.BreakImages(broken("bad"))
				r.daemon.MoveImage("a:latest", "bad")
				r.push(safely(2, mod{name: "a", image: "a:latest", env: map[string]string{"K": "v"}}, mod{name: "b"}))
				r.pass(30 * time.Second)
				if r.hash("a") != "sha256:bad" {
					t.Fatalf("made from %s", r.hash("a"))
				}
				if want := []string{good, "sha256:agent:1", "sha256:b:1"}; !slices.Equal(r.daemon.Kept(), want) {
					t.Errorf("kept are %q, want %q", r.daemon.Kept(), want)
				}
				if restart {
					r.end()
					r.start(true)
				}
				r.daemon.FailWith(func(call string) error {
					if strings.HasPrefix(call, "pull") {
						return errors.New("offline")
					}
					return nil
				})
				r.pass(2 * time.Minute)
				if r.hash("a") != good || r.daemon.State("a") != plan.Running {
					t.Fatalf("a is %s with %s", r.daemon.State("a"), r.hash("a"))
				}
				if !slices.Contains(r.daemon.Kept(), good) {
					t.Error("the old deployment is in force, and its image is not kept")
				}
				r.daemon.FailWith(nil)
				r.daemon.MoveImage("a:latest", "better")
				r.push(safely(3, mod{name: "a", image: "a:latest", env: map[string]string{"K": "w"}}, mod{name: "b"}))
				r.pass(30 * time.Second)
				r.expectStatus(3, 200)
				if r.hash("a") != "sha256:better" || len(r.daemon.Kept()) != 0 {
					t.Errorf("accepted: a has %s, kept are %q", r.hash("a"), r.daemon.Kept())
				}
			})
		})
	}
}

func TestNothingIsPulledBeforeTheOldImagesAreKept(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if call == "keep" {
				return errors.New("disk full")
			}
			return nil
		})
		r.push(safely(2, mod{name: "a", image: "a:2"}))
		r.pass(time.Minute)
		r.expect()
		r.expectStatus(1, 500)
		if text := r.reported().LastDesiredStatus.Description; !strings.Contains(text, "disk full") {
			t.Errorf("%q", text)
		}
		// What does not ask for safety does not need it.
		r.push(desired(3, mod{name: "a", image: "a:3"}))
		r.pass(time.Minute)
		r.expectStatus(3, 200)
		r.daemon.FailWith(nil)
	})
}

func TestAProcessReleasesWhatItsPredecessorKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "a"}))
		if err := r.daemon.KeepImages(t.Context(), []string{"sha256:forgotten"}); err != nil {
			t.Fatal(err)
		}
		r.start(true)
		r.pass(time.Second)
		if kept := r.daemon.Kept(); len(kept) != 0 {
			t.Errorf("%q stay", kept)
		}
		r.end()
	})
}

func TestATagThatHasMovedChangesNothingByItself(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:latest"}), func(r *rig) {
		r.daemon.MoveImage("a:latest", "newer")
		r.pass(time.Hour)
		r.expect()
		r.push(desired(2, mod{name: "a", image: "a:latest"}))
		r.pass(time.Minute)
		r.expect()
		r.push(desired(3, mod{name: "a", image: "a:latest", env: map[string]string{"K": "v"}}))
		r.pass(time.Minute)
		r.expect("identity= a", "pull a", "stop a", "update a", "start a")
		if r.hash("a") != "sha256:newer" {
			t.Errorf("made from %s", r.hash("a"))
		}
	})
}

func TestImageThatIsGoneOnTheWayBackIsPulled(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}), func(r *rig) {
		r.daemon.BreakImages(broken("a:2"))
		r.push(safely(2, mod{name: "a", image: "a:2"}))
		r.daemon.Calls()
		pulled := false
		r.daemon.FailWith(func(call string) error {
			switch call {
			case "pull a":
				pulled = true
			case "update a", "create a":
				if !pulled {
					return errors.New("image not found")
				}
			}
			return nil
		})
		r.pass(5 * time.Minute)
		if r.image("a") != "a:1" || !pulled {
			t.Errorf("a has %s", r.image("a"))
		}
	})
}

func TestTrialGoesOnInANewProcessButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "a", image: "a:1"}))
		r.kill = true
		r.start(true)
		r.pass(time.Second)
		r.push(safely(2, mod{name: "a", image: "a:2"}))
		for i := range 2 {
			r.pass(5 * time.Second)
			if s := r.safe(); s.State != "trial" || r.image("a") != "a:2" {
				t.Fatalf("start %d: %+v", i, s)
			}
			r.end()
			r.start(true)
		}
		r.pass(5 * time.Second)
		r.end()
		r.start(false) // and without the cloud
		r.pass(20 * time.Second)
		if r.image("a") != "a:1" {
			t.Error("not taken back")
		}
		r.mirror.HandleConnection(true)
		r.pass(5 * time.Second)
		if s := r.safe(); s.State != "returned" || !strings.Contains(s.Reason, "too often") {
			t.Errorf("%+v", s)
		}
		r.end()
	})
}

func TestNothingIsSwitchedBeforeTheDiskKnows(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}), func(r *rig) {
		r.sealer.Fail.Store(true)
		r.push(safely(2, mod{name: "a", image: "a:2"}))
		r.pass(time.Minute)
		if r.image("a") != "a:1" {
			t.Fatal("switched without memory of it")
		}
		if v := r.reported().LastDesiredStatus; v.Code != 500 || !strings.Contains(v.Description, "saved") {
			t.Errorf("%+v", v)
		}
		r.sealer.Fail.Store(false)
		r.pass(time.Minute)
		r.expectStatus(2, 200)
	})
}

func TestSlowPullHoldsBackNoOtherModule(t *testing.T) {
	in(t, desired(1), func(r *rig) {
		release := r.daemon.HoldPull("a")
		r.push(desired(2, mod{name: "a"}, mod{name: "b"}))
		r.pass(10 * time.Second)
		if r.daemon.State("b") != plan.Running || r.daemon.State("a") != "" {
			t.Fatalf("a is %q, b is %q", r.daemon.State("a"), r.daemon.State("b"))
		}
		r.daemon.Calls()
		r.pass(30 * time.Second)
		r.expect()
		release()
		r.pass(time.Second)
		r.expect("create a", "start a")
		r.expectStatus(2, 200)
	})
}

// TestSafeDeploymentConverges deploys, breaks, cuts off and kills in any order, and
// then leaves the device alone. It must rest on the deployment that is wanted, or on
// the one that it came from: never on a mixture.
func TestSafeDeploymentConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checkOften(t, 1, func(rt *rapid.T) {
			version := 1
			// Every module of a deployment carries its number, so a mixture shows.
			generation := func(n int) []mod {
				return []mod{{name: "a", image: fmt.Sprintf("a:%d", n), policy: "always"}, {name: "b", image: fmt.Sprintf("b:%d", n), policy: "always"}}
			}
			wanted := 1
			r := newRig(t, desired(version, generation(1)...))
			r.folder = t.TempDir()
			r.kill = true
			r.start(true)
			defer func() { r.end() }()
			r.pass(time.Second)
			r.daemon.BreakImages(broken("a:3", "b:4"))
			rt.Repeat(map[string]func(*rapid.T){
				"deploy": func(rt *rapid.T) {
					version++
					wanted = rapid.IntRange(1, 4).Draw(rt, "generation")
					r.push(safely(version, generation(wanted)...))
				},
				"trouble": func(rt *rapid.T) {
					word := rapid.SampledFrom([]string{"pull", "create", "update", "start", "stop", "identit", "list"}).Draw(rt, "call")
					r.daemon.FailWith(func(call string) error {
						if strings.HasPrefix(call, word) {
							return errors.New("trouble")
						}
						return nil
					})
				},
				"no trouble":   func(*rapid.T) { r.daemon.FailWith(nil) },
				"agent killed": func(*rapid.T) { r.end(); r.start(rapid.Bool().Draw(rt, "connected")) },
				"disk":         func(*rapid.T) { r.sealer.Fail.Store(rapid.Bool().Draw(rt, "fails")) },
				"cloud away":   func(*rapid.T) { r.cloud.SetDown(true); r.mirror.HandleConnection(false) },
				"cloud back":   func(*rapid.T) { r.cloud.SetDown(false); r.mirror.HandleConnection(true) },
				"exit":         func(rt *rapid.T) { r.daemon.Exit(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "module"), 1) },
				"seconds pass": func(*rapid.T) { r.pass(7 * time.Second) },
				"minutes pass": func(*rapid.T) { r.pass(2 * time.Minute) },
			})
			r.daemon.FailWith(nil)
			r.sealer.Fail.Store(false)
			r.cloud.SetDown(false)
			r.mirror.HandleConnection(true)
			r.pass(time.Hour)
			rest := map[string]bool{}
			for _, name := range []string{"a", "b"} {
				_, n, _ := strings.Cut(r.image(name), ":")
				rest[n] = true
				if r.daemon.State(name) != plan.Running {
					rt.Errorf("%s is %q", name, r.daemon.State(name))
				}
			}
			if len(rest) != 1 {
				rt.Fatalf("rests on a mixture of %v", slices.Sorted(maps.Keys(rest)))
			}
			on := slices.Collect(maps.Keys(rest))[0]
			if s := r.safe(); wanted > 2 && (on > "2" || s.State != "returned") || on != fmt.Sprint(wanted) && s.State != "returned" {
				rt.Errorf("rests on %s, wanted is %d: %+v", on, wanted, s)
			}
			if code := r.reported().LastDesiredStatus.Code; (code == 200) != (on == fmt.Sprint(wanted)) {
				rt.Errorf("rests on %s, wanted is %d, status %d", on, wanted, code)
			}
		})
	})
}

func TestSafeDeploymentReplacesTheAgentToo(t *testing.T) {
	in(t, desired(1, mod{name: "a", image: "a:1"}), func(r *rig) {
		r.daemon.BreakImages(broken("a:3"))
		agent := func(image string) mod {
			return mod{name: "edgeAgent", image: image, env: map[string]string{
				"SafeDeployment": "true", "SafeDeploymentTimeoutSecs": "60", "SafeDeploymentSettleSecs": "10",
			}}
		}
		r.push(desired(2, agent("agent:2"), mod{name: "a", image: "a:2"}))
		r.expect("pull a", "pull edgeAgent", "identity= a", "update edgeAgent") // whose process ends now
		r.pass(6 * time.Second)
		r.expect("stop a", "update a", "start a")
		r.pass(15 * time.Second)
		r.expectStatus(2, 200)
		r.push(desired(3, agent("agent:3"), mod{name: "a", image: "a:3"}))
		r.pass(90 * time.Second)
		r.expectStatus(2, 500)
		if r.image("edgeAgent") != "agent:2" || r.image("a") != "a:2" {
			t.Errorf("agent has %s, a has %s", r.image("edgeAgent"), r.image("a"))
		}
	})
}

func TestSafeDeploymentWithAnAgentThatWasTakenBackIsReturnedAtOnce(t *testing.T) {
	for _, call := range []string{"pull edgeAgent", "update edgeAgent"} {
		in(t, desired(1, mod{name: "a", image: "a:1"}), func(r *rig) {
			r.daemon.FailWith(func(c string) error {
				if c == call {
					return fmt.Errorf("%w: it ended 3 times", launch.ErrTakenBack)
				}
				return nil
			})
			agent := mod{name: "edgeAgent", image: "agent:2", env: map[string]string{"SafeDeployment": "true"}}
			r.push(desired(2, agent, mod{name: "a", image: "a:2"}))
			r.pass(10 * time.Second)
			if s := r.safe(); s.State != "returned" || !strings.Contains(s.Reason, "it ended 3 times") {
				t.Errorf("%s: %+v", call, s)
			}
			r.expectStatus(1, 500)
			if r.image("a") == "a:2" || r.daemon.State("a") != plan.Running {
				t.Errorf("%s: a is %s with %s", call, r.daemon.State("a"), r.image("a"))
			}
			r.daemon.Calls()
			r.pass(time.Hour)
			r.expect()
			r.daemon.FailWith(nil)
			agent.env["fixed"] = "1"
			r.push(desired(3, agent, mod{name: "a", image: "a:2"}))
			r.pass(time.Minute)
			r.expectStatus(3, 200)
		})
	}
}

func (r *rig) generation(name string) string {
	s, _ := r.daemon.Spec(name)
	for _, v := range s.Env {
		if v.Key == "IOTEDGE_MODULEGENERATIONID" {
			return v.Value
		}
	}
	return ""
}

func (r *rig) hasIdentity(name string) bool { return slices.Contains(r.daemon.IdentityIDs(), name) }

// failIdentities lets all calls about identities fail, or none with nil.
func (r *rig) failIdentities(err error) {
	r.daemon.FailWith(func(call string) error {
		if strings.HasPrefix(call, "identity") {
			return err
		}
		return nil
	})
}

// A module that the new deployment does not have may have to come back, where no cloud can
// make an identity, and with what it has sealed for the one that it had.
func TestWayBackBringsRemovedModulesWithTheirIdentities(t *testing.T) {
	for _, orphans := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, desired(1, mod{name: "a", image: "a:1"}, mod{name: "b"}))
			r.opts.DeleteOrphans = orphans
			r.start(true)
			r.pass(time.Second)
			before := r.generation("b")
			r.daemon.BreakImages(broken("a:2"))
			r.push(safely(2, mod{name: "a", image: "a:2", policy: "always"}))
			r.pass(30 * time.Second)
			if r.daemon.State("b") != "" || !r.hasIdentity("b") {
				t.Errorf("in the trial b is %q, has its identity: %v", r.daemon.State("b"), r.hasIdentity("b"))
			}
			r.failIdentities(errors.New("offline"))
			r.pass(time.Minute)
			if r.daemon.State("b") != plan.Running || r.generation("b") != before {
				t.Errorf("b is %q with generation %q, had %q", r.daemon.State("b"), r.generation("b"), before)
			}
			r.end()
		})
	}
}

func TestIdentitiesOfRemovedModulesGoWithTheOldDeployment(t *testing.T) {
	with := []mod{{name: "a"}, {name: "b"}, {name: "c"}}
	for name, next := range map[string]string{
		"accepted":                  safely(2, mod{name: "a"}),
		"given up for another":      desired(3, mod{name: "a"}),
		"given up for one with one": desired(3, mod{name: "a"}, mod{name: "b"}),
	} {
		t.Run(name, func(t *testing.T) {
			in(t, desired(1, with...), func(r *rig) {
				r.push(safely(2, mod{name: "a"}))
				r.pass(5 * time.Second)
				if !r.hasIdentity("b") {
					t.Error("in the trial b has no identity")
				}
				r.failIdentities(errors.New("offline"))
				r.push(next)
				r.pass(30 * time.Second)
				if !r.hasIdentity("b") {
					t.Error("b has no identity")
				}
				r.kill = true
				r.end()
				r.kill = false
				r.failIdentities(nil)
				r.start(true)
				r.pass(3 * time.Minute)
				if want := strings.Contains(next, `"b"`); r.hasIdentity("b") != want || r.hasIdentity("c") || !r.hasIdentity("a") {
					t.Errorf("identities %v", r.daemon.IdentityIDs())
				}
				r.daemon.Calls()
				r.pass(10 * time.Minute)
				r.expect()
			})
		})
	}
}
