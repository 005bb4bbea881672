// Command edgehub is the hub on the edge device: the local proxy of IoT Hub for
// modules and devices. Without arguments it serves, with its settings from the
// environment; `edgehub route` tries and checks routes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no roots of its own

	"github.com/breakwater-iot/breakwater/hub/internal/routecmd"
)

// version is set by the linker.
var version = "dev"

type cli struct {
	Serve serveCmd `cmd:"" default:"1" help:"Serve, with settings from the environment (the default)."`
	Route struct {
		Test  routeTestCmd  `cmd:"" help:"Evaluate conditions: one JSON object a line in, one out."`
		Check routeCheckCmd `cmd:"" help:"Check the routes of a manifest and print what each does."`
	} `cmd:"" help:"Try and check routes."`
	Store   storeCmd         `cmd:"" help:"Look at what a stopped hub has stored."`
	Version kong.VersionFlag `help:"Print the version."`
}

type serveCmd struct{}

type routeTestCmd struct{}

type routeCheckCmd struct {
	File   string `arg:"" help:"Deployment manifest, or the desired properties of $edgeHub." type:"existingfile"`
	Device string `help:"Id of the edge device, for the names of endpoints." default:"device"`
}

// Run serves until a signal comes.
func (serveCmd) Run(ctx context.Context) error { return serve(ctx, os.Environ(), os.Stderr) }

// Run evaluates conditions.
func (routeTestCmd) Run() error { return routecmd.Test(os.Stdin, os.Stdout) }

// Run checks a file.
func (c routeCheckCmd) Run() error {
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	return routecmd.Check(f, os.Stdout, c.Device)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli{}, kong.Name("edgehub"), kong.Description("The hub on an edge device."),
		kong.Vars{"version": "edgehub " + version}, kong.BindTo(ctx, (*context.Context)(nil)))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "edgehub:", err)
		os.Exit(1)
	}
}
