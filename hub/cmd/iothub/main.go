// Command iothub is an IoT Hub on your own machine: registry, twins, deployments,
// direct methods and telemetry, with the protocols of Azure IoT Hub. `iothub serve`
// runs it; the other subcommands work with it, and most of them with a real hub.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the hub, 4 the hub
// could not be reached.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], environment{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// environment is what a subcommand may use of the process.
type environment struct {
	in       io.Reader
	out, err io.Writer
}

// exited carries the code with which kong wants to exit (after --help).
type exited int

func run(ctx context.Context, args []string, env environment) (code int) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case exited:
			code = int(v)
		default:
			panic(v)
		}
	}()
	var c commands
	parser, err := kong.New(&c, kong.Name("iothub"), kong.Description("An IoT Hub on your own machine."),
		kong.Writers(env.out, env.err), kong.Exit(func(code int) { panic(exited(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(env))
	if err != nil {
		return fail(env, err)
	}
	selected, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(env.err, "iothub: %v\nSee iothub --help.\n", err)
		return exitUsage
	}
	if err := selected.Run(); err != nil {
		return fail(env, err)
	}
	return 0
}

// usageError is a mistake in the arguments that the parser cannot see.
type usageError struct{ error }

func fail(env environment, err error) int {
	fmt.Fprintf(env.err, "iothub: %v\n", err)
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.As(err, new(unreachableError)):
		return exitUnreachable
	case rest.StatusOf(err) > 0:
		return exitRefused
	}
	return exitFailed
}
