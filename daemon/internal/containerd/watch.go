package containerd

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
			if err = fromGRPC(status.Error()); err == nil {
				return int(status.ExitCode()), status.ExitTime().UTC(), true
			}
		}
		if ctx.Err() != nil {
			return 0, time.Time{}, false
		}
		if errdefs.IsNotFound(err) { // with its shim; what the shim looked after may live on
			if err := killStrays(ctx, func(c cgroups) bool { return c.within(run.cgroups, r.cgroupOf(run.name)) }); err != nil {
				r.log.Error("end a module without a shim", "module", run.name, "error", err)
			}
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
	errs := []error{r.saveRun(ctx, run.container, run.last.ended(at, code)), r.net.Detach(ctx, run.name), r.hosts.Down(run.name)}
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
