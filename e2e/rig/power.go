package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const containerdRun = "/run/containerd"

// PowerCut ends the device at once: daemon, engine, shims and modules. What a machine
// keeps in memory is gone after it: mounts, control groups, the network and what was in
// /run. The disk stays. The registry, which runs on the device, does not come back. The
// rig must have started containerd itself.
func (r *Rig) PowerCut(ctx context.Context) error {
	if r.containerd == nil {
		return errors.New("power cut: containerd is the machine's own")
	}
	r.say("cutting the device's power")
	for _, p := range []*Process{r.edged, r.containerd} {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		<-p.Done()
	}
	if err := r.killDevice(ctx); err != nil {
		return fmt.Errorf("power cut: %w", err)
	}
	if err := r.forgetMounts(); err != nil {
		return fmt.Errorf("power cut: %w", err)
	}
	if err := removeCgroups(); err != nil {
		return fmt.Errorf("power cut: %w", err)
	}
	for _, dir := range []string{filepath.Join(r.Dir, "containerd", "state"), containerdRun} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("power cut: %w", err)
		}
	}
	return r.ReplaceDevice(ctx)
}

// ReplaceDevice takes the device's network away, with the processes and the registry in
// it, and makes a new one with nothing in it, as it is when a machine boots.
func (r *Rig) ReplaceDevice(ctx context.Context) error {
	if err := r.registry.Close(); err != nil {
		return fmt.Errorf("network of the device: %w", err)
	}
	return replaceDevice(ctx)
}

// PowerOn starts the engine and the daemon again.
func (r *Rig) PowerOn(ctx context.Context) error {
	if err := r.useContainerd(ctx); err != nil {
		return err
	}
	return r.StartDevice()
}

// DeviceProcesses are those of the modules, their shims and what writes their logs, and edged.
func (r *Rig) DeviceProcesses() ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		cmdline, err1 := os.ReadFile(file)
		groups, err2 := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if err1 != nil || err2 != nil {
			continue // it has ended meanwhile
		}
		args := strings.Split(string(cmdline), "\x00")
		shim := strings.Contains(args[0], "containerd-shim") && slices.Contains(args, containerdNamespace)
		if !shim && !strings.Contains(string(groups), ":/"+containerdNamespace+"/") && !strings.Contains(string(cmdline), r.deviceDir()+"/") {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(file)), &pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (r *Rig) killDevice(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return poll(wait, 50*time.Millisecond, "wait for the device's processes to end", func() (bool, error) {
		pids, err := r.DeviceProcesses()
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, final{err}
			}
		}
		return false, fmt.Errorf("processes %v run", pids)
	})
}

// forgetMounts takes away what the engine and the daemon have mounted.
func (r *Rig) forgetMounts() error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], r.Dir+"/") && !strings.HasPrefix(fields[1], containerdRun+"/") {
			continue
		}
		if err := unix.Unmount(fields[1], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", fields[1], err)
		}
	}
	return nil
}

func removeCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + containerdNamespace)
	if err != nil {
		return err
	}
	var groups []string
	for _, root := range append(roots, "/sys/fs/cgroup/"+containerdNamespace) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	slices.Reverse(groups) // what is inside first
	for _, g := range groups {
		if err := os.Remove(g); err != nil {
			return err
		}
	}
	return nil
}
