package reconcile_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

var names = []string{"edgeHub", "a", "b", "c"}

func drawMods(t *rapid.T) []mod {
	var list []mod
	for _, name := range names {
		if !rapid.Bool().Draw(t, "has "+name) {
			continue
		}
		list = append(list, mod{
			name:    name,
			image:   fmt.Sprintf("%s:%d", name, rapid.IntRange(1, 2).Draw(t, "tag")),
			status:  rapid.SampledFrom([]string{"running", "stopped"}).Draw(t, "status"),
			policy:  rapid.SampledFrom([]string{"on-failure", "on-unhealthy", "always"}).Draw(t, "policy"),
			order:   rapid.IntRange(0, 2).Draw(t, "order"),
			options: rapid.SampledFrom([]string{"{}", `{"Tty":true}`, `{"tty": true, "Cmd": null}`}).Draw(t, "options"),
			env:     map[string]string{"K": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "env")},
		})
	}
	return list
}

// checkOften checks a property in rounds of several checks: about a dozen, as rapid
// counts the virtual hours that pass and ends when a day is over.
func checkOften(t *testing.T, rounds int, prop func(*rapid.T)) {
	t.Helper()
	for range rounds {
		// Without its Deadline, which is not to be asked for in virtual time.
		rapid.Check(struct{ testing.TB }{t}, prop)
	}
}

// TestConverges does anything to the device, and then leaves it alone: the modules
// must become what the last manifest wants, and then nothing may be done any more.
func TestConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checkOften(t, 1, func(rt *rapid.T) {
			version := 1
			mods := drawMods(rt)
			r := newRig(t, desired(version, mods...))
			r.folder = t.TempDir()
			r.kill = true
			r.start(true)
			defer func() { r.end() }()
			pick := func(rt *rapid.T) string { return rapid.SampledFrom(names).Draw(rt, "module") }
			rt.Repeat(map[string]func(*rapid.T){
				"deploy": func(rt *rapid.T) {
					version++
					mods = drawMods(rt)
					r.push(desired(version, mods...))
				},
				"refused manifest": func(rt *rapid.T) {
					version++
					r.push(fmt.Sprintf(`{"$version":%d,"schemaVersion":"3.0"}`, version))
				},
				"exit": func(rt *rapid.T) {
					r.daemon.Exit(pick(rt), rapid.IntRange(0, 1).Draw(rt, "code"))
				},
				"remove by hand": func(rt *rapid.T) { r.daemon.Forget(pick(rt)) },
				"die": func(rt *rapid.T) {
					name := pick(rt)
					if r.daemon.State(name) != "" {
						r.daemon.Set(plan.Engine{Name: name, Image: name + ":1", State: plan.Dead})
					}
				},
				"stray": func(rt *rapid.T) {
					r.daemon.Set(plan.Engine{Name: "stray", Image: "x", State: plan.Running, Started: time.Now()})
				},
				"trouble": func(rt *rapid.T) {
					word := rapid.SampledFrom([]string{"pull", "create", "update", "start", "stop", "remove", "identit", "list"}).Draw(rt, "call")
					name := pick(rt)
					r.daemon.FailWith(func(call string) error {
						if strings.HasPrefix(call, word) && (strings.HasSuffix(call, name) || !strings.Contains(call, " ")) {
							return errors.New("trouble")
						}
						return nil
					})
				},
				"no trouble":    func(*rapid.T) { r.daemon.FailWith(nil) },
				"agent killed":  func(*rapid.T) { r.end(); r.start(rapid.Bool().Draw(rt, "connected")) },
				"cloud away":    func(*rapid.T) { r.cloud.SetDown(true); r.mirror.HandleConnection(false) },
				"cloud back":    func(*rapid.T) { r.cloud.SetDown(false); r.mirror.HandleConnection(true) },
				"seconds pass":  func(*rapid.T) { r.pass(7 * time.Second) },
				"minutes pass":  func(*rapid.T) { r.pass(3 * time.Minute) },
				"identity gone": func(rt *rapid.T) { _ = r.daemon.DeleteIdentity(t.Context(), pick(rt)) },
			})
			r.daemon.FailWith(nil)
			r.cloud.SetDown(false)
			r.mirror.HandleConnection(true)
			version++
			r.push(desired(version, mods...))
			r.pass(time.Hour)
			r.daemon.Calls()
			r.pass(10 * time.Minute)
			if calls := r.daemon.Calls(); len(calls) > 0 {
				rt.Fatalf("no rest: %q", calls)
			}
			r.compare(rt, version, mods)
		})
	})
}

func (r *rig) compare(rt *rapid.T, version int, mods []mod) {
	v := r.reported()
	if v.LastDesiredVersion != int64(version) || v.LastDesiredStatus.Code != 200 {
		rt.Errorf("version %d, status %+v; want version %d", v.LastDesiredVersion, v.LastDesiredStatus, version)
	}
	wanted := map[string]mod{}
	for _, m := range mods {
		wanted[m.name] = m
	}
	for _, name := range append([]string{"stray"}, names...) {
		m, want := wanted[name]
		state := r.daemon.State(name)
		switch {
		case !want && state != "":
			rt.Errorf("%s is still there", name)
		case !want:
		case m.status == "running" && state != plan.Running:
			rt.Errorf("%s is %q", name, state)
		case m.status == "stopped" && (state == plan.Running || state == ""):
			rt.Errorf("%s is %q", name, state)
		default:
			r.compareSpec(rt, m)
		}
	}
}

func (r *rig) compareSpec(rt *rapid.T, m mod) {
	spec, _ := r.daemon.Spec(m.name)
	if spec.Image != m.image {
		rt.Errorf("%s has image %s, want %s", m.name, spec.Image, m.image)
	}
	tty, _ := spec.CreateOptions["Tty"].(bool)
	if tty != (m.options != "{}") {
		rt.Errorf("%s was made with options %v, want %s", m.name, spec.CreateOptions, m.options)
	}
	for _, e := range spec.Env {
		if e == (launch.EnvVar{Key: "K", Value: m.env["K"]}) {
			return
		}
	}
	rt.Errorf("%s was made with env %v, want K=%s", m.name, spec.Env, m.env["K"])
}
