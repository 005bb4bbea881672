package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
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

// RemoveByHand removes a container, running or not, and its image with the engine's own tool,
// behind the daemon's back. The content of the image is gone then, too, so that only a
// registry can bring it back.
func RemoveByHand(ctx context.Context, container, image string) error {
	listed, err := ctr(ctx, "images", "ls", "name=="+image)
	if err != nil {
		return err
	}
	fields := strings.Fields(tail(listed, 1))
	if len(fields) < 3 || fields[0] != image {
		return fmt.Errorf("image %s is not on the device: %s", image, listed)
	}
	digest := fields[2]
	return poll(ctx, 200*time.Millisecond, "remove "+container+" and its image", func() (bool, error) {
		// The daemon may be faster, and start the container again before it can be removed.
		// Next time it waits: it does not start the agent twice within seconds.
		_, err1 := ctr(ctx, "tasks", "rm", "--force", container)
		_, err2 := ctr(ctx, "containers", "rm", container)
		_, err3 := ctr(ctx, "images", "rm", "--sync", image)
		there, err4 := Containers(ctx)
		content, err5 := ctr(ctx, "content", "ls", "-q")
		gone := !slices.Contains(there, container) && !slices.Contains(strings.Fields(content), digest)
		return gone && err4 == nil && err5 == nil, errors.Join(err1, err2, err3, err4, err5)
	})
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
