package reconcile_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

func TestRefusedManifestIsReportedAndLastGoodOneEnforced(t *testing.T) {
	good := mod{name: "a", policy: "always"}
	for code, bad := range map[int]string{
		400: `{"$version":6,"schemaVersion":"1.1","runtime":{"type":"docker"}}`,
		412: `{"$version":6,"schemaVersion":"2.0"}`,
		417: `{"$version":6}`,
	} {
		in(t, desired(5, good), func(r *rig) {
			r.push(bad)
			r.expect()
			r.expectStatus(5, code)
			r.daemon.Exit("a", 1)
			r.pass(11 * time.Second)
			r.expect("stop a", "start a")
			r.expectStatus(5, code)
			r.push(desired(7, good))
			r.expect()
			r.expectStatus(7, 200)
		})
	}
}

func TestVersionAdvancesUnder500(t *testing.T) {
	in(t, desired(1), func(r *rig) {
		r.daemon.FailWith(func(call string) error {
			if strings.HasPrefix(call, "create") {
				return errors.New("no space")
			}
			return nil
		})
		r.push(desired(2, mod{name: "a"}))
		r.expectStatus(2, 500)
	})
}

func TestDaemonErrorIsReportedAlone(t *testing.T) {
	in(t, desired(1, mod{name: "a"}), func(r *rig) {
		before := r.reported()
		r.daemon.FailWith(func(call string) error {
			if call == "list" {
				return errors.New("containerd is away")
			}
			return nil
		})
		r.cloud.Patches()
		r.pass(6 * time.Second)
		v := r.reported()
		if v.LastDesiredStatus.Code != 500 || !strings.Contains(v.LastDesiredStatus.Description, "containerd is away") || v.LastDesiredVersion != before.LastDesiredVersion {
			t.Errorf("%+v", v.LastDesiredStatus)
		}
		if p := r.cloud.Patches(); len(p) != 1 || strings.Contains(string(p[0]), "modules") {
			t.Errorf("patches %s", p)
		}
		r.push(`{"$version":2}`)
		r.pass(6 * time.Second)
		if v := r.reported(); v.LastDesiredStatus.Code != 500 || !strings.Contains(v.LastDesiredStatus.Description, "417") {
			t.Errorf("two errors: %+v", v.LastDesiredStatus)
		}
		r.daemon.FailWith(nil)
		r.push(desired(3, mod{name: "a"}))
		r.pass(6 * time.Second)
		r.expectStatus(3, 200)
		r.expect()
	})
}

func TestReportsAreDifferences(t *testing.T) {
	long := `{"Env":["` + strings.Repeat("x", 1200) + `"]}`
	in(t, desired(1, mod{name: "a", options: long}, mod{name: "b"}), func(r *rig) {
		settings := r.reported().Modules["a"]["settings"].(map[string]any)
		if _, ok := settings["createOptions02"]; !ok {
			t.Fatalf("settings %v", settings)
		}
		r.cloud.Patches()
		r.pass(time.Minute)
		if p := r.cloud.Patches(); len(p) != 0 {
			t.Errorf("quiet system sends %s", p)
		}
		r.push(desired(2, mod{name: "a"}))
		var all string
		for _, p := range r.cloud.Patches() {
			all += string(p)
		}
		if !strings.Contains(all, `"b":null`) || !strings.Contains(all, `"createOptions02":null`) {
			t.Errorf("patches %s", all)
		}
		if strings.Contains(all, "platform") {
			t.Errorf("unchanged members sent: %s", all)
		}
	})
}

func TestAnAgentThatIsReplacedLeavesTheModulesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}))
		r.start(true)
		r.expectStatus(1, 200)
		r.daemon.Calls()
		r.end()
		r.expect()
		r.expectStatus(1, 406)
		r.expectRuntimeStatus("running") // as the next agent finds them
		if text := r.reported().LastDesiredStatus.Description; text != "Agent is not running" {
			t.Errorf("%q", text)
		}
		r.start(true)
		r.pass(time.Second)
		r.expect()
		r.expectStatus(1, 200)
		r.end()
	})
}

func TestWhenTheDaemonIsGoneModulesAreUnknown(t *testing.T) {
	for name, leave := range map[string]func(*rig){
		"it refuses":         refuseList,
		"it does not answer": func(r *rig) { r.daemon.Silence() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}))
				r.start(true)
				r.expectStatus(1, 200)
				r.daemon.Calls()
				leave(r)
				begin := time.Now()
				r.end()
				if took := time.Since(begin); took > 6*time.Second {
					t.Errorf("took %v", took)
				}
				r.expect()
				r.expectStatus(1, 406)
				r.expectRuntimeStatus("unknown")
			})
		})
	}
}

func refuseList(r *rig) {
	r.daemon.FailWith(func(call string) error {
		if call == "list" {
			return errors.New("connection refused")
		}
		return nil
	})
}

func TestAnAgentThatEndsBeforeItsFirstLookReportsNoModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}))
		r.start(true)
		r.expectStatus(1, 200)
		r.end()
		refuseList(r)
		r.start(true)
		r.end()
		r.expectStatus(1, 406)
		r.expectRuntimeStatus("running")
	})
}

func TestRestartOfTheAgentChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a", env: map[string]string{"K": "v"}}))
		r.kill = true
		r.start(true)
		r.pass(time.Second)
		r.end()
		r.daemon.Calls()
		r.start(true)
		r.pass(time.Minute)
		r.expect()
		r.expectStatus(1, 200)
		r.end()
	})
}

func TestAgentWithoutMemoryLeavesWhatIsAsWanted(t *testing.T) {
	for name, c := range map[string]struct {
		wanted string
		calls  []string
	}{
		"all as before": {desired(2, mod{name: "edgeHub"}, mod{name: "a", env: map[string]string{"K": "v"}}), nil},
		"another variable": {desired(2, mod{name: "edgeHub"}, mod{name: "a", env: map[string]string{"K": "w"}}),
			[]string{"identity= a", "pull a", "stop a", "update a", "start a"}},
		"another image": {desired(2, mod{name: "edgeHub"}, mod{name: "a", image: "a:2", env: map[string]string{"K": "v"}}),
			[]string{"identity= a", "pull a", "stop a", "update a", "start a"}},
		"stopped": {desired(2, mod{name: "edgeHub"}, mod{name: "a", status: "stopped", env: map[string]string{"K": "v"}}), []string{"stop a"}},
		"removed": {desired(2, mod{name: "edgeHub"}), []string{"identity- a", "stop a", "remove a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a", env: map[string]string{"K": "v"}}))
				r.start(true)
				r.pass(time.Second)
				r.end()
				r.daemon.Calls()
				r.folder = t.TempDir()
				r.cloud.SetDesired(c.wanted)
				r.start(true)
				r.pass(time.Minute)
				r.expect(c.calls...)
				r.expectStatus(2, 200)
				r.daemon.Exit("edgeHub", 1)
				r.pass(11 * time.Second)
				r.expect("stop edgeHub", "start edgeHub")
				r.end()
			})
		})
	}
}

func TestAgentKilledMidPlanConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mods := []mod{{name: "a"}, {name: "b"}, {name: "c"}}
		r := newRig(t, desired(1, mods...))
		r.kill = true
		reached := make(chan struct{}, 1)
		r.daemon.FailWith(func(call string) error {
			if call == "create b" {
				reached <- struct{}{}
				return errors.New("cut off")
			}
			return nil
		})
		r.start(true)
		<-reached
		r.end() // the process ends while its plan runs
		r.daemon.FailWith(nil)
		r.start(true)
		r.pass(time.Minute)
		for _, m := range mods {
			if r.daemon.State(m.name) != plan.Running {
				t.Errorf("%s is %q", m.name, r.daemon.State(m.name))
			}
		}
		r.expectStatus(1, 200)
		r.daemon.Calls()
		r.pass(time.Minute)
		r.expect()
		r.end()
	})
}

// offline deploys mods, ends the agent as a power cut does, and starts a new one
// without the cloud after change.
func offline(t *testing.T, change func(r *rig), f func(r *rig), mods ...mod) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(3, mods...))
		r.kill = true
		r.start(true)
		r.pass(time.Second)
		r.end()
		r.cloud.SetDown(true)
		change(r)
		r.daemon.Calls()
		r.start(false)
		r.pass(20 * time.Second)
		f(r)
		r.end()
	})
}

func TestStartWithoutCloudEnforcesTheBackup(t *testing.T) {
	offline(t, func(r *rig) {
		r.daemon.Exit("a", 1)
		r.pass(time.Minute)
	}, func(r *rig) {
		r.expect("stop a", "start a")
		if _, err := os.Stat(filepath.Join(r.folder, "backup.json")); err != nil {
			t.Error(err)
		}
		r.cloud.SetDown(false)
		r.mirror.HandleConnection(true)
		r.expectStatus(3, 200)
	}, mod{name: "a", policy: "always"})
}

func TestBackupThatCannotBeOpenedRemovesNothing(t *testing.T) {
	for name, change := range map[string]func(r *rig){
		"other key": func(r *rig) { r.sealer = &edgedtest.Sealer{Key: "other"} },
		"other vector": func(r *rig) {
			for _, f := range []string{"backup.json", "taken.json"} {
				path := filepath.Join(r.folder, f)
				var e struct{ IV, Sealed []byte }
				b, err := os.ReadFile(path)
				if err != nil {
					r.t.Fatal(err)
				}
				if err := json.Unmarshal(b, &e); err != nil {
					r.t.Fatal(err)
				}
				e.IV[0] ^= 1
				b, _ = json.Marshal(map[string][]byte{"iv": e.IV, "sealed": e.Sealed})
				if err := os.WriteFile(path, b, 0o600); err != nil {
					r.t.Fatal(err)
				}
			}
		},
		"cut short": func(r *rig) {
			for _, f := range []string{"backup.json", "taken.json"} {
				if err := os.Truncate(filepath.Join(r.folder, f), 20); err != nil {
					r.t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			offline(t, change, func(r *rig) {
				r.expect()
				if r.daemon.State("a") != plan.Running {
					t.Error("module is gone")
				}
			}, mod{name: "a"})
		})
	}
}

func TestInvalidTwinAtStartIsReportedNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(3, mod{name: "a", policy: "always"}))
		r.kill = true
		r.start(true)
		r.pass(time.Second)
		r.end()
		r.cloud.SetDesired(`{"$version":4,"schemaVersion":"9.0"}`)
		r.daemon.Exit("a", 1)
		r.daemon.Calls()
		r.start(true)
		r.pass(15 * time.Second)
		r.expectStatus(3, 412)
		r.expect("stop a", "start a")
		r.end()
	})
}

func TestNoTwinAndNoBackupDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "a"}))
		r.daemon.Set(plan.Engine{Name: "old", Image: "x:1", State: plan.Running})
		r.start(false)
		r.pass(time.Minute)
		r.expect()
		r.mirror.HandleConnection(true)
		r.pass(time.Second)
		if r.daemon.State("a") != plan.Running {
			t.Error("deployment does not begin when the cloud comes")
		}
		r.end()
	})
}

func TestModulesKeepRunningWhileCloudIsAway(t *testing.T) {
	in(t, desired(1, mod{name: "a", policy: "always"}), func(r *rig) {
		r.cloud.SetDown(true)
		r.mirror.HandleConnection(false)
		r.daemon.Exit("a", 1)
		r.pass(15 * time.Second)
		r.expect("stop a", "start a")
		r.cloud.SetDown(false)
		r.mirror.HandleConnection(true)
		r.pass(time.Minute)
		if n := r.reported().Modules["a"]["restartCount"]; n != 1.0 {
			t.Errorf("restartCount %v: what happened meanwhile is not reported", n)
		}
	})
}

// An identity that was deleted and made anew has another generation: what the container was
// told is of no use any more.
func TestAgentWithoutMemoryMakesModulesOfOtherIdentitiesAnew(t *testing.T) {
	anew := []string{"identity= a", "pull a", "stop a", "update a", "start a"}
	for name, c := range map[string]struct {
		change func(r *rig)
		calls  []string
	}{
		"same identity": {func(*rig) {}, nil},
		"made anew": {func(r *rig) {
			r.daemon.SetIdentity(launch.Identity{ModuleID: "a", ManagedBy: "IotEdge", Generation: "other"})
		}, anew},
		"of edgeHub":     {func(r *rig) { r.daemon.SetIdentity(launch.Identity{ModuleID: "$edgeHub", Generation: "other"}) }, []string{"identity= $edgeHub", "pull edgeHub", "stop edgeHub", "update edgeHub", "start edgeHub"}},
		"gone":           {func(r *rig) { _ = r.daemon.DeleteIdentity(t.Context(), "a") }, append([]string{"identity+ a"}, anew[1:]...)},
		"cannot be told": {func(r *rig) { r.daemon.FailWith(failOn("identities")) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, desired(1, mod{name: "edgeHub"}, mod{name: "a"}))
				r.start(true)
				r.pass(time.Second)
				r.end()
				c.change(r)
				r.daemon.Calls()
				r.folder = t.TempDir()
				r.start(true)
				r.pass(time.Minute)
				r.expect(c.calls...)
				r.expectStatus(1, 200)
				r.end()
			})
		})
	}
}

// A container of an agent that wrote no generation on it is taken as it is.
func TestAgentWithoutMemoryLeavesWhatAnOlderAgentMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired(1, mod{name: "a"}))
		r.start(true)
		r.pass(time.Second)
		r.end()
		list, err := r.daemon.Modules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			delete(e.Labels, plan.LabelGeneration)
		}
		r.daemon.SetIdentity(launch.Identity{ModuleID: "a", Generation: "other"})
		r.daemon.Calls()
		r.folder = t.TempDir()
		r.start(true)
		r.pass(time.Minute)
		r.expect()
		r.end()
	})
}

// failOn makes calls fail that are written so.
func failOn(call string) func(string) error {
	return func(c string) error {
		if c == call {
			return errors.New("trouble")
		}
		return nil
	}
}
