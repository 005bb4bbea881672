// Package agent puts the parts of edgeAgent together and runs them.
//
//	cloud client -> twin.Mirror -> reconcile.Loop -> edged.Client -> security daemon
//	     |                             ^                   |
//	     +-> method.Handler -----------+---- events -------+
//
// The cloud client and the mirror live longer than the loop: the last thing that
// the loop does is to report that the agent no longer runs.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/local"
	"github.com/breakwater-iot/breakwater/agent/internal/method"
	"github.com/breakwater-iot/breakwater/agent/internal/metrics"
	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
	"github.com/breakwater-iot/breakwater/agent/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/footprint"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const (
	cloudTimeout = 30 * time.Second
	infoTimeout  = 30 * time.Second
	// startTimeout bounds the first words with the daemon. A daemon that is silent
	// for so long has left a dead socket here; a new start gets a living one.
	startTimeout = time.Minute
)

// Cloud is the agent's connection to the hub. Run keeps it connected until its
// context ends; the callbacks are called one at a time and do not block.
type Cloud interface {
	twin.Source
	Run(ctx context.Context) error
	OnConnection(func(up bool))
	OnRefused(func())
	OnDesired(func(patch json.RawMessage))
	OnMethod(func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse)
}

// Connect makes the cloud connection; product names the program to the hub.
type Connect func(ctx context.Context, product string, log *slog.Logger) (Cloud, error)

// Run is the agent until ctx ends (nil) or the daemon is gone (edged.ErrGone).
func Run(ctx context.Context, s settings.Settings, build report.Build, connect Connect, log *slog.Logger) (err error) {
	for _, w := range s.Warnings {
		log.Warn("setting", "warning", w)
	}
	daemon, err := edged.Dial(edged.Options{
		ManagementURI: s.Host.ManagementURI, WorkloadURI: s.Host.WorkloadURI,
		ModuleID: s.ModuleID, Generation: s.Generation,
		Timeout: s.ManagementTimeout, SlotTimeout: s.SlotTimeout,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.Close()) }()
	store, warn, err := state.Open(state.Options{
		Folder: s.StorageFolder, Backup: s.BackupFile, Volatile: s.Volatile, Sealer: daemon,
	})
	if err != nil {
		return err
	}
	if warn != nil {
		log.Warn("storage", "warning", warn)
	}
	connecting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	about := host(connecting, daemon, log)
	m := metrics.New(metrics.Labels{
		Hub: s.Host.HubName, Device: s.Host.DeviceID, Version: build.Version,
		Host: describe(about), Features: s.Features, MaxAge: s.Metrics.MaxAge,
	})
	if s.LocalConfig != "" {
		connect = func(context.Context, string, *slog.Logger) (Cloud, error) { return local.NoHub{}, nil }
	}
	cloud, err := connect(connecting, product(s, build, about), log.With("component", "cloud"))
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cloud: %w", err)
	}
	if err != nil {
		return expected(ctx, err) // asked to end before anything began
	}
	mirror := twin.New(m.Cloud(cloud), twin.Options{Refresh: s.Refresh, Timeout: cloudTimeout, Log: log.With("component", "twin")})
	var wanted reconcile.Twin = mirror
	if s.LocalConfig != "" {
		wanted = local.New(s.LocalConfig, log.With("component", "local"))
	}
	loop := reconcile.New(m.Daemon(daemon), daemon, wanted, store, reconcile.Options{
		Host: s.Host, Build: build, Policy: s.Policy, PullsFirst: s.PullsFirst,
		DeleteOrphans: s.DeleteOrphans, HideCredentials: s.HideCredentials, Local: s.LocalConfig != "",
		Observe: m.Observe, Log: log.With("component", "reconcile"),
	})
	methods := method.New(timedRestart{daemon, m.Restart(daemon.Restart)}, method.Options{
		HubName: s.Host.HubName, DeviceID: s.Host.DeviceID, Parent: s.Host.Parent, Timeout: s.RequestTimeout,
		Uploader:    uploads{daemon, s.Network},
		LevelAtMost: s.LevelAtMost, Restarted: loop.Wake, Log: log.With("component", "method"),
	})
	subscribe(s, cloud, mirror, m.Methods(methods.Handle))
	refused := make(chan struct{}, 1)
	cloud.OnRefused(func() {
		select {
		case refused <- struct{}{}:
		default: // one is noted already
		}
	})
	return serve(ctx, s, parts{cloud, mirror, loop, daemon, methods, m, refused}, log)
}

func subscribe(s settings.Settings, cloud Cloud, mirror *twin.Mirror, methods metrics.Method) {
	cloud.OnConnection(mirror.HandleConnection)
	if s.NoSubscriptions {
		return
	}
	cloud.OnDesired(mirror.HandleDesired)
	cloud.OnMethod(methods)
}

// timedRestart is the daemon with another restart.
type timedRestart struct {
	*edged.Client
	restart func(ctx context.Context, module string) error
}

// Restart restarts a module.
func (d timedRestart) Restart(ctx context.Context, module string) error {
	return d.restart(ctx, module)
}

type parts struct {
	cloud   Cloud
	mirror  *twin.Mirror
	loop    *reconcile.Loop
	daemon  *edged.Client
	methods *method.Handler
	metrics *metrics.Metrics
	refused <-chan struct{} // receives after the hub has refused the agent
}

// serve runs the parts. When ctx ends the loop goes first, then the rest. From then on the
// daemon may be gone.
func serve(ctx context.Context, s settings.Settings, p parts, log *slog.Logger) error {
	outer, endOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer endOuter()
	g, outer := errgroup.WithContext(outer)
	inner, endInner := context.WithCancel(ctx)
	defer endInner()
	// A part that fails ends the loop too.
	stop := context.AfterFunc(outer, endInner)
	defer stop()

	g.Go(func() error { return expected(outer, p.cloud.Run(outer)) })
	g.Go(func() error { return expected(outer, p.mirror.Run(outer)) })
	g.Go(func() error { return expected(inner, p.daemon.Watch(inner, log, p.loop.Wake)) })
	g.Go(func() error { return p.methods.Run(inner) })
	g.Go(func() error {
		askWhenRefused(inner, p.refused, p.daemon, log)
		return nil
	})
	g.Go(func() error {
		if err := footprint.Run(inner); err != nil {
			log.Warn("memory is not given back", "error", err)
		}
		return nil
	})
	if s.Metrics.Enabled {
		g.Go(func() error {
			p.metrics.Serve(inner, s.Metrics.Address, s.Metrics.Path, log)
			return nil
		})
		g.Go(func() error {
			p.metrics.Watch(inner, p.daemon, s.Metrics.Update, log)
			return nil
		})
	}
	if sender, ok := p.cloud.(Sender); ok && s.Quality.Enabled {
		g.Go(func() error {
			sendQuality(inner, s, sender, log.With("component", "quality"))
			return nil
		})
	}
	g.Go(func() error {
		select {
		case <-p.daemon.Gone():
			return expected(inner, edged.ErrGone)
		case <-inner.Done():
			return nil
		}
	})
	g.Go(func() error {
		defer endOuter()
		err := p.loop.Run(inner)
		if err == nil && outer.Err() == nil {
			p.loop.Shutdown(outer)
		}
		return err
	})
	return g.Wait()
}

// expected drops the error of a part that was asked to end.
func expected(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
