// Command bench compares edgehub with other MQTT servers; see package bench. It
// needs root, for a network namespace, and mosquitto.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/e2e/bench"
)

type options struct {
	Bin    string        `default:"bin" help:"Folder of the built programs."`
	Rounds int           `default:"5" help:"How often each is measured; the median counts."`
	For    time.Duration `default:"2s" help:"How long each measurement loads."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Description("Compare edgehub with other MQTT servers."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	err = bench.Run(ctx, bench.Options{
		Bin: o.Bin, Dir: dir, Rounds: o.Rounds, For: o.For, Out: os.Stdout,
		Say: func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) },
	})
	if err != nil {
		return fmt.Errorf("%w (logs in %s)", err, dir)
	}
	return os.RemoveAll(dir)
}
