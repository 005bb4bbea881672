//go:build compose

// Package compose tests docker-compose.yml with a real engine: deploy/with-docker.sh
// starts one for it.
package compose

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// world is the project of docker-compose.yml under a name of its own.
type world struct {
	t       *testing.T
	root    string
	command []string // docker compose, in whichever form this machine has it
}

func (w world) compose(ctx context.Context, args ...string) (string, error) {
	args = append(append(w.command[1:len(w.command):len(w.command)], "-p", "breakwater-test"), args...)
	cmd := exec.CommandContext(ctx, w.command[0], args...)
	cmd.Dir = w.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), nil
}

func (w world) must(ctx context.Context, args ...string) string {
	w.t.Helper()
	out, err := w.compose(ctx, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// eventually calls try until it succeeds or limit is over.
func (w world) eventually(ctx context.Context, what string, limit time.Duration, try func(context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			logs, _ := w.compose(context.WithoutCancel(ctx), "logs", "--no-color", "--tail", "40")
			w.t.Fatalf("%s: not within %v: %v\n%s", what, limit, err, logs)
		case <-time.After(time.Second):
		}
	}
}

// running tells whether all modules of the manifest run.
func (w world) running(ctx context.Context) error {
	list, err := w.compose(ctx, "exec", "-T", "device", "edgectl", "list")
	if err != nil {
		return err
	}
	for _, module := range []string{"edgeAgent", "edgeHub", "filter", "temperature-sensor"} {
		found := false
		for line := range strings.Lines(list) {
			f := strings.Fields(line)
			found = found || len(f) > 1 && f[0] == module && f[1] == "running"
		}
		if !found {
			return fmt.Errorf("%s does not run:\n%s", module, list)
		}
	}
	return nil
}

// monitor follows the cloud's telemetry until the test ends and counts what comes
// from the filter module.
func (w world) monitor(ctx context.Context) *atomic.Int64 {
	w.t.Helper()
	var n atomic.Int64
	args := append(w.command[1:len(w.command):len(w.command)], "-p", "breakwater-test",
		"exec", "-T", "iothub", "/iothub", "monitor", "--data", "/data", "--since", "beginning", "--output", "json")
	ctx, stop := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, w.command[0], args...)
	cmd.Dir, cmd.WaitDelay = w.root, time.Second
	lines, out := io.Pipe()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(func() {
		_ = cmd.Wait() // it follows until it is killed
		out.Close()
	})
	both.Go(func() {
		for s := bufio.NewScanner(lines); s.Scan(); {
			if strings.Contains(s.Text(), `"module":"filter"`) {
				n.Add(1)
			}
		}
	})
	w.t.Cleanup(func() {
		stop()
		both.Wait()
	})
	return &n
}

func TestComposeFileRunsACloudAndADevice(t *testing.T) {
	if os.Getenv("DOCKER_HOST") == "" {
		t.Fatal("DOCKER_HOST is not set: run this by make compose-test")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	w := world{t: t, root: root, command: []string{"docker", "compose"}}
	if exec.CommandContext(ctx, "docker", "compose", "version").Run() != nil {
		w.command = []string{"docker-compose"}
	}

	archive := filepath.Join(t.TempDir(), "images.tar")
	for _, c := range [][]string{{filepath.Join(root, "bin", "images"), "archive", archive}, {"docker", "load", "-q", "-i", archive}} {
		cmd := exec.CommandContext(ctx, c[0], c[1:]...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(c, " "), err, out)
		}
	}
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if _, err := w.compose(end, "down", "-v"); err != nil {
			t.Errorf("taking it down: %v", err)
		}
	})
	w.must(ctx, "up", "-d")
	w.eventually(ctx, "modules run", 90*time.Second, w.running)
	n := w.monitor(ctx)
	more := func(than int64) func(context.Context) error {
		return func(context.Context) error {
			if now := n.Load(); now <= than {
				return fmt.Errorf("%d messages of the filter module in the cloud", now)
			}
			return nil
		}
	}
	w.eventually(ctx, "messages arrive", time.Minute, more(0))
	w.must(ctx, "restart", "device")
	w.eventually(ctx, "modules run after a restart of the device", 90*time.Second, w.running)
	w.eventually(ctx, "messages arrive after it", time.Minute, more(n.Load()))
}
