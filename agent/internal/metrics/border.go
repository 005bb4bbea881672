package metrics

import (
	"context"
	"encoding/json"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
	"github.com/breakwater-iot/breakwater/agent/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Daemon counts and times the commands that d is given.
func (m *Metrics) Daemon(d reconcile.Daemon) reconcile.Daemon { return daemon{d, m} }

type daemon struct {
	reconcile.Daemon
	m *Metrics
}

// timed observes a command that began at begin.
func (d daemon) timed(command string, begin time.Time, err error) error {
	d.m.latency.WithLabelValues(command).Observe(time.Since(begin).Seconds())
	return err
}

func (d daemon) Pull(ctx context.Context, s launch.Spec) error {
	d.m.prepared.WithLabelValues(s.Name, s.Version).Inc()
	begin := time.Now()
	return d.timed("prepareUpdate", begin, d.Daemon.Pull(ctx, s))
}

func (d daemon) Create(ctx context.Context, s launch.Spec) error {
	begin := time.Now()
	return d.timed("create", begin, d.Daemon.Create(ctx, s))
}

func (d daemon) Update(ctx context.Context, s launch.Spec, start bool) error {
	begin := time.Now()
	return d.timed("update", begin, d.Daemon.Update(ctx, s, start))
}

func (d daemon) Start(ctx context.Context, module string) error {
	d.m.started.WithLabelValues(module, d.m.version(module)).Inc()
	begin := time.Now()
	return d.timed("start", begin, d.Daemon.Start(ctx, module))
}

func (d daemon) Stop(ctx context.Context, module string) error {
	d.m.stopped.WithLabelValues(module, d.m.version(module)).Inc()
	begin := time.Now()
	return d.timed("stop", begin, d.Daemon.Stop(ctx, module))
}

func (d daemon) Remove(ctx context.Context, module string) error {
	begin := time.Now()
	return d.timed("remove", begin, d.Daemon.Remove(ctx, module))
}

// Restart times f, which restarts a module.
func (m *Metrics) Restart(f func(ctx context.Context, module string) error) func(ctx context.Context, module string) error {
	return func(ctx context.Context, module string) error {
		begin := time.Now()
		return daemon{m: m}.timed("restart", begin, f(ctx, module))
	}
}

// Cloud counts the exchanges with the hub.
func (m *Metrics) Cloud(s twin.Source) twin.Source { return source{s, m} }

type source struct {
	twin.Source
	m *Metrics
}

func (s source) count(err error) error {
	s.m.syncs.Inc()
	if err != nil {
		s.m.failed.Inc()
	}
	return err
}

func (s source) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	t, err := s.Source.Twin(ctx)
	return t, s.count(err)
}

func (s source) PatchReported(ctx context.Context, patch json.RawMessage) error {
	return s.count(s.Source.PatchReported(ctx, patch))
}

// Method answers a direct method.
type Method func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse

// Methods counts the calls of methods that are answered with 200; others may have
// any name.
func (m *Metrics) Methods(f Method) Method {
	return func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse {
		res := f(ctx, r)
		if res.Status == 200 {
			m.methods.WithLabelValues(r.Name).Inc()
		}
		return res
	}
}
