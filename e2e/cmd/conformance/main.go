// Command conformance proves both hubs with clients that are not ours; see package
// conformance. It needs root, for a network namespace, and what `make conformance`
// installs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/e2e/conformance"
)

type options struct {
	Bin     string   `default:"bin" help:"Folder of the built programs."`
	Scripts string   `default:"e2e/conformance" help:"Folder of the programs in other languages."`
	Engine  string   `help:"Test program of the AMQP server alone; without it that is left out."`
	Dir     string   `help:"Folder for data and logs (a new one by default, which is removed when all is well)."`
	Seed    uint64   `help:"Of the mutated streams (the time by default)."`
	Idle    int      `default:"10000" help:"Idle connections that each head has to bear."`
	Only    []string `help:"Only what has one of these words in its name, as \"mqtt-ws edgehub\"."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Description("Prove both hubs with clients that are not ours."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	made := o.Dir == ""
	if made {
		dir, err := os.MkdirTemp("", "conformance-")
		if err != nil {
			return err
		}
		o.Dir = dir
	}
	if o.Engine != "" {
		absolute, err := filepath.Abs(o.Engine) // it runs in another folder
		if err != nil {
			return err
		}
		o.Engine = absolute
	}
	began := time.Now()
	err := conformance.Run(ctx, conformance.Options{
		Engine: o.Engine, EngineDir: "hub/amqp", Bin: o.Bin, Scripts: o.Scripts, Dir: o.Dir, Seed: o.Seed, Idle: o.Idle, Only: o.Only, Out: os.Stdout,
		Say: func(format string, a ...any) {
			fmt.Fprintf(os.Stderr, "%6.1fs  "+format+"\n", append([]any{time.Since(began).Seconds()}, a...)...)
		},
	})
	if err != nil {
		return fmt.Errorf("%w (logs in %s)", err, o.Dir)
	}
	if made {
		return os.RemoveAll(o.Dir)
	}
	return nil
}
