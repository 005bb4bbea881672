// Command edgebox is the first program of the container image of the same name: an
// edge device for a developer's machine in one privileged container. It runs an
// image registry, containerd and edged, and ends when one of them ends.
//
// At its start it registers the device in the hub whose login it finds (the folder
// that iothub writes it to is shared with it), applies the manifest and pushes the
// images that lie in the container to the registry. All of that may be repeated:
// nothing changes when nothing has changed.
//
// It is for development only: a real device is provisioned with credentials of its
// own and never sees those of the hub.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"
)

type options struct {
	Device   string        `help:"Id of the device." default:"edge-1" env:"DEVICE_ID"`
	Hostname string        `help:"Name by which leaf devices reach it." default:"edge-1" env:"DEVICE_HOSTNAME"`
	Hub      string        `help:"Host name of the hub." required:"" env:"HUB_HOSTNAME"`
	Cloud    string        `help:"Folder in which iothub leaves its root certificate and its login." default:"/cloud"`
	Home     string        `help:"Folder of edged, containerd and the registry." default:"/var/lib/breakwater"`
	Manifest string        `help:"Manifest to apply." default:"/manifest.json"`
	Settings string        `help:"File that is added to the configuration of edged if it is there, such as policies for images." default:"/edged.toml"`
	Images   string        `help:"Folder of OCI layouts to push to the registry." default:"/images"`
	Version  string        `help:"Tag of the images." default:"dev" env:"IMAGE_TAG"`
	Registry string        `help:"Address of the registry." default:":5000"`
	Wait     time.Duration `help:"How long to wait for the hub." default:"60s"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	kong.Parse(&o, kong.Name("edgebox"), kong.Description("An edge device in one container, for development."))
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "edgebox:", err)
		os.Exit(1)
	}
}

// run brings everything up in order and takes it down in the opposite one: edged
// first, because it stops the modules, for which it needs containerd.
func run(ctx context.Context, o options) error {
	g, ctx := errgroup.WithContext(ctx)
	registry, err := openRegistry(o)
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return registry.serve(serving) })
	g.Go(func() error {
		defer stopServing()
		if err := registry.fill(ctx, o.Images, o.Version); err != nil {
			return err
		}
		d := device{options: o}
		if err := d.provision(ctx); err != nil {
			return err
		}
		return d.run(ctx)
	})
	return g.Wait()
}
