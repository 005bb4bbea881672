package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

// A shim that is killed leaves its module to containerd, which calls the shim's
// program once to clean up, for at most five seconds, and does not come back to it: on
// a busy machine processes of the module live on, and its bundle, the folder of a
// running container, is in the way of the next start. Then both are up to the daemon.

const (
	// bundleGrace is how long containerd may take to clean up by itself.
	bundleGrace = 6 * time.Second
	// strayTimeout bounds the killing of processes that a dead shim has left.
	strayTimeout = 10 * time.Second
	// shimBinaryFile is where containerd (1.6 or later) writes which shim a bundle has.
	shimBinaryFile = "shim-binary-path"
)

// newTask makes the task of a container, and room for it where a dead shim left none.
func (r *Runtime) newTask(ctx context.Context, c client.Container, s stored) (client.Task, error) {
	grace := time.NewTimer(bundleGrace)
	defer grace.Stop()
	again := time.NewTicker(lookInterval)
	defer again.Stop()
	for swept := false; ; {
		task, err := c.NewTask(ctx, r.output(s.name, s.module.Record))
		bundle := staleBundle(err, r.cfg.Namespace, s.name)
		if bundle == "" || swept {
			return task, translate(err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-grace.C:
			r.log.WarnContext(ctx, "clean up after a shim that has died", "module", s.name, "bundle", bundle)
			if err := r.sweep(ctx, s.name, bundle); err != nil {
				return nil, fmt.Errorf("clean up after a shim that has died: %w", err)
			}
			swept = true
		}
	}
}

var takenBundle = regexp.MustCompile(`mkdir (/[^:]+/io\.containerd\.runtime\.v2\.task/[^:]+): file exists`)

// staleBundle returns the folder that a failed NewTask has found in its way, "" if it
// failed of something else. Only the error says where containerd keeps its state.
func staleBundle(err error, namespace, name string) string {
	if err == nil {
		return ""
	}
	m := takenBundle.FindStringSubmatch(err.Error())
	if m == nil || filepath.Clean(m[1]) != m[1] ||
		!strings.HasSuffix(m[1], "/io.containerd.runtime.v2.task/"+namespace+"/"+name) {
		return ""
	}
	return m[1]
}

// sweep does what containerd does after a shim's death: it lets the shim's program
// remove the container, and removes the bundle.
func (r *Runtime) sweep(ctx context.Context, name, bundle string) error {
	if err := killStrays(ctx, func(c cgroups) bool { return c.at(r.cgroupOf(name)) }); err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(bundle, shimBinaryFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if path := strings.TrimSpace(string(program)); path != "" { // else it never got as far as a container
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, "-namespace", r.cfg.Namespace, "-address", r.cfg.Address,
			"-id", name, "-bundle", bundle, "delete")
		cmd.Dir = bundle
		if out, err := cmd.CombinedOutput(); err != nil {
			// What matters is whether the bundle goes; a container that is left says so
			// at the next start.
			r.log.WarnContext(ctx, "shim's clean-up", "module", name, "error", err, "output", strings.ToValidUTF8(string(out), "?"))
		}
	}
	return removeBundle(bundle)
}

// removeBundle removes a bundle but nothing of what may still be mounted in it.
func removeBundle(bundle string) error {
	root := filepath.Join(bundle, "rootfs")
	for range 64 { // one mount may lie on another
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			break // no mount any more, or Remove says what is the matter
		}
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("bundle: %w", err)
	}
	work, err := os.Readlink(filepath.Join(bundle, "work"))
	if err != nil {
		work = ""
	}
	hidden := filepath.Join(filepath.Dir(bundle), "."+filepath.Base(bundle))
	if err := os.RemoveAll(hidden); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if err := os.Rename(bundle, hidden); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	errs := []error{os.RemoveAll(hidden)}
	if filepath.Base(work) == filepath.Base(bundle) {
		errs = append(errs, os.RemoveAll(work))
	}
	return errors.Join(errs...)
}

// killStrays kills all processes whose groups are meant, until there are none.
func killStrays(ctx context.Context, meant func(cgroups) bool) error {
	ctx, cancel := context.WithTimeout(ctx, strayTimeout)
	defer cancel()
	again := time.NewTicker(lookInterval)
	defer again.Stop()
	for {
		left, err := killOnce(meant)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%d processes of the module do not end: %w", left, ctx.Err())
		}
	}
}

// killOnce returns how many processes it found.
func killOnce(meant func(cgroups) bool) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	found := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		killed, err := killIf(pid, meant)
		if err != nil {
			return found, err
		}
		if killed {
			found++
		}
	}
	return found, nil
}

// killIf kills a process if its groups are meant. The look at the groups comes after
// the process is held, so the number cannot have passed to another one.
func killIf(pid int, meant func(cgroups) bool) (killed bool, err error) {
	held, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil //nolint:nilerr // it has gone, or is no process but a thread
	}
	defer func() { err = errors.Join(err, unix.Close(held)) }()
	groups, err := readCgroups(pid)
	if err != nil || !meant(groups) {
		return false, nil //nolint:nilerr // as above
	}
	if _, err := startTicks(pid); err != nil {
		return false, nil //nolint:nilerr // it has ended and nobody has fetched its code
	}
	if err := unix.PidfdSendSignal(held, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("kill process %d: %w", pid, err)
	}
	return true, nil
}
