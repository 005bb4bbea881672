// Command temperature-sensor is the field's well-known simulated sensor as a
// module: it sends the readings of a machine that warms up to its output
// temperatureOutput, takes the direct method "reset", messages on its input
// "control", and the twin settings SendData and SendInterval.
//
// Every reading carries the properties batchId (new at each start) and
// sequenceNumber; for each that the hub has acknowledged a line is logged, so that
// what was acknowledged can be compared with what arrived.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, os.Getenv, log); err != nil {
		log.Error("temperature-sensor ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string, log *slog.Logger) error {
	set, err := settingsFrom(getenv)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	s := newSensor(set, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), log)
	c, err := client.FromEnvironment(ctx, getenv, client.Options{
		Retry: true, ProductInfo: "breakwater-temperature-sensor", Logger: log,
		OnConnection: s.connection,
	})
	if err != nil {
		return err
	}
	s.client = c
	c.OnMethod(s.method)
	c.OnInput(s.control)
	c.OnDesired(s.desired)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.send(ctx) })
	return g.Wait()
}
