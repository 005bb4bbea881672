package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// run is a module that runs. done is closed when its end has been recorded and
// everything it used is free again. The other fields do not change.
type run struct {
	stored
	container client.Container
	task      client.Task
	cgroups   cgroups
	done      chan struct{}
}

const (
	// settleTimeout bounds the work after a module's end.
	settleTimeout = time.Minute
	// killGrace is how long a module may take to be gone after its engine failed to
	// deliver a signal.
	killGrace = 5 * time.Second
)

func (r *Runtime) find(name string) *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[name]
}

// Start implements runtime.Modules.
func (r *Runtime) Start(ctx context.Context, name string) error {
	ctx = r.ctx(ctx)
	unlock, err := r.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	c, s, err := r.load(ctx, name)
	if err != nil {
		return err
	}
	if run := r.find(name); run != nil {
		if status, err := run.task.Status(ctx); err == nil && status.Status != client.Stopped {
			return nil
		}
		select { // it has just ended
		case <-run.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c, s, err = r.load(ctx, name); err != nil {
			return err
		}
	}
	if err := r.start(ctx, c, s); err != nil {
		return fmt.Errorf("start module %s: %w", name, err)
	}
	return nil
}

func (r *Runtime) start(ctx context.Context, c client.Container, s stored) error {
	if err := r.admitStored(ctx, s.module); err != nil {
		return err
	}
	record := s.module.Record
	for _, dir := range record.Directories {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("bind source: %w", err)
			}
		}
	}
	for _, v := range record.Volumes {
		if err := os.MkdirAll(v.Path, 0o755); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
	}
	if err := r.hosts.Prepare(s.name, record.Hosts); err != nil {
		return fmt.Errorf("name files: %w", err)
	}
	if err := r.discardTask(ctx, c); err != nil {
		return err
	}
	if record.Network.Mode == ocimap.NetworkHost {
		if err := c.Update(ctx, withOwnNetwork); err != nil {
			return fmt.Errorf("host network: %w", translate(err))
		}
	}
	task, err := r.newTask(ctx, c, s)
	if err != nil {
		return err
	}
	run := &run{stored: s, container: c, task: task, done: make(chan struct{})}
	if err := r.launch(ctx, run); err != nil {
		return errors.Join(err, r.abort(run))
	}
	// Before the watch, which may publish the end at once.
	r.events.publish(runtime.Event{Type: runtime.EventStarted, Module: s.name, Time: run.last.Started})
	r.watch(run)
	return nil
}

// withOwnNetwork puts a container with host network into the network namespace of
// this process. That is the engine's as a rule, but the daemon may have been
// started in another one, and then that is the host to its modules.
func withOwnNetwork(_ context.Context, _ *client.Client, c *containers.Container) error {
	var spec specs.Spec
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return fmt.Errorf("stored spec: %w", err)
	}
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{
		Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", os.Getpid()),
	})
	var err error
	c.Spec, err = typeurl.MarshalAny(&spec)
	return err
}

// launch connects the created task and lets it go.
func (r *Runtime) launch(ctx context.Context, run *run) error {
	pid := int(run.task.Pid())
	var err error
	if run.cgroups, err = readCgroups(pid); err != nil {
		return err
	}
	var addrs network.Pair
	if n := run.module.Record.Network; n.Mode == ocimap.NetworkBridge {
		addrs, err = r.net.Attach(ctx, network.Attachment{
			ID: run.name, NetNS: filepath.Join("/proc", strconv.Itoa(pid), "ns/net"),
			Wish: network.Pair{V4: n.Address, V6: n.Address6}, MAC: n.MAC, Ports: n.Ports,
		})
		if err != nil {
			return err
		}
		if err := r.hosts.Up(run.name, addrs); err != nil {
			return fmt.Errorf("name files: %w", err)
		}
	}
	run.last.Running, run.last.Started, run.last.Address, run.last.Address6 = true, time.Now().UTC(), addrs.V4, addrs.V6
	if err := r.saveRun(ctx, run.container, run.last); err != nil {
		return err
	}
	// Known before it runs: its first request may come at once.
	r.mu.Lock()
	r.running[run.name] = run
	r.mu.Unlock()
	if err := run.task.Start(ctx); err != nil {
		return translate(err)
	}
	return nil
}

// abort undoes a start that went wrong.
func (r *Runtime) abort(run *run) error {
	ctx, cancel := context.WithTimeout(r.ctx(context.WithoutCancel(r.life)), settleTimeout)
	defer cancel()
	r.mu.Lock()
	if r.running[run.name] == run {
		delete(r.running, run.name)
	}
	r.mu.Unlock()
	close(run.done)
	_, err := run.task.Delete(ctx, client.WithProcessKill)
	if errdefs.IsNotFound(err) {
		err = nil
	}
	errs := []error{err, r.hosts.Down(run.name), r.net.Detach(ctx, run.name)}
	if run.last.Running {
		errs = append(errs, r.saveRun(ctx, run.container, run.last.ended(time.Now().UTC(), 127)))
	}
	return errors.Join(errs...)
}

// output starts the log writer with the task.
func (r *Runtime) output(name string, record ocimap.Record) cio.Creator {
	if record.Log.None {
		return cio.NullIO
	}
	args := map[string]string{modlog.WriterCommand: record.Log.Settings.Encode(r.logDir(name))}
	if record.Terminal {
		return cio.TerminalBinaryIO(r.cfg.LogWriter, args)
	}
	return cio.BinaryIO(r.cfg.LogWriter, args)
}

// discardTask removes a task that nobody watches.
func (r *Runtime) discardTask(ctx context.Context, c client.Container) error {
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return translate(err)
	}
	if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("former task: %w", translate(err))
	}
	return nil
}

// Stop implements runtime.Modules.
func (r *Runtime) Stop(ctx context.Context, name string, timeout time.Duration) error {
	ctx = r.ctx(ctx)
	unlock, err := r.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	_, s, err := r.load(ctx, name)
	if err != nil {
		return err
	}
	run := r.find(name)
	if run == nil {
		return nil
	}
	record := s.module.Record
	if timeout < 0 {
		timeout = record.StopTimeout
	}
	sig, err := signal.ParseSignal(record.StopSignal)
	if err != nil {
		return fmt.Errorf("stop module %s: %w", name, err)
	}
	if timeout > 0 {
		if err := kill(ctx, run, sig); err != nil {
			return err
		}
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-run.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	return r.killAndWait(ctx, run)
}

func (r *Runtime) killAndWait(ctx context.Context, run *run) error {
	if err := kill(ctx, run, syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-run.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.life.Done():
		return errors.New("runtime closed")
	}
}

func kill(ctx context.Context, run *run, sig syscall.Signal) error {
	var opts []client.KillOpts
	if sig == syscall.SIGKILL {
		opts = append(opts, client.WithKillAll) // those that share the host's pid namespace, too
	}
	err := run.task.Kill(ctx, sig, opts...)
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	// The module may have ended so fast that its shim is gone before it could answer.
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-run.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return fmt.Errorf("stop module %s: %w", run.name, translate(err))
}

// Remove implements runtime.Modules.
func (r *Runtime) Remove(ctx context.Context, name string) error {
	ctx = r.ctx(ctx)
	if err := runtime.CheckName(name); err != nil {
		return nil // nothing of that name can be here
	}
	unlock, err := r.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	c, _, err := r.load(ctx, name)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if c == nil {
		return err // with an unreadable record it can still be removed
	}
	if run := r.find(name); run != nil {
		if err := r.killAndWait(ctx, run); err != nil {
			return err
		}
	}
	if err := r.discardTask(ctx, c); err != nil {
		return fmt.Errorf("remove module %s: %w", name, err)
	}
	if err := c.Delete(ctx, client.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove module %s: %w", name, translate(err))
	}
	err = errors.Join(
		r.net.Detach(ctx, name),
		r.net.Release(func(id string) bool { return id == name }),
		r.hosts.Forget(name),
		os.RemoveAll(r.logDir(name)),
		os.RemoveAll(filepath.Join(r.host.ScratchDir, name)))
	r.events.publish(runtime.Event{Type: runtime.EventRemoved, Module: name, Time: time.Now()})
	if err != nil {
		return fmt.Errorf("remove module %s: %w", name, err)
	}
	return nil
}
