package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/health"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

const (
	// maxProbeOutput is how much is kept of what a probe says.
	maxProbeOutput = 4096
	// maxHealthOutput is how much of it is stored, within containerd's limit of labels.
	maxHealthOutput = 1024
)

// runHealth is the content of labelHealth: the health of the run that was started
// then.
type runHealth struct {
	Started time.Time    `json:"started"`
	State   health.State `json:"state"`
}

// healthOf returns how a running module feels; starting until it was probed.
func (s stored) healthOf() health.State {
	if s.module.Record.Health == nil {
		return health.State{}
	}
	if s.health.Started.Equal(s.last.Started) && s.health.State.Status != "" {
		return s.health.State
	}
	return health.State{Status: runtime.HealthStarting}
}

// probe runs the module's health check until the module has ended or the runtime
// closes, in a goroutine that Close waits for.
func (r *Runtime) probe(run *run) {
	check := run.module.Record.Health
	if check == nil {
		return
	}
	r.watchers.Go(func() {
		ctx, cancel := context.WithCancel(r.ctx(r.life))
		defer cancel()
		var ended sync.WaitGroup
		defer ended.Wait()
		defer cancel()
		ended.Go(func() {
			select {
			case <-run.done:
				cancel()
			case <-ctx.Done():
			}
		})
		n := 0
		check.Run(ctx, run.healthOf(), run.last.Started, func(ctx context.Context) health.Result {
			n++
			return r.probeOnce(ctx, run, check, "health-"+strconv.FormatInt(time.Now().UnixNano(), 36)+"-"+strconv.Itoa(n))
		}, func(s health.State) { r.feels(ctx, run, s) })
	})
}

// feels records and tells a new state.
func (r *Runtime) feels(ctx context.Context, run *run, s health.State) {
	s.Output = strings.ToValidUTF8(s.Output[:min(len(s.Output), maxHealthOutput)], "?")
	r.log.InfoContext(ctx, "health of module", "module", run.name, "health", s.Status, "output", s.Output)
	data, err := json.Marshal(runHealth{run.last.Started, s})
	if err == nil {
		_, err = run.container.SetLabels(ctx, map[string]string{labelHealth: string(data)})
	}
	if err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "health not recorded", "module", run.name, "error", err)
	}
	r.events.publish(runtime.Event{Type: runtime.EventHealth, Module: run.name, Time: time.Now(), Health: s.Status})
}

// output keeps the first bytes that a probe writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := maxProbeOutput - o.buf.Len(); room > 0 {
		o.buf.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// probeOnce runs the command in the module, as its user and with its environment.
func (r *Runtime) probeOnce(ctx context.Context, run *run, check *health.Check, id string) health.Result {
	spec, err := run.container.Spec(ctx)
	if err != nil {
		return failed(ctx, err)
	}
	p := *spec.Process
	p.Args, p.Terminal, p.ConsoleSize = slices.Clone(check.Args), false, nil
	said := &output{}
	process, err := run.task.Exec(ctx, id, &p, cio.NewCreator(cio.WithStreams(nil, said, said)))
	if err != nil {
		return failed(ctx, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if _, err := process.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			r.log.WarnContext(ctx, "clean up after health check", "module", run.name, "error", err)
		}
	}()
	// Before the start, or a quick end could be missed; and beyond the time-out.
	exit, err := process.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return failed(ctx, err)
	}
	if err := process.Start(ctx); err != nil {
		return failed(ctx, err)
	}
	select {
	case status := <-exit:
		if err := fromGRPC(status.Error()); err != nil {
			return failed(ctx, err)
		}
		process.IO().Wait()
		return health.Result{OK: status.ExitCode() == 0, Output: strings.TrimSpace(said.String())}
	case <-ctx.Done():
		if err := process.Kill(context.WithoutCancel(ctx), syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			r.log.WarnContext(ctx, "end a health check", "module", run.name, "error", err)
		}
		return health.Result{Output: fmt.Sprintf("no answer within %v: %s", check.Timeout, strings.TrimSpace(said.String()))}
	}
}

// failed is a probe that could not be run. A command that is not there is the
// module's fault; an engine that is away is not.
func failed(ctx context.Context, err error) health.Result {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return health.Result{Output: "no answer from the engine in time"}
	}
	return health.Result{Void: errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) || ctx.Err() != nil, Output: err.Error()}
}

// imageHealthcheck reads the HEALTHCHECK of a Docker image, which OCI's
// configuration does not know.
func imageHealthcheck(ctx context.Context, img client.Image) (*createopts.Healthcheck, error) {
	desc, err := img.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	data, err := content.ReadBlob(ctx, img.ContentStore(), desc)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	var config struct {
		Config struct {
			Healthcheck *createopts.Healthcheck `json:"Healthcheck"`
		} `json:"config"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("image %s: health check: %w", img.Name(), err)
	}
	return config.Config.Healthcheck, nil
}
