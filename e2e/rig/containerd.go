package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	containerdSocket    = "/run/containerd/containerd.sock"
	containerdNamespace = "breakwater"
)

// useContainerd uses the containerd of the machine, or starts one whose state lives
// in the rig's folder.
func (r *Rig) useContainerd(ctx context.Context) error {
	if answers(containerdSocket) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(containerdSocket), 0o711); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	r.say("starting containerd, since none runs")
	p, err := r.start(spec{name: "containerd", path: "containerd", args: []string{
		"--address", containerdSocket,
		"--root", filepath.Join(r.Dir, "containerd", "root"),
		"--state", filepath.Join(r.Dir, "containerd", "state"),
	}})
	if err != nil {
		return err
	}
	r.containerd = p
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return poll(wait, 100*time.Millisecond, "wait for containerd", func() (bool, error) {
		if p.Ended() {
			return false, final{fmt.Errorf("containerd ended: %w; see %s", p.err, r.logPath("containerd"))}
		}
		_, err := run(wait, "ctr", "version")
		return err == nil, err
	})
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "ctr", append([]string{"--namespace", containerdNamespace}, args...)...)
}

// Task is a running container.
type Task struct {
	Name string
	PID  int
}

// Tasks lists the running containers.
func Tasks(ctx context.Context) ([]Task, error) {
	out, err := ctr(ctx, "tasks", "ls")
	if err != nil {
		return nil, err
	}
	var tasks []Task
	for _, line := range strings.Split(out, "\n") {
		var t Task
		var status string
		if n, _ := fmt.Sscan(line, &t.Name, &t.PID, &status); n == 3 && status == "RUNNING" {
			tasks = append(tasks, t)
		}
	}
	return tasks, nil
}

// Containers lists the containers, running or not.
func Containers(ctx context.Context) ([]string, error) {
	out, err := ctr(ctx, "containers", "ls", "-q")
	return strings.Fields(out), err
}

// removeContainers removes all that the rig's device has put into containerd.
func removeContainers(ctx context.Context) error {
	if !answers(containerdSocket) {
		return nil
	}
	var errs []error
	each := func(list []string, rm ...string) {
		names, err := ctr(ctx, list...)
		if err != nil {
			errs = append(errs, err)
			return
		}
		for _, n := range strings.Fields(names) {
			if _, err := ctr(ctx, append(rm, n)...); err != nil {
				errs = append(errs, err)
			}
		}
	}
	each([]string{"tasks", "ls", "-q"}, "tasks", "rm", "--force")
	each([]string{"containers", "ls", "-q"}, "containers", "rm")
	each([]string{"images", "ls", "-q"}, "images", "rm", "--sync")
	each([]string{"leases", "ls", "-q"}, "leases", "rm", "--sync")
	// Children go before their parents, so what fails at first may work later.
	for range 10 {
		out, err := ctr(ctx, "snapshots", "ls")
		if err != nil {
			errs = append(errs, err)
			break
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")[1:]
		if len(lines) == 0 {
			break
		}
		for _, l := range lines {
			_, _ = ctr(ctx, "snapshots", "rm", strings.Fields(l)[0])
		}
	}
	each([]string{"content", "ls", "-q"}, "content", "rm")
	if out, err := run(ctx, "ctr", "namespaces", "ls", "-q"); err == nil && strings.Contains(out, containerdNamespace) {
		if _, err := run(ctx, "ctr", "namespaces", "rm", containerdNamespace); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
