package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/server"
)

type serveCommand struct {
	Data          string        `required:"" type:"path" help:"Directory for all state; made if missing."`
	Hostname      string        `required:"" help:"Name of the hub, as clients know it."`
	Name          []string      `help:"One more name or address of the hub; may be repeated."`
	Address       string        `help:"IP address to listen on (all by default)."`
	HTTPSPort     int           `name:"https-port" default:"443" help:"Port for services, HTTPS and WebSockets."`
	MQTTPort      int           `name:"mqtt-port" default:"8883" help:"Port for devices, MQTT over TLS."`
	AMQPPort      int           `name:"amqp-port" default:"5671" help:"Port for devices and services, AMQP over TLS."`
	EventHostname string        `name:"event-hostname" help:"Name under which clients of event hubs come (the hub's name by default)."`
	ConsumerGroup []string      `help:"One more consumer group for readers of events, besides $$Default; may be repeated."`
	WellKnownKeys bool          `help:"Make policies with keys that everybody can know, the same on every machine. For tests."`
	RetainEvents  uint64        `default:"1048576" help:"How many events to keep."`
	RetainBytes   uint64        `default:"1073741824" help:"How many bytes of events to keep."`
	MaxChildren   int           `default:"100" help:"How many children an edge device may have; IoT Hub allows 100."`
	IDScope       string        `name:"id-scope" default:"0ne00000000" help:"Id scope of the device provisioning service."`
	AssignDelay   time.Duration `name:"dps-assign-delay" help:"How long a registration is shown as being assigned."`
	LogLevel      string        `default:"info" enum:"debug,info,warn,error" help:"What to log: ${enum}."`
}

// Run serves until the context ends.
func (c *serveCommand) Run(ctx context.Context, env environment) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return usageError{err}
	}
	log := slog.New(slog.NewTextHandler(env.err, &slog.HandlerOptions{Level: level}))
	err := server.Run(ctx, server.Config{
		Data: c.Data, HostName: c.Hostname, Names: c.Name, Address: c.Address,
		HTTPSPort: c.HTTPSPort, MQTTPort: c.MQTTPort, AMQPPort: c.AMQPPort, WellKnownKeys: c.WellKnownKeys,
		EventHostName: c.EventHostname, ConsumerGroups: c.ConsumerGroup,
		MaxEvents: c.RetainEvents, MaxEventBytes: c.RetainBytes, MaxChildren: c.MaxChildren, IDScope: c.IDScope, AssignDelay: c.AssignDelay, Logger: log,
		Ready: func(e server.Endpoints) {
			fmt.Fprintf(env.out, "iothub ready hostname=%s https=%s mqtt=%s amqp=%s\n", c.Hostname, e.HTTPS, e.MQTT, e.AMQP)
		},
	})
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
