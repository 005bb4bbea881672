package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/bundle/host"
	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// bundleExtras adds checks, journals and the module network to support bundles. file is
// the configuration that the daemon was started with.
func bundleExtras(file string) func(context.Context, *bundle.Archive, bundle.Wish) error {
	return func(ctx context.Context, a *bundle.Archive, wish bundle.Wish) error {
		where := check.DeviceOptions{ConfigFile: file, AppliedFile: config.AppliedPath, Program: installed}
		if _, err := os.Stat(config.DefaultPath); err == nil && file == config.AppliedPath {
			where.ConfigFile = config.DefaultPath // the operator's, of which this is a copy
		}
		p := host.Parts{Probes: check.Device(where), Version: version, Wish: wish, TimeServer: check.DefaultTimeServer}
		if st, err := os.Lstat("/run/systemd/system"); err == nil && st.IsDir() {
			p.Journal = journal
		}
		return p.Add(ctx, a)
	}
}

// installed is where the daemon's program lies on a device.
const installed = "/usr/libexec/breakwater/edged"

func journal(ctx context.Context, stdout io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("journalctl: %w: %.200s", err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}
