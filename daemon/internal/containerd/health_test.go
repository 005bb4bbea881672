//go:build integration

package containerd_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// TestHealthChecks runs probes in a module that is well as long as /tmp/well is there.
func TestHealthChecks(t *testing.T) {
	ctx, home := t.Context(), home(t)
	r := open(t, home)
	defer func() { closeAll(t, r) }()
	plain, err := name.ParseReference(image("test/plain:1"), name.Insecure)
	check(t, err)
	img, err := remote.Image(plain)
	check(t, err)
	cfg, err := img.ConfigFile()
	check(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "/module", "cat=/tmp/well"}, Interval: 200e6, Timeout: 5e9, Retries: 2}
	img, err = mutate.ConfigFile(img, cfg)
	check(t, err)
	ref, err := name.ParseReference(image("test/health:1"), name.Insecure)
	check(t, err)
	check(t, remote.Write(ref, img))
	_, err = r.Pull(ctx, runtime.PullRequest{Image: image("test/health:1")})
	check(t, err)

	dir := t.TempDir()
	events := r.Events(ctx)
	create := func(name, options string) {
		t.Helper()
		check(t, r.Create(ctx, runtime.Spec{Name: name, Image: image("test/health:1"), Options: parsed(t, options)}))
		check(t, r.Start(ctx, name))
	}
	told := map[string]runtime.Health{} // by events
	next := func() runtime.Event {
		e := <-events
		if e.Type == runtime.EventHealth {
			told[e.Module] = e.Health
		}
		return e
	}
	await := func(name string, want runtime.Health) {
		t.Helper()
		for told[name] != want {
			if e := next(); e.Type == "" {
				t.Fatalf("events have ended before %s was %s", name, want)
			}
		}
		delete(told, name)
		if st, err := r.Get(ctx, name); err != nil || st.Health != want {
			t.Fatalf("%s: state says %q (%v), want %s", name, st.Health, err, want)
		}
	}
	tell := func(step string) { // makes or removes the file by another module
		t.Helper()
		check(t, r.Create(ctx, runtime.Spec{Name: "hand", Image: image("test/health:1"), Options: parsed(t, `{"Cmd":["`+step+`"],"Healthcheck":{"Test":["NONE"]},"HostConfig":{"Binds":["`+dir+`:/tmp"]}}`)}))
		check(t, r.Start(ctx, "hand"))
		for e := next(); e.Type != runtime.EventExited || e.Module != "hand"; e = next() {
			if e.Type == "" {
				t.Fatal("events have ended")
			}
		}
		if st, err := r.Get(ctx, "hand"); err != nil || st.Health != "" {
			t.Errorf("without a check: %q (%v)", st.Health, err)
		}
		check(t, r.Remove(ctx, "hand"))
	}
	create("patient", `{"Cmd":["exit=-1"],"HostConfig":{"Binds":["`+dir+`:/tmp"]}}`)
	if st, err := r.Get(ctx, "patient"); err != nil || st.Health != runtime.HealthStarting {
		t.Errorf("at first: %q (%v)", st.Health, err)
	}
	await("patient", runtime.Unhealthy)
	if st, err := r.Get(ctx, "patient"); err != nil || st.HealthOutput == "" {
		t.Errorf("no word of why: %+v (%v)", st, err)
	}

	// The next daemon goes on where this one ended.
	check(t, r.Close())
	r = open(t, home)
	events = r.Events(ctx)
	if st, err := r.Get(ctx, "patient"); err != nil || st.Health != runtime.Unhealthy || st.Status != runtime.StatusRunning {
		t.Errorf("taken over: %q (%v)", st.Health, err)
	}
	tell("touch=/tmp/well")
	await("patient", runtime.Healthy)

	// A module that was stopped has no health, and starts anew.
	check(t, r.Stop(ctx, "patient", 0))
	if st, err := r.Get(ctx, "patient"); err != nil || st.Health != "" {
		t.Errorf("stopped: %q (%v)", st.Health, err)
	}
	check(t, r.Start(ctx, "patient"))
	await("patient", runtime.Healthy)

	// A probe that hangs, and one whose command is not there, fail.
	create("slow", `{"Cmd":["exit=-1"],"Healthcheck":{"Test":["CMD","/module","exit=-1"],"Timeout":300000000,"Retries":1}}`)
	await("slow", runtime.Unhealthy)
	create("gone", `{"Cmd":["exit=-1"],"Healthcheck":{"Test":["CMD","/nothing"],"Retries":1}}`)
	await("gone", runtime.Unhealthy)
}
