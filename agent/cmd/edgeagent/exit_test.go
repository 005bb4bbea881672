package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// programEnv makes the test binary be the program.
const programEnv = "BREAKWATER_TEST_EDGEAGENT"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is the program as a process. Its hub does not exist.
func program(t *testing.T, environ ...string) (cmd *exec.Cmd, log *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd, log = exec.CommandContext(ctx, os.Args[0]), &bytes.Buffer{}
	cmd.Env = append([]string{programEnv + "=1"}, environ...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, log
}

// status waits for the end of the program.
func status(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// untilWatched waits until the program has begun to watch the modules.
func untilWatched(t *testing.T, s *edgedtest.Server) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for s.Daemon.Watchers() == 0 {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the program does not watch its modules")
		}
	}
}

func device(uri, folder string) []string {
	return []string{
		"IOTEDGE_MODULEID=$edgeAgent", "IOTEDGE_MODULEGENERATIONID=g", "IOTEDGE_IOTHUBHOSTNAME=hub.invalid", "IOTEDGE_DEVICEID=dev",
		"IOTEDGE_WORKLOADURI=" + uri, "IOTEDGE_MANAGEMENTURI=" + uri, "StorageFolder=" + folder, "MetricsEnabled=false",
	}
}

func TestAskedToEndItLeavesTheModulesAloneAndEndsWith0(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		server := edgedtest.Serve(t, edgedtest.New("agent:1"))
		server.Daemon.Set(plan.Engine{Name: "m", Image: "m:1", State: plan.Running, Started: time.Now()})
		cmd, log := program(t, device(server.URI, t.TempDir())...)
		untilWatched(t, server)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := status(t, cmd); code != 0 || server.Daemon.State("m") != plan.Running || server.Daemon.State("edgeAgent") != plan.Running {
			t.Errorf("%v: status %d, m is %s:\n%s", sig, code, server.Daemon.State("m"), log)
		}
	}
}

func TestWithoutTheDaemonItEndsWith1AndTouchesNothing(t *testing.T) {
	server := edgedtest.Serve(t, edgedtest.New("agent:1"))
	server.Daemon.Set(plan.Engine{Name: "m", Image: "m:1", State: plan.Running, Started: time.Now()})
	cmd, log := program(t, device(server.URI, t.TempDir())...)
	untilWatched(t, server)
	server.Stop()
	if code := status(t, cmd); code != 1 || server.Daemon.State("m") != plan.Running || !strings.Contains(log.String(), "refuses connections") {
		t.Errorf("status %d, m is %s:\n%s", code, server.Daemon.State("m"), log)
	}
}

func TestWrongEnvironmentEndsItWith1(t *testing.T) {
	for _, environ := range [][]string{nil, append(device("unix:///nowhere", t.TempDir()), "Mode=kubernetes")} {
		cmd, log := program(t, environ...)
		if code := status(t, cmd); code != 1 || !strings.HasPrefix(log.String(), "edgeagent: ") {
			t.Errorf("status %d: %s", code, log)
		}
	}
}
