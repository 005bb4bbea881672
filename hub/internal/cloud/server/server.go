package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/api"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/dps"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/pki"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
)

// Run runs the hub until ctx ends, then stops it in order and returns nil; any
// other end is an error.
func Run(ctx context.Context, c Config) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	policies, err := access.LoadPolicies(filepath.Join(c.Data, "policies.json"), c.WellKnownKeys)
	if err != nil {
		return err
	}
	certificates, err := pki.Open(c.Data, c.certificateNames(), nil)
	if err != nil {
		return err
	}
	if err := writeLogin(c, policies); err != nil {
		return err
	}
	db := filepath.Join(c.Data, "db")
	if err := os.MkdirAll(db, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	s, err := store.Open(db, store.Options{Logger: c.Logger.With("component", "store")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	sessions := newSessions(s, c.Logger)
	hub, err := cloud.Open(s, cloud.Options{
		Hosts: c.hosts(), Policies: policies, Logger: c.Logger.With("component", "hub"), Deleted: sessions.deleted,
		MaxChildren: c.MaxChildren,
		Events:      events.Options{MaxEvents: c.MaxEvents, MaxBytes: c.MaxEventBytes},
		EventHub:    head.EventHubInfo{Host: c.EventHostName, Port: uint16(c.AMQPPort), Groups: c.ConsumerGroups},
	})
	if err != nil {
		return err
	}
	return serve(ctx, c, s, hub, certificates, sessions)
}

func writeLogin(c Config, policies access.Policies) error {
	owner := policies[access.Owner]
	login := connstr.String{HostName: c.HostName, SharedAccessKeyName: owner.Name, SharedAccessKey: owner.Primary}
	return atomicfile.Write(filepath.Join(c.Data, ConnectionStringFile), []byte(login.Reveal()+"\n"), 0o600)
}

func serve(ctx context.Context, c Config, s *store.Store, hub *cloud.Hub, certificates *pki.Server, sessions *sessionStore) error {
	provisioning, err := dps.Open(s, dps.Options{Hub: hub, HubName: c.HostName, IDScope: c.IDScope, AssignDelay: c.AssignDelay,
		Logger: c.Logger.With("component", "dps")})
	if err != nil {
		return err
	}
	devices, err := mqtt.New(mqtt.Options{Backend: hub, Flavor: mqtt.Cloud, TLS: certificates.TLS(), Sessions: sessions, Other: provisioning,
		Logger: c.Logger.With("component", "mqtt")})
	if err != nil {
		return err
	}
	links, err := amqp.New(amqp.Options{Backend: hub, Services: hub, Events: hub, Flavor: amqp.Cloud, TLS: certificates.TLS(),
		Logger: c.Logger.With("component", "amqp")})
	if err != nil {
		return err
	}
	httpsListener, err := c.listen(c.HTTPSPort)
	if err != nil {
		return fmt.Errorf("listen for HTTPS: %w", err)
	}
	mqttListener, err := c.listen(c.MQTTPort)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for MQTT: %w", err), httpsListener.Close())
	}
	amqpListener, err := c.listen(c.AMQPPort)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for AMQP: %w", err), httpsListener.Close(), mqttListener.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	sockets := ws.New(ctx, map[string]ws.Serve{
		"mqtt": devices.ServeWebSocket, "AMQPWSB10": links.ServeWebSocket, "amqp": links.ServeWebSocket,
	})
	https := &http.Server{
		Handler:           provisioning.Handler(api.New(hub, api.Options{WebSocket: sockets, Logger: c.Logger.With("component", "api")})),
		TLSConfig:         certificates.TLS(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          httpLog(c.Logger),
		// HTTP/1.1 only: WebSockets need it, and no SDK uses more.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	g.Go(func() error { return hub.Run(ctx, c.Grace) })
	g.Go(func() error {
		err := s.Watch(ctx)
		if err != nil {
			c.Logger.Error("storage has failed; iothub ends, so that it starts anew from what is on disk", "error", err)
		}
		return err
	})
	g.Go(func() error { return devices.Serve(ctx, mqttListener) })
	g.Go(func() error { return links.Serve(ctx, amqpListener) })
	g.Go(func() error {
		if err := https.ServeTLS(httpsListener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTPS: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace)
		defer cancel()
		if err := https.Shutdown(end); err != nil {
			c.Logger.Warn("requests did not end in time", "error", err)
			_ = https.Close()
		}
		sockets.Wait()
		return nil
	})
	c.Ready(Endpoints{HTTPS: httpsListener.Addr(), MQTT: mqttListener.Addr(), AMQP: amqpListener.Addr()})
	return g.Wait()
}

// httpLog takes what net/http says of broken connections; none of it is ours to fix.
func httpLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.With("component", "https").Handler(), slog.LevelDebug)
}
