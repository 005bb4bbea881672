package edged_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, s *edgedtest.Server) *edged.Client {
	t.Helper()
	c, err := edged.Dial(edged.Options{ManagementURI: s.URI, WorkloadURI: s.URI, ModuleID: "$edgeAgent", Generation: "g",
		Timeout: 10 * time.Second, SlotTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestModules(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	ctx := t.Context()
	spec := launch.Spec{Name: "m", Type: "docker", PullPolicy: "On-Create", Image: "i:1", Digest: "d",
		Auth:          &manifest.Registry{Address: "reg", Username: "u", Password: "p"},
		CreateOptions: map[string]any{"HostConfig": map[string]any{"Memory": json.Number("67108864")}, "Labels": map[string]any{"own": "x"}},
		Env:           []launch.EnvVar{{Key: "A", Value: "b"}}}
	for _, err := range []error{c.Pull(ctx, spec), c.Create(ctx, spec), c.Start(ctx, "m"), c.Restart(ctx, "m"), c.Stop(ctx, "m"), c.Update(ctx, spec, true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(s.Daemon.Calls(), ","); got != "pull m,create m,start m,restart m,stop m,update m" {
		t.Errorf("calls %s", got)
	}
	got, _ := s.Daemon.Spec("m")
	if got.Image != "i:1" || got.Digest != "d" || got.Auth.Password != "p" || got.Env[0] != spec.Env[0] ||
		got.CreateOptions["HostConfig"].(map[string]any)["Memory"] != 67108864.0 {
		t.Errorf("the daemon got %+v", got)
	}
	s.Daemon.Exit("m", 137)
	list, err := c.Modules(ctx)
	if err != nil || len(list) != 2 {
		t.Fatal(err, list)
	}
	m := list[1]
	if m.Name != "m" || m.Image != "i:1" || m.ImageHash != "sha256:i:1" || m.State != plan.Failed || m.ExitCode != 137 ||
		m.Started.IsZero() || m.Exited.Before(m.Started) || m.Labels["own"] != "x" {
		t.Errorf("%+v", m)
	}
	if agent := list[0]; agent.State != plan.Running || !agent.Exited.IsZero() || agent.Image != "engine/agent:1" {
		t.Errorf("%+v", agent)
	}
	if err := errors.Join(c.Remove(ctx, "m"), c.Remove(ctx, "m")); err != nil {
		t.Errorf("remove: %v", err)
	}
	err = c.Start(ctx, "m")
	if !errors.Is(err, launch.ErrNotFound) || err.Error() != "start m: start m: no such module" {
		t.Errorf("%v", err)
	}
}

func TestAnImageThatHasLostItsNameIsKeptAndComesBack(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	ctx := t.Context()
	spec := launch.Spec{Name: "m", Type: "docker", PullPolicy: "Never", Image: "i:latest", CreateOptions: map[string]any{}}
	if err := errors.Join(c.Create(ctx, spec), c.KeepImages(ctx, []string{"sha256:i:latest"})); err != nil {
		t.Fatal(err)
	}
	s.Daemon.MoveImage("i:latest", "newer")
	back := spec
	back.ImageHash = "sha256:i:latest"
	for _, u := range []launch.Spec{spec, back} {
		if err := c.Update(ctx, u, false); err != nil {
			t.Fatal(err)
		}
		list, err := c.Modules(ctx)
		if want := cmp.Or(u.ImageHash, "sha256:newer"); err != nil || list[1].ImageHash != want {
			t.Errorf("%+v, %v; want %s", list, err, want)
		}
	}
	s.Daemon.FailWith(func(string) error { return errors.New("disk full") })
	if err := c.KeepImages(ctx, nil); err == nil || err.Error() != "keep images: disk full" {
		t.Errorf("%v", err)
	}
}

// An older daemon keeps nothing, and is no reason not to work.
func TestADaemonThatKeepsNoImages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c := dial(t, &edgedtest.Server{URI: "unix://" + path})
	if err := c.KeepImages(t.Context(), []string{"sha256:x"}); err != nil {
		t.Error(err)
	}
}

func TestErrorsKeepTheDaemonsWords(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	s.Daemon.FailWith(func(string) error { return errors.New("no space left") })
	spec := launch.Spec{Name: "m", Auth: &manifest.Registry{Password: "hush"}, CreateOptions: map[string]any{}}
	err := c.Pull(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
	spec.CreateOptions["Memory"] = json.Number("1e999")
	if err := c.Create(t.Context(), spec); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
}

func TestAgentThatWasTakenBackIsToldApart(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	for _, answer := range []error{launch.ErrTakenBack, errors.New("other")} {
		s.Daemon.FailWith(func(string) error { return answer })
		for name, err := range map[string]error{
			"pull":   c.Pull(t.Context(), launch.Spec{Name: "edgeAgent"}),
			"update": c.Update(t.Context(), launch.Spec{Name: "edgeAgent"}, true),
		} {
			if err == nil || errors.Is(err, launch.ErrTakenBack) != (answer == launch.ErrTakenBack) {
				t.Errorf("%s answered with %v: %v", name, answer, err)
			}
		}
	}
}

func TestIdentitiesAndInfo(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	id, err := c.CreateIdentity(t.Context(), "m", "IotEdge")
	if err != nil || id.ModuleID != "m" || id.ManagedBy != "IotEdge" || id.Generation == "" {
		t.Fatal(id, err)
	}
	if again, err := c.UpdateIdentity(t.Context(), id); err != nil || again != id {
		t.Error(again, err)
	}
	list, err := c.Identities(t.Context())
	if err != nil || len(list) != 3 {
		t.Error(list, err)
	}
	if err := c.DeleteIdentity(t.Context(), "m"); err != nil {
		t.Error(err)
	}
	if p, err := c.Platform(t.Context()); err != nil || p.OS != "linux" || p.Architecture != "x86_64" || p.Version != "1.2.3" {
		t.Error(p, err)
	}
}

func TestSealing(t *testing.T) {
	c := dial(t, edgedtest.Serve(t, edgedtest.New("agent:1")))
	sealed, err := c.Seal(t.Context(), []byte("text"), []byte("vector"))
	if err != nil || bytes.Contains(sealed, []byte("text")) {
		t.Fatal(err)
	}
	if got, err := c.Open(t.Context(), sealed, []byte("vector")); err != nil || string(got) != "text" {
		t.Error(string(got), err)
	}
	if _, err := c.Open(t.Context(), sealed, []byte("other")); err == nil {
		t.Error("opened with another vector")
	}
}

func TestWatch(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 10), make(chan error, 1)
	go func() { done <- c.Watch(ctx, slog.New(slog.DiscardHandler), func() { changed <- struct{}{} }) }()
	<-changed // connected
	s.Daemon.Set(plan.Engine{Name: "m", State: plan.Running})
	<-changed
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLogs(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.Logs = []*managementv1.LogChunk{
		{Stream: managementv1.LogChunk_STREAM_STDOUT, Data: []byte("one\n"), Time: timestamppb.New(at)},
		{Stream: managementv1.LogChunk_STREAM_STDERR, Data: []byte("two")},
	}
	c := dial(t, s)
	var lines []edged.LogLine
	collect := func(l edged.LogLine) error { lines = append(lines, l); return nil }
	if err := c.Logs(t.Context(), "edgeAgent", edged.LogQuery{Tail: "5"}, collect); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || string(lines[0].Data) != "one\n" || !lines[0].Time.Equal(at) || !lines[1].Stderr || !lines[1].Time.IsZero() {
		t.Errorf("%+v", lines)
	}
	if err := c.Logs(t.Context(), "nobody", edged.LogQuery{}, collect); !errors.Is(err, launch.ErrNotFound) {
		t.Errorf("%v", err)
	}
	stop := errors.New("enough")
	if err := c.Logs(t.Context(), "edgeAgent", edged.LogQuery{}, func(edged.LogLine) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func TestRefusedConnectionTellsThatTheDaemonIsGone(t *testing.T) {
	s := edgedtest.Serve(t, edgedtest.New("agent:1"))
	c := dial(t, s)
	if _, err := c.Modules(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Gone():
		t.Fatal("gone while it answers")
	default:
	}
	s.Stop()
	begin := time.Now()
	if _, err := c.Modules(t.Context()); err == nil {
		t.Error("answered by a dead socket")
	}
	select {
	case <-c.Gone():
	case <-time.After(10 * time.Second):
		t.Fatal("not told")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAddressesAreSockets(t *testing.T) {
	for _, o := range []edged.Options{{ManagementURI: "http://x", WorkloadURI: "unix:///x"}, {ManagementURI: "unix:///x", WorkloadURI: ""}} {
		if _, err := edged.Dial(o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}
