package management_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/breakwater-iot/breakwater/daemon/internal/management"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

func TestHealthIsShownAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := runtimetest.New("a:1")
		log := slog.New(slog.DiscardHandler)
		manager := module.New(module.Options{Runtime: engine, Log: log})
		defer manager.Close()
		svc := &management.Modules{Manager: manager, Observer: engine, Log: log}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := engine.Pull(ctx, runtime.PullRequest{Image: "a:1"}); err != nil {
			t.Fatal(err)
		}
		if err := engine.Create(ctx, runtime.Spec{Name: "m", Image: "a:1"}); err != nil {
			t.Fatal(err)
		}
		r := &receiver{ctx: ctx, events: make(chan *managementv1.ModuleEvent, 4)}
		done := make(chan error, 1)
		go func() { done <- svc.Watch(nil, r) }()
		synctest.Wait()
		shown := func() *managementv1.RuntimeStatus {
			t.Helper()
			d, err := svc.Get(ctx, &managementv1.GetRequest{Name: "m"})
			if err != nil {
				t.Fatal(err)
			}
			return d.GetStatus().GetRuntimeStatus()
		}
		if s := shown(); s.Health != nil {
			t.Errorf("without a check: %v", s)
		}
		engine.SetHealth("m", runtime.Unhealthy, "no answer")
		if e := <-r.events; e.GetKind() != managementv1.ModuleEvent_KIND_HEALTH || e.GetName() != "m" || e.GetHealth() != "unhealthy" {
			t.Errorf("event %v", e)
		}
		if s := shown(); s.GetHealth() != "unhealthy" || s.GetDescription() != "unhealthy: no answer" {
			t.Errorf("status %s", protojson.Format(s))
		}
		engine.SetHealth("m", runtime.Healthy, "")
		if s := shown(); s.GetHealth() != "healthy" || s.Description != nil {
			t.Errorf("status %s", protojson.Format(s))
		}
		cancel()
		<-done
	})
}
