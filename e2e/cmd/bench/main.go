// Command bench measures the built programs and edgehub's rivals; see package bench.
// It needs root, for network namespaces and containers, and mosquitto. `bench parts`
// reads the output of `go test -bench` instead.
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

type cli struct {
	Run   runCmd   `cmd:"" default:"withargs" help:"Measure the programs (the default)."`
	Parts partsCmd `cmd:"" help:"Read rounds of go test -bench from standard input and print the medians."`
}

type runCmd struct {
	Bin     string        `default:"bin" help:"Folder of the built programs."`
	Root    string        `default:"." help:"Root of the source tree."`
	Rounds  int           `default:"5" help:"How often each is measured; the median counts."`
	For     time.Duration `default:"2s" help:"How long each measurement of the load takes."`
	Backlog int           `default:"1000000" help:"Messages of the backlog."`
	Crowds  []int         `default:"1000,10000" help:"Numbers of idle connections, rising."`
	Only    []string      `help:"Sections: ${sections}; all if not given."`
}

type partsCmd struct{}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	k := kong.Parse(&c, kong.Description("Measure the programs of Breakwater."),
		kong.Vars{"sections": fmt.Sprint(bench.Sections())}, kong.BindTo(ctx, (*context.Context)(nil)))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func say(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }

func (r *runCmd) Run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	err = bench.Run(ctx, bench.Options{
		Bin: r.Bin, Root: r.Root, Dir: dir, Rounds: r.Rounds, For: r.For, Backlog: r.Backlog, Crowds: r.Crowds,
		Only: r.Only, Out: os.Stdout, Say: say,
	})
	if err != nil {
		return fmt.Errorf("%w (logs in %s)", err, dir)
	}
	return os.RemoveAll(dir)
}

func (partsCmd) Run() error {
	return bench.Parts(os.Stdin, os.Stdout, func(line string) { say("%s", line) })
}
