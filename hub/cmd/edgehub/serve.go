package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/hub/internal/auth"
	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	httphead "github.com/breakwater-iot/breakwater/hub/internal/head/http"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/hub/internal/seal"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/servercert"
	"github.com/breakwater-iot/breakwater/hub/internal/settings"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/trust"
	"github.com/breakwater-iot/breakwater/hub/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/footprint"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"github.com/breakwater-iot/breakwater/proto/workload"
)

const mqttPort = 8883

// program is everything that edgehub is made of.
type program struct {
	set     settings.Edge
	log     *slog.Logger
	vault   *workload.Client
	bundle  *trust.Bundle
	store   *store.Store
	folder  seglog.Folder // of the queues
	metrics *metrics.Metrics
	cert    *servercert.Holder
	scope   *scope.Cache
	hub     *edge.Hub
}

// serve runs edgehub until ctx ends.
func serve(ctx context.Context, environ []string, stderr io.Writer) error {
	set, err := settings.FromEnvironment(environ)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	p := &program{set: set, log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: set.LogLevel}))}
	p.log.Info("edgehub starts", "version", version, "device", set.DeviceID, "hub", set.HubName)
	for _, i := range settings.FindIgnored(environ) {
		p.log.Info("a variable changes nothing in this version", "name", i.Name, "reason", i.Reason)
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	if err = p.wire(ctx); err == nil {
		ended := make(chan error, 1)
		go func() { ended <- p.run(ctx) }()
		var inTime bool
		if inTime, err = await(ctx, ended, set.ShutdownWait); !inTime {
			return err // what hangs may still use the store; the disk is as after a crash
		}
		if errors.Is(err, seglog.ErrFailed) {
			return err // the database would go on trying to write to the broken disk
		}
	}
	return errors.Join(err, p.store.Close(), p.vault.Close())
}

// await waits for the end of a run: as long as it takes, but for no longer than a
// limit when ctx has ended.
func await(ctx context.Context, ended <-chan error, limit time.Duration) (inTime bool, err error) {
	select {
	case err := <-ended:
		return true, err
	case <-ctx.Done():
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		return true, err
	case <-timer.C:
		return false, fmt.Errorf("edgehub has not stopped within %s", limit)
	}
}

// open gets what the daemon and the disk give.
func (p *program) open(ctx context.Context) (err error) {
	if p.vault, err = workload.Open(p.set.WorkloadURI, p.set.ModuleID, p.set.GenerationID); err != nil {
		return fmt.Errorf("workload API: %w", err)
	}
	if p.bundle, err = trust.New(ctx, p.vault.TrustBundle, p.log); err != nil {
		return err
	}
	p.cert, err = servercert.New(ctx, func(ctx context.Context) (tls.Certificate, time.Time, error) {
		c, err := p.vault.ServerCertificate(ctx, p.set.GatewayName)
		return c.TLS, c.Expiry, err
	}, p.log)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.set.StorageFolder, "edgeHub")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("storage folder: %w", err)
	}
	if p.store, err = store.Open(dir, p.storeOptions()); err != nil {
		return fmt.Errorf("storage folder: %w", err)
	}
	if err := p.store.Scan([]byte("qd"), nil, func(_, _ []byte) error { return errOldMessages }); err != nil {
		return fmt.Errorf("storage folder: %w", err)
	}
	if p.folder, err = seglog.Dir(filepath.Join(dir, queue.Subfolder)); err != nil {
		return fmt.Errorf("folder of messages: %w", err)
	}
	return nil
}

// errOldMessages: this version would not deliver them.
var errOldMessages = errors.New("messages lie in the database, as versions before the first release kept them; " +
	"move the folder away to start without them")

// noSyncVariable lets the crash tests prove that they notice a missing fsync. It is
// no setting: who sets it loses messages.
const noSyncVariable = "BREAKWATER_TEST_UNSAFE_NO_SYNC"

func noSync() bool { return os.Getenv(noSyncVariable) != "" }

func (p *program) storeOptions() store.Options {
	o := store.Options{Logger: p.log}
	if noSync() {
		o.UnsafeNoSync = true
		p.log.Error("STORAGE IS NOT SYNCED: acknowledged messages are lost in a power cut", "variable", noSyncVariable)
	}
	return o
}

func (p *program) self() iothub.Identity {
	return iothub.ModuleIdentity(p.set.DeviceID, p.set.ModuleID)
}

// dialHost is who is called for the hub: the parent of a nested device, else the
// hub itself.
func (p *program) dialHost() string {
	if p.set.ParentName != "" {
		return p.set.ParentName
	}
	return p.set.HubName
}

// wire makes the parts and joins them.
func (p *program) wire(ctx context.Context) error {
	sealer, err := seal.Open(ctx, p.vault, p.store.Bucket("seal"))
	if errors.Is(err, seal.ErrUnreadable) {
		p.log.Error("sealed state cannot be opened; identities and twins are fetched anew", "error", err)
		sealer, err = seal.Renew(ctx, p.vault, p.store.Bucket("seal"))
	}
	if err != nil {
		return err
	}
	p.metrics = metrics.New(p.set.HubName, p.set.DeviceID, p.set.MetricsMaxAge)
	network, err := p.network()
	if err != nil {
		return err
	}
	registry, err := rest.New(rest.Options{
		HubName: p.set.HubName, Host: p.dialHost(), Roots: p.bundle.Roots, Authorize: p.authorize,
		Dial: network.DialContext,
	})
	if err != nil {
		return err
	}
	p.scope, err = scope.New(edge.CloudScope(registry, p.set.DeviceID),
		seal.Bucket{Bucket: p.store.Bucket("scope"), Sealer: sealer}, scope.Options{
			RefreshEvery: p.set.ScopeRefresh, MinDistance: p.set.ScopeRefreshDelay, Logger: p.log,
			Changed: func(id iothub.Identity) { p.hub.ScopeChanged(id) },
		})
	if err != nil {
		return err
	}
	var records twin.Records = p.store.Bucket("twins")
	if p.set.EncryptTwins {
		records = seal.Bucket{Bucket: p.store.Bucket("sealed-twins"), Sealer: sealer}
	}
	idle := p.set.IdleTimeout
	if idle == 0 {
		idle = -1 // never, as the settings say
	}
	dial, err := p.upstream(network)
	if err != nil {
		return err
	}
	p.hub, err = edge.New(edge.Options{
		HubName: p.set.HubName, Device: p.set.DeviceID, Hostname: p.set.GatewayName, Version: version,
		MaxClients: p.set.MaxClients, AckTimeout: p.set.AckTimeout, Idle: idle,
		ConfigRefresh: p.set.ConfigRefresh, Connectivity: p.set.Connectivity, CallTimeout: p.set.CallTimeout, Hanging: p.set.Hanging,
		KeepConnections: p.set.KeepConnections, LocalSubscriptions: p.set.LocalSubscribing,
		KeepForUnknown: p.set.KeepForUnknown, Fixed: p.set.LocalConfig,
		CloudVouches: p.set.AuthMode == "CloudAndScope", CloudVouchesForAll: p.set.AuthMode == "Cloud",
		Limits:  p.limits(),
		Dial:    dial,
		Records: records,
		Config:  p.store.Bucket("config"),
		Twin:    twin.Options{PushEvery: p.set.TwinPush, MinSync: p.set.TwinSync, CallTimeout: p.set.CallTimeout, Logger: p.log},
		Auth: auth.Options{
			Hosts: []string{p.set.HubName, p.set.GatewayName}, Device: p.set.DeviceID, TrustBundle: p.bundle.Pool,
			NoCertificates: !p.set.ClientCerts, Logger: p.log,
		},
		Messages: p.folder, UnsafeNoSync: noSync(), Scope: p.scope, Registry: registry, Metrics: p.metrics, Logger: p.log,
	})
	return err
}

// authorize makes the token of the hub's own identity for a REST call.
func (p *program) authorize(ctx context.Context) (string, error) {
	return sas.New(sas.DeviceResource(p.set.HubName, p.self()), time.Now().Add(time.Hour), "",
		func(data []byte) ([]byte, error) { return p.vault.Sign(ctx, data) })
}

// run runs the parts. The heads serve from when there is a configuration.
func (p *program) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.cert.Run(ctx) })
	g.Go(func() error { return p.bundle.Run(ctx) })
	g.Go(func() error { return p.hub.Run(ctx) })
	g.Go(func() error {
		if err := footprint.RunResting(ctx); err != nil {
			p.log.Warn("memory is not given back", "error", err)
		}
		return nil
	})
	g.Go(func() error {
		err := p.store.Watch(ctx)
		if err != nil {
			p.log.Error("storage has failed; edgehub ends, so that it starts anew from what is on disk", "error", err)
		}
		return err
	})
	if p.set.MetricsEnabled {
		g.Go(func() error {
			l, err := net.Listen("tcp", net.JoinHostPort(p.set.MetricsHost, strconv.Itoa(p.set.MetricsPort)))
			if err != nil {
				return fmt.Errorf("metrics listener: %w", err)
			}
			return p.metrics.Serve(ctx, l, p.set.MetricsPath)
		})
	}
	g.Go(func() error { return p.serveHeads(ctx) })
	stopped := context.AfterFunc(ctx, func() { p.log.Info("edgehub ends") })
	defer stopped()
	return g.Wait()
}

// serveHeads serves clients, from when there is a configuration.
func (p *program) serveHeads(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.hub.Configured():
	}
	debug.FreeOSMemory() // what the start has used; by itself it would take minutes to go back
	secure := &tls.Config{MinVersion: p.set.MinTLS, GetCertificate: p.cert.GetCertificate}
	devices, err := mqtt.New(mqtt.Options{
		Backend: p.hub, Logger: p.log, Flavor: mqtt.Edge, MaxClients: p.set.MaxClients, TLS: secure,
		Sessions: edge.Sessions(p.store.Bucket("sessions")),
	})
	if err != nil {
		return fmt.Errorf("MQTT head: %w", err)
	}
	links, err := amqp.New(amqp.Options{
		Backend: p.hub, Logger: p.log, Flavor: amqp.Edge, TLS: secure, MaxConnections: 2*p.set.MaxClients + 64,
	})
	if err != nil {
		return fmt.Errorf("AMQP head: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	sockets := make(map[string]ws.Serve)
	if p.set.MQTTEnabled {
		sockets["mqtt"] = devices.ServeWebSocket
		g.Go(func() error { return p.serve(ctx, "MQTT", mqttPort, devices.Serve) })
	}
	if p.set.AMQPEnabled {
		sockets["AMQPWSB10"], sockets["amqp"] = links.ServeWebSocket, links.ServeWebSocket
		g.Go(func() error { return p.serve(ctx, "AMQP", p.set.AMQPPort, links.Serve) })
	}
	if p.set.HTTPEnabled {
		https := httphead.New(httphead.Options{
			Backend: p.hub, TLS: secure, WebSockets: sockets, ProxyModule: p.set.ProxyModule, Metrics: p.metrics.Handler(),
			MaxConnections: 4*p.set.MaxClients + 64, Logger: p.log,
		})
		g.Go(func() error { return p.serve(ctx, "HTTPS", p.set.HTTPPort, https.Serve) })
	}
	return g.Wait()
}

// serve listens on a port and has a head serve it.
func (p *program) serve(ctx context.Context, name string, port int, serve func(context.Context, net.Listener) error) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return fmt.Errorf("%s listener: %w", name, err)
	}
	p.log.Info(name+" is served", "address", l.Addr().String())
	return serve(ctx, l)
}
