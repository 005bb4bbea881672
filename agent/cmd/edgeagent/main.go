// Command edgeagent reads the device's deployment from its module twin, changes
// the modules that differ from it, and reports what runs. The security daemon
// starts it in a container and sets its environment; it takes no arguments, but
//
//	edgeagent telemetry show [FOLDER]
//
// prints the quality telemetry that waits to be sent, exactly as it would be sent, a
// series a line. FOLDER is the agent's storage folder, StorageFolder/edgeAgent by
// default.
//
// It ends with code 0 when it is asked to end, and leaves the other modules to the
// daemon; and with code 1 when it cannot go on; the daemon then starts it again.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the container has no CA files

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/agent/internal/cloud"
	"github.com/breakwater-iot/breakwater/agent/internal/privilege"
	"github.com/breakwater-iot/breakwater/agent/internal/quality"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "edgeagent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args, environ []string, out io.Writer) error {
	switch {
	case len(args) > 1 && args[0] == "telemetry" && args[1] == "show" && len(args) < 4:
		folder := filepath.Join(cmp.Or(lookup(environ)("StorageFolder"), os.TempDir()), "edgeAgent")
		if len(args) == 3 {
			folder = args[2]
		}
		return quality.Open(folder).Show(out)
	case len(args) > 0:
		return errors.New("usage: edgeagent [telemetry show [FOLDER]]")
	}
	s, err := settings.Parse(environ)
	if err != nil {
		return err
	}
	if err := dropRoot(s); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: s.LogLevel}))
	build := buildInfo()
	log.Info("edgeagent starts", "version", build.Version, "device", s.Host.DeviceID, "hub", s.Host.HubName)
	defer log.Info("edgeagent ends")
	return agent.Run(ctx, s, build, cloud.Connect(lookup(environ)), log)
}

// dropRoot makes the program run as the user that it was given, who gets the storage
// folder and the daemon's management socket.
func dropRoot(s settings.Settings) error {
	if s.UserID == 0 {
		return nil
	}
	if err := os.MkdirAll(s.StorageFolder, 0o700); err != nil {
		return fmt.Errorf("storage folder: %w", err)
	}
	return privilege.Drop(s.UserID, s.StorageFolder, strings.TrimPrefix(s.Host.ManagementURI, "unix://"))
}

// lookup is os.Getenv for an environment.
func lookup(environ []string) func(string) string {
	values := make(map[string]string, len(environ))
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		values[k] = v
	}
	return func(name string) string { return values[name] }
}

func buildInfo() report.Build {
	b := report.Build{Version: version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Build = info.GoVersion
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	return b
}
