package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// cgroups are a process's groups by hierarchy, as in /proc/<pid>/cgroup.
type cgroups map[string]string

func readCgroups(pid int) (cgroups, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("cgroups of process %d: %w", pid, err)
	}
	return parseCgroups(string(data)), nil
}

// parseCgroups reads lines "id:controllers:path".
func parseCgroups(text string) cgroups {
	out := make(cgroups)
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			out[parts[0]+":"+parts[1]] = parts[2]
		}
	}
	return out
}

// within reports whether a process with the groups c belongs to the container
// whose first process has the groups init: in every hierarchy where the container
// has a group of its own, ending in own, c must be in it or below. There must be
// at least one.
func (c cgroups) within(init cgroups, own string) bool {
	found := false
	for hierarchy, path := range init {
		if !strings.HasSuffix(path, own) {
			continue
		}
		got, ok := c[hierarchy]
		if !ok || got != path && !strings.HasPrefix(got, path+"/") {
			return false
		}
		found = true
	}
	return found
}

// at reports whether a process with the groups c is in own, or below, in a hierarchy.
func (c cgroups) at(own string) bool {
	for _, path := range c {
		if path == own || strings.HasPrefix(path, own+"/") {
			return true
		}
	}
	return false
}

// startTicks returns when a process started, in ticks since boot. A process that
// has ended but was not waited for counts as gone.
func startTicks(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStartTicks(data)
}

func parseStartTicks(stat []byte) (uint64, error) {
	// The second field is the command in brackets and may hold anything.
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("process status has no command")
	}
	fields := strings.Fields(string(stat[end+1:])) // from field 3 on
	if len(fields) < 20 {
		return 0, errors.New("process status is too short")
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrNotExist
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// ModuleOfPid implements runtime.Observer.
func (r *Runtime) ModuleOfPid(ctx context.Context, pid int) (runtime.Process, error) {
	if err := ctx.Err(); err != nil {
		return runtime.Process{}, err
	}
	none := func(why error) (runtime.Process, error) {
		return runtime.Process{}, fmt.Errorf("%w: process %d: %w", runtime.ErrNotFound, pid, why)
	}
	if pid <= 0 {
		return none(os.ErrInvalid)
	}
	before, err := startTicks(pid)
	if err != nil {
		return none(err)
	}
	groups, err := readCgroups(pid)
	if err != nil {
		return none(err)
	}
	owner := r.owner(groups)
	after, err := startTicks(pid)
	if err != nil {
		return none(err)
	}
	switch {
	case before != after:
		return none(errors.New("its number was reused"))
	case owner == nil:
		return none(errors.New("it is in no module's group"))
	}
	return runtime.Process{
		Pid: pid, StartTicks: before, Module: owner.name,
		Instance: owner.module.Instance, Labels: owner.module.Labels,
	}, nil
}

// cgroupOf is the path that ends in a module's control group; ocimap chooses it.
func (r *Runtime) cgroupOf(name string) string { return "/" + r.cfg.Namespace + "/" + name }

func (r *Runtime) owner(groups cgroups) *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, run := range r.running {
		if groups.within(run.cgroups, r.cgroupOf(name)) {
			return run
		}
	}
	return nil
}
