package runtimetest_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakePassesTheSuite(t *testing.T) {
	runtimetest.Run(t, runtimetest.Harness{
		Runtime: runtimetest.New("registry.test/module:1"),
		Image:   "registry.test/module:1",
		Missing: "registry.test/missing:1",
	})
}

func TestFakeFailsOnDemand(t *testing.T) {
	f := runtimetest.New("a/b")
	boom := errors.New("boom")
	f.Fail("Pull", boom)
	if _, err := f.Pull(t.Context(), runtime.PullRequest{Image: "a/b"}); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	f.Fail("Pull", nil)
	if _, err := f.Pull(t.Context(), runtime.PullRequest{Image: "a/b"}); err != nil {
		t.Error(err)
	}
}

func TestFakeDropsASlowReader(t *testing.T) {
	f := runtimetest.New("a/b")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := f.Events(ctx)
	if _, err := f.Pull(ctx, runtime.PullRequest{Image: "a/b"}); err != nil {
		t.Fatal(err)
	}
	for range runtime.EventBacklog {
		if err := f.Create(ctx, runtime.Spec{Name: "m", Image: "a/b", Options: createopts.Options{}}); err != nil {
			t.Fatal(err)
		}
		if err := f.Remove(ctx, "m"); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for range events {
		n++
	}
	if n != runtime.EventBacklog {
		t.Errorf("%d events before the end, want %d", n, runtime.EventBacklog)
	}
}
