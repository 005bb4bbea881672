package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon answers as edged does and notes what it was asked.
type daemon struct {
	managementv1.UnimplementedModulesServer
	calls []string
	logs  *managementv1.LogsRequest
	// bundle is the last request for one.
	bundle *managementv1.SupportBundleRequest
	zip    []byte // the daemon's part of it
}

func (d *daemon) List(context.Context, *managementv1.ListRequest) (*managementv1.ListResponse, error) {
	start := time.Now().Add(-3*time.Hour - time.Minute).Format(time.RFC3339)
	set, err := structpb.NewStruct(map[string]any{"image": "reg/hub:1"})
	if err != nil {
		return nil, err
	}
	return &managementv1.ListResponse{Modules: []*managementv1.ModuleDetails{{
		Name: "edgeHub", Config: &managementv1.ModuleConfig{Settings: set},
		Status: &managementv1.ModuleStatus{StartTime: &start, RuntimeStatus: &managementv1.RuntimeStatus{Status: "running"}},
	}}}, nil
}

func (d *daemon) Stop(_ context.Context, r *managementv1.StopRequest) (*managementv1.StopResponse, error) {
	d.calls = append(d.calls, "stop "+r.GetName())
	if r.GetName() == "nobody" {
		return nil, status.Error(codes.NotFound, "no such module: nobody")
	}
	return &managementv1.StopResponse{}, nil
}

func (d *daemon) Start(_ context.Context, r *managementv1.StartRequest) (*managementv1.StartResponse, error) {
	d.calls = append(d.calls, "start "+r.GetName())
	if r.GetName() == "secret" {
		return nil, status.Error(codes.PermissionDenied, "forbidden")
	}
	return &managementv1.StartResponse{}, nil
}

func (d *daemon) Logs(r *managementv1.LogsRequest, s grpc.ServerStreamingServer[managementv1.LogChunk]) error {
	d.logs = r
	for _, c := range []*managementv1.LogChunk{
		{Stream: managementv1.LogChunk_STREAM_STDOUT, Data: []byte("out\n")},
		{Stream: managementv1.LogChunk_STREAM_STDERR, Data: []byte("err\n")},
		{Stream: managementv1.LogChunk_STREAM_STDOUT, Data: []byte("end")},
	} {
		if err := s.Send(c); err != nil {
			return err
		}
	}
	return nil
}

// system streams a bundle in two pieces, or breaks after the first.
type system struct {
	managementv1.UnimplementedSystemServer
	daemon *daemon
}

func (s system) SupportBundle(r *managementv1.SupportBundleRequest, out grpc.ServerStreamingServer[managementv1.BundleChunk]) error {
	s.daemon.bundle = r
	half := len(s.daemon.zip) / 2
	for _, data := range [][]byte{s.daemon.zip[:half], s.daemon.zip[half:]} {
		if err := out.Send(&managementv1.BundleChunk{Data: data}); err != nil {
			return err
		}
		if r.GetUntil() == "1 min" {
			return status.Error(codes.Unavailable, "containerd is away")
		}
	}
	return nil
}

func (s system) Reprovision(context.Context, *managementv1.ReprovisionRequest) (*managementv1.ReprovisionResponse, error) {
	s.daemon.calls = append(s.daemon.calls, "reprovision")
	return &managementv1.ReprovisionResponse{}, nil
}

func TestReprovision(t *testing.T) {
	d, uri := serve(t)
	var out bytes.Buffer
	code := ctl(t, &out, &out, "-H", uri, "system", "reprovision")
	if code != 0 || !slices.Equal(d.calls, []string{"reprovision"}) || !strings.Contains(out.String(), "provisioned anew") {
		t.Errorf("code %d, calls %q:\n%s", code, d.calls, &out)
	}
}

// ctl runs a command without the system's programs.
func ctl(t *testing.T, stdout, stderr io.Writer, args ...string) int {
	t.Helper()
	return run(args, &env{ctx: t.Context(), stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, root: t.TempDir(),
		tool: func(_ context.Context, _, _ io.Writer, name string, _ ...string) error {
			t.Errorf("runs %s", name)
			return nil
		}})
}

func serve(t *testing.T) (*daemon, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{}
	s := grpc.NewServer()
	managementv1.RegisterModulesServer(s, d)
	managementv1.RegisterSystemServer(s, system{daemon: d})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return d, "unix://" + path
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
		calls          []string
	}{
		{"list", []string{"list"}, 0, "NAME      STATUS    DESCRIPTION   CONFIG\nedgeHub   running   Up 3 hours    reg/hub:1\n", "", nil},
		{"restart", []string{"restart", "temp"}, 0, "temp\n", "", []string{"stop temp", "start temp"}},
		{"restart of nobody", []string{"restart", "nobody"}, 1, "", "edgectl: no such module: nobody\n", []string{"stop nobody"}},
		{"restart refused", []string{"restart", "secret"}, 1, "", "edgectl: not permitted: run as root or as a member of group iotedge\n", []string{"stop secret", "start secret"}},
		{"logs", []string{"logs", "temp"}, 0, "out\nend", "err\n", nil},
		{"version", []string{"version"}, 0, "edgectl dev\n", "", nil},
		{"unknown command", []string{"destroy"}, 2, "", "edgectl: unexpected argument destroy\n", nil},
		{"other host", []string{"-H", "http://x", "list"}, 1, "", "edgectl: host \"http://x\": only unix:// URIs are supported\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, uri := serve(t)
			t.Setenv("IOTEDGE_HOST", uri)
			var stdout, stderr bytes.Buffer
			code := ctl(t, &stdout, &stderr, c.args...)
			if code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
			}
			if !slices.Equal(d.calls, c.calls) {
				t.Errorf("calls %q, want %q", d.calls, c.calls)
			}
		})
	}
}

func TestLogsPassesItsFlags(t *testing.T) {
	d, uri := serve(t)
	var out bytes.Buffer
	if code := ctl(t, &out, &out, "-H", uri, "logs", "temp", "-f", "--tail", "5", "--since", "1 day", "--until", "1h"); code != 0 {
		t.Fatalf("code %d: %s", code, &out)
	}
	if r := d.logs; r.GetName() != "temp" || !r.GetFollow() || r.GetTail() != "5" || r.GetSince() != "1 day" || r.GetUntil() != "1h" {
		t.Fatalf("asked %v", d.logs)
	}
}

func TestNoDaemon(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := ctl(t, &stdout, &stderr, "-H", "unix://"+filepath.Join(t.TempDir(), "no.sock"), "list")
	if code != 1 || !strings.Contains(stderr.String(), "the daemon cannot be reached") {
		t.Fatalf("code %d: %s", code, &stderr)
	}
}

func TestDescription(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *string { s := now.Add(-d).Format(time.RFC3339Nano); return &s }
	for _, c := range []struct {
		status  string
		started *string
		exit    *managementv1.ExitStatus
		want    string
	}{
		{"running", ago(3*time.Hour + 20*time.Minute), nil, "Up 3 hours"},
		{"running", ago(-time.Second), nil, "Up 0 seconds"},
		{"running", nil, nil, "Up"},
		{"stopped", nil, nil, "Stopped"},
		{"stopped", nil, &managementv1.ExitStatus{ExitTime: *ago(2 * time.Minute), StatusCode: "0"}, "Stopped 2 minutes ago"},
		{"failed", nil, &managementv1.ExitStatus{ExitTime: *ago(time.Hour), StatusCode: "137"}, "Failed (137) 1 hour ago"},
		{"failed", nil, &managementv1.ExitStatus{ExitTime: *ago(15 * 24 * time.Hour), StatusCode: "1"}, "Failed (1) 2 weeks ago"},
		{"unknown", nil, nil, "Unknown"},
		{"", nil, nil, ""},
	} {
		got := description(&managementv1.ModuleStatus{
			StartTime: c.started, ExitStatus: c.exit, RuntimeStatus: &managementv1.RuntimeStatus{Status: c.status},
		}, now)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.status, got, c.want)
		}
	}
}

func TestCheckReportsAndFails(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte("hostname = 5\n[nonsense]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		out  string // of either stream
	}{
		"bad config":       {[]string{"-c", config}, 1, "× configuration of the device's identity is well-formed - Error\n    line "},
		"JSON":             {[]string{"-c", config, "-o", "json"}, 1, `"result": "fatal"`},
		"all left out":     {[]string{"-c", config, "--dont-run", allChecks()}, 0, fmt.Sprintf("%d check(s) were skipped", len(check.List()))},
		"verbose":          {[]string{"-c", config, "--dont-run", allChecks(), "--verbose"}, 0, "- containerd answers - Ignored"},
		"unknown check":    {[]string{"-c", config, "--dont-run", "nonsense"}, 1, `edgectl: no check "nonsense"`},
		"unknown output":   {[]string{"-c", config, "-o", "yaml"}, 2, "--output must be one of"},
		"strict, no fault": {[]string{"-c", config, "--dont-run", allChecks(), "--warnings-as-errors"}, 0, "skipped"},
	} {
		var out bytes.Buffer
		code := ctl(t, &out, &out, append([]string{"check"}, c.args...)...)
		if code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%s: code %d:\n%s", name, code, &out)
		}
		if c.code == 1 && strings.Contains(out.String(), "checks have failed") {
			t.Errorf("%s: says it twice:\n%s", name, &out)
		}
	}
	var out bytes.Buffer
	if code := ctl(t, &out, &out, "check-list"); code != 0 || strings.Count(out.String(), "\n") != len(check.List())+3 {
		t.Errorf("check-list: code %d:\n%s", code, &out)
	}
}

func allChecks() string {
	var ids []string
	for _, c := range check.List() {
		ids = append(ids, c.ID)
	}
	return strings.Join(ids, ",")
}
