// Command devbox runs the whole of Breakwater on one machine: a cloud, an edge
// device with its modules in containers, and a leaf device, and shows telemetry on
// its way through all of them. It ends with Ctrl-C or after the time given, takes
// everything down and prints an account of the messages.
//
// Exit status: 0 if nothing was lost and no module failed, else 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

type cli struct {
	Root     string        `help:"Root of the source tree." default:"." type:"existingdir"`
	For      time.Duration `help:"End by itself after this time of telemetry (0: on Ctrl-C)." default:"0s"`
	Manifest string        `help:"Deployment manifest; the development one if not given." type:"path"`
	Keep     bool          `help:"Keep the logs and data."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	kong.Parse(&c, kong.Name("devbox"), kong.Description("Runs a cloud, an edge device and a leaf device on this machine."))
	if err := run(ctx, stop, c); err != nil {
		fmt.Fprintln(os.Stderr, "devbox:", err)
		os.Exit(1)
	}
}

// run lives until ctx ends or the time is up. release gives Ctrl-C its usual effect
// back, so that a second one ends a clean-up that hangs.
func run(ctx context.Context, release func(), c cli) (err error) {
	screen := newScreen(os.Stdout)
	r, err := rig.New(ctx, rig.Options{Root: c.Root, Manifest: c.Manifest, Keep: c.Keep, Say: screen.say})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.Logs(os.Stderr, 25)
		}
		screen.say("taking everything down")
		err = errors.Join(err, r.Close())
	}()
	if err := bring(ctx, r, screen); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before everything ran")
		}
		return err
	}
	if c.For > 0 {
		screen.line("everything runs; telemetry for %v", c.For)
	} else {
		screen.say("everything runs; Ctrl-C ends it")
	}
	watch(ctx, r, screen, c.For)
	release()
	return account(r, screen)
}

func bring(ctx context.Context, r *rig.Rig, screen *screen) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if _, err := r.Bring(ctx); err != nil {
		return err
	}
	if err := r.Monitor(screen.message); err != nil {
		return err
	}
	return r.StartLeaf(ctx)
}

// watch shows a status line every 5 seconds.
func watch(ctx context.Context, r *rig.Rig, screen *screen, limit time.Duration) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Edged().Done():
			return // account reports it
		case <-tick.C:
			screen.status(ctx, r)
		}
	}
}

// account closes the books and prints them.
func account(r *rig.Rig, screen *screen) error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	screen.say("letting the senders finish")
	if r.Edged().Ended() {
		return errors.New("edged ended by itself")
	}
	if err := r.Quiet(ctx); err != nil {
		return err
	}
	last, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	balances, err := r.Balances(last)
	if err != nil {
		return err
	}
	metrics, err := r.HubMetrics(ctx)
	if err != nil {
		return err
	}
	report, _, err := r.AgentReport(ctx)
	if err != nil {
		return err
	}
	return screen.summary(balances, metrics, report, r.PeakMemory())
}
