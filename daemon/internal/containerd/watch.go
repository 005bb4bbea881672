package containerd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func fromGRPC(err error) error { return errgrpc.ToNative(err) }

// watch waits for the module's end in a goroutine that Close ends.
func (r *Runtime) watch(run *run) {
	r.watchers.Go(func() {
		code, at, ok := r.await(run)
		if ok {
			r.settle(run, code, at)
		}
	})
	r.probe(run)
}

// await returns the exit code and time; ok is false when the runtime is closing.
// While containerd is away it asks again every second.
func (r *Runtime) await(run *run) (code int, at time.Time, ok bool) {
	ctx := r.ctx(r.life)
	for {
		exit, err := run.task.Wait(ctx)
		if err == nil {
			status := <-exit
			if err = status.Error(); err == nil {
				return int(status.ExitCode()), status.ExitTime().UTC(), true
			}
		}
		if ctx.Err() != nil {
			return 0, time.Time{}, false
		}
		if errdefs.IsNotFound(err) {
			return lostExitCode, time.Now().UTC(), true
		}
		r.log.Warn("wait for module", "module", run.name, "error", err)
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, time.Time{}, false
		case <-timer.C:
		}
	}
}

// settle records a module's end and frees what it used. It goes through once
// begun, even when the runtime is closing.
func (r *Runtime) settle(run *run, code int, at time.Time) {
	ctx, cancel := context.WithTimeout(r.ctx(context.WithoutCancel(r.life)), settleTimeout)
	defer cancel()
	last := run.last
	last.Running, last.Address, last.Exited, last.ExitCode = false, netip.Addr{}, at, code
	errs := []error{r.saveRun(ctx, run.container, last), r.net.Detach(ctx, run.name), r.hosts.Down(run.name)}
	// This also waits for the log writer, so followers get everything.
	if _, err := run.task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete task: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Error("clean up after module", "module", run.name, "error", err)
	}
	r.mu.Lock()
	if r.running[run.name] == run {
		delete(r.running, run.name)
	}
	r.mu.Unlock()
	close(run.done)
	r.events.publish(runtime.Event{Type: runtime.EventExited, Module: run.name, Time: at, ExitCode: code})
}

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
	if err := r.hosts.Sync(); err != nil {
		return fmt.Errorf("name files: %w", err)
	}
	for _, run := range adopted {
		r.watch(run)
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
	task, err := c.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return nil, translate(err)
	default:
		status, err := task.Status(ctx)
		if err != nil {
			return nil, translate(err)
		}
		if s.last.Running && (status.Status == client.Running || status.Status == client.Paused || status.Status == client.Pausing) {
			if groups, err := readCgroups(int(task.Pid())); err == nil {
				run := &run{stored: s, container: c, task: task, cgroups: groups, done: make(chan struct{})}
				r.hosts.Adopt(s.name, s.module.Record.Hosts, s.last.Address)
				r.mu.Lock()
				r.running[s.name] = run
				r.mu.Unlock()
				return run, nil
			}
			// It ended between the two looks; its code is lost with it.
		}
		if status.Status == client.Stopped {
			code, at = int(status.ExitStatus), status.ExitTime.UTC()
		}
		if err := r.discardTask(ctx, c); err != nil {
			return nil, err
		}
	}
	if s.last.Running {
		last := s.last
		last.Running, last.Address, last.Exited, last.ExitCode = false, netip.Addr{}, at, code
		return nil, r.saveRun(ctx, c, last)
	}
	return nil, nil
}

// Logs implements runtime.Observer.
func (r *Runtime) Logs(ctx context.Context, name string, opts runtime.LogOptions) iter.Seq2[runtime.LogEntry, error] {
	return func(yield func(runtime.LogEntry, error) bool) {
		if _, _, err := r.load(r.ctx(ctx), name); err != nil {
			yield(runtime.LogEntry{}, err)
			return
		}
		ended := make(chan struct{})
		var done <-chan struct{} = ended
		if run := r.find(name); run != nil {
			done = run.done
		} else {
			close(ended)
		}
		for e, err := range modlog.Read(ctx, r.logDir(name), opts, done) {
			if !yield(e, err) {
				return
			}
		}
	}
}
