package containerd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	// takeoverTimeout bounds the wait for a shim that does not tell of its module yet.
	takeoverTimeout = 20 * time.Second
	// lookInterval is the time between two looks at what is about to change.
	lookInterval = 200 * time.Millisecond
)

// adopt takes over what an earlier daemon left: watches what runs, records what
// ended meanwhile, and frees what is not used any more.
func (r *Runtime) adopt(ctx context.Context) error {
	all, err := r.loadAll(ctx)
	if err != nil {
		return err
	}
	var stopped []string
	var adopted []*run
	for _, s := range all {
		run, err := r.adoptOne(ctx, s)
		if err != nil {
			return fmt.Errorf("take over module %s: %w", s.name, err)
		}
		if run == nil {
			stopped = append(stopped, s.name)
			continue
		}
		adopted = append(adopted, run)
	}
	if err := r.net.Reclaim(ctx, func(id string) bool { return r.find(id) != nil }, stopped); err != nil {
		r.log.Warn("reclaim addresses and ports", "error", err)
	}
	known := func(id string) bool { return slices.ContainsFunc(all, func(s stored) bool { return s.name == id }) }
	if err := r.net.Release(func(id string) bool { return !known(id) }); err != nil {
		r.log.Warn("release addresses", "error", err)
	}
	if err := r.hosts.Sync(); err != nil {
		return fmt.Errorf("name files: %w", err)
	}
	for _, run := range adopted {
		r.watch(run)
	}
	return r.stopCutOff(ctx, adopted)
}

// stopCutOff stops modules that have lost their place in the module network, which has been
// made anew without them: nothing can give them one but a start.
func (r *Runtime) stopCutOff(ctx context.Context, adopted []*run) error {
	var stopping sync.WaitGroup
	defer stopping.Wait()
	for _, run := range adopted {
		if run.module.Record.Network.Mode != ocimap.NetworkBridge {
			continue
		}
		if joined, err := r.net.Joined(run.name); err != nil || joined {
			if err != nil {
				return err
			}
			continue
		}
		r.log.Info("the module network was made anew: stopping a module of the former one", "module", run.name)
		stopping.Go(func() {
			if err := r.Stop(ctx, run.name, runtime.DefaultStopTimeout); err != nil {
				r.log.Error("stop a module without a network", "module", run.name, "error", err)
			}
		})
	}
	return nil
}

// adoptOne returns the run of a module that still runs, else nil.
func (r *Runtime) adoptOne(ctx context.Context, s stored) (*run, error) {
	c, err := r.client.LoadContainer(ctx, s.name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, translate(err)
	}
	code, at := lostExitCode, time.Now().UTC()
	task, status, err := knownTask(ctx, func(ctx context.Context) (client.Task, error) { return c.Task(ctx, nil) })
	switch {
	case errdefs.IsNotFound(err):
		if s.last.Running {
			if err := killStrays(ctx, func(g cgroups) bool { return g.at(r.cgroupOf(s.name)) }); err != nil {
				r.log.Error("end a module without a shim", "module", s.name, "error", err)
			}
		}
	case err != nil:
		return nil, translate(err)
	default:
		if s.last.Running && isRunning(status.Status) {
			ended, ok := awaitDead(ctx, task)
			if !ok {
				return r.takeOver(s, c, task), nil
			}
			status = ended
		}
		if status.Status == client.Stopped {
			code, at = int(status.ExitStatus), status.ExitTime.UTC()
		}
		if err := r.discardTask(ctx, c); err != nil {
			return nil, err
		}
	}
	if s.last.Running {
		return nil, r.saveRun(ctx, c, s.last.ended(at, code))
	}
	return nil, nil
}

func isRunning(s client.ProcessStatus) bool {
	return s == client.Running || s == client.Paused || s == client.Pausing
}

// takeOver makes a module of an earlier daemon one of this daemon's.
func (r *Runtime) takeOver(s stored, c client.Container, task client.Task) *run {
	groups, err := readCgroups(int(task.Pid()))
	if err != nil {
		// Its first process has just gone. Without groups no process is its own any
		// more, and the watch records the end.
		groups = nil
	}
	run := &run{stored: s, container: c, task: task, cgroups: groups, done: make(chan struct{})}
	r.hosts.Adopt(s.name, s.module.Record.Hosts, network.Pair{V4: s.last.Address, V6: s.last.Address6})
	r.mu.Lock()
	r.running[s.name] = run
	r.mu.Unlock()
	return run
}

// knownTask loads a task and its state. While the shim cannot tell the state, since it
// is busy or about to end, it asks again, for at most takeoverTimeout.
func knownTask(ctx context.Context, load func(context.Context) (client.Task, error)) (client.Task, client.Status, error) {
	timeout := time.NewTimer(takeoverTimeout)
	defer timeout.Stop()
	again := time.NewTicker(lookInterval)
	defer again.Stop()
	for {
		var status client.Status
		task, err := load(ctx)
		if err == nil {
			status, err = task.Status(ctx)
		}
		unclear := err == nil && status.Status == client.Unknown ||
			errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err)
		if !unclear {
			return task, status, err
		}
		select {
		case <-again.C:
		case <-timeout.C:
			return task, status, err
		case <-ctx.Done():
			return nil, client.Status{}, ctx.Err()
		}
	}
}

// awaitDead returns how a task ended whose first process is gone though its shim still
// calls it running: between the end of a process and the shim's word of it some time
// goes by, in which the shim may run a whole program. ok is false if the process lives,
// and if the shim says nothing within takeoverTimeout.
func awaitDead(ctx context.Context, task client.Task) (status client.Status, ok bool) {
	if _, err := startTicks(int(task.Pid())); err == nil {
		return client.Status{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverTimeout)
	defer cancel()
	exit, err := task.Wait(ctx)
	if err != nil {
		return client.Status{}, false
	}
	ended := <-exit
	if err := fromGRPC(ended.Error()); err != nil {
		// A task that is gone has been deleted with its exit code.
		return client.Status{}, errdefs.IsNotFound(err)
	}
	return client.Status{Status: client.Stopped, ExitStatus: ended.ExitCode(), ExitTime: ended.ExitTime()}, true
}
