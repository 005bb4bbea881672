// Command edged is the security daemon of an edge device: it holds the device's
// identity and keys, runs modules on containerd, and serves the workload and
// management APIs. It runs as root under systemd.
//
// SIGTERM and SIGINT end it after all modules were stopped, SIGHUP leaves them running;
// the next start takes over what runs.
//
// Exit status: 0 after a regular end, 153 when the configuration is wrong (a
// restart would not help), 154 when it is to be started again to be provisioned
// anew, 1 for every other failure.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
)

// version is set by the build.
var version = "dev"

const (
	exitFailure     = 1
	exitBadConfig   = 153
	exitReprovision = 154 // to be started again
)

type cli struct {
	Config   string           `short:"c" env:"AZIOT_EDGED_CONFIG" default:"/etc/aziot/config.toml" help:"Configuration file." type:"path"`
	LogLevel string           `env:"EDGED_LOG" default:"info" enum:"debug,info,warn,error" help:"Least level of log lines: ${enum}."`
	Version  kong.VersionFlag `help:"Print the version."`
}

func main() {
	ctx, stop := untilSignal()
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// untilSignal returns a context that ends when the process is asked to: by SIGTERM or
// SIGINT together with its modules, by SIGHUP without them.
func untilSignal() (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				cancel(daemon.ErrLeave)
			}
			cancel(nil)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		wait.Wait()
	}
}

// run parses the command line and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("edged"), kong.Description("Security daemon of an IoT Edge device."),
		kong.Vars{"version": "edged " + version}, kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }))
	if err == nil {
		_, err = parser.Parse(args)
	}
	if exit >= 0 {
		return exit // --help or --version was shown
	}
	if err != nil {
		fmt.Fprintln(stderr, "edged:", err)
		return exitFailure
	}
	return serve(ctx, c, stderr)
}
