package main

import (
	"archive/zip"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/bundle/host"
	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

type bundleCmd struct {
	Output     string `short:"o" placeholder:"FILE" help:"File to write, - for standard output; by default named after the time."`
	Since      string `default:"1 day" help:"Only log lines since a time, or a duration ago."`
	Until      string `help:"Only log lines before a time, or a duration ago."`
	Runtime    bool   `short:"e" name:"include-edge-runtime-only" help:"Only edgeAgent and edgeHub of the modules."`
	HubName    string `name:"iothub-hostname" placeholder:"HOST" help:"Check the connection to this hub instead of the configured one."`
	NTPServer  string `name:"ntp-server" default:"${timeserver}" placeholder:"HOST:PORT" help:"Server to compare the clock with."`
	ConfigFile string `short:"c" default:"${config}" placeholder:"FILE" help:"The configuration, for check.json."`
	Quiet      bool   `short:"q" help:"Do not say what is in the file and where it is."`
}

// Run makes a zip file of what the daemon tells of the modules, the journals of
// edged and containerd, the module network and the checks. What is missing, as when
// the daemon does not run, is said; the rest is needed then most. A file appears when
// it is whole, readable by its owner only: what modules log is nobody else's business.
func (b bundleCmd) Run(e *env) error {
	now := time.Now()
	for _, at := range []string{b.Since, b.Until} {
		if _, err := humantime.Moment(at, now); err != nil {
			return err
		}
	}
	if b.Output == "-" {
		return b.write(e, e.stdout, now, func(string) {})
	}
	name := cmp.Or(b.Output, "support_bundle_"+now.UTC().Format("2006_01_02_15_04_05")+"_UTC.zip")
	say := func(entry string) { fmt.Fprintln(e.stdout, "  "+entry) }
	if b.Quiet {
		say = func(string) {}
	}
	if err := writeWhole(name, func(w io.Writer) error { return b.write(e, w, now, say) }); err != nil || b.Quiet {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, name)
	return err
}

// writeWhole writes a file beside its place and moves it there at the end.
func writeWhole(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".support_bundle_")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// write writes the daemon's own bundle, and what that does not have: of a daemon that
// does not run, or of checks that were asked for in another way, everything but the
// modules.
func (b bundleCmd) write(e *env, w io.Writer, now time.Time, say func(string)) error {
	a := bundle.New(w, now)
	a.Say = say
	if err := b.fromDaemon(e, a); err != nil {
		return err
	}
	p := host.Parts{
		Probes: e.device(b.ConfigFile, "", ""), Version: version, TimeServer: b.NTPServer,
		Wish: bundle.Wish{HubName: b.HubName},
	}
	if err := e.systemd(); err != nil {
		if !a.Has(host.EdgedLog) {
			fmt.Fprintln(e.stderr, "edgectl: without journals:", err)
		}
	} else {
		p.Journal = func(ctx context.Context, stdout io.Writer, args ...string) error {
			return e.tool(ctx, stdout, e.stderr, "journalctl", args...)
		}
	}
	var err error
	if p.Since, err = humantime.Moment(b.Since, now); err != nil {
		return err
	}
	if p.Until, err = humantime.Moment(b.Until, now); err != nil {
		return err
	}
	if err := p.Add(e.ctx, a); err != nil {
		return err
	}
	return a.Close()
}

// asked tells whether the checks are to be done as the command line says, and not as the
// daemon would.
func (b bundleCmd) asked() bool {
	return b.NTPServer != check.DefaultTimeServer || b.ConfigFile != config.DefaultPath
}

// fromDaemon takes over the daemon's own bundle.
func (b bundleCmd) fromDaemon(e *env, a *bundle.Archive) (err error) {
	f, err := os.CreateTemp("", "edgectl-bundle-") // zip files are read from their end
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	size, err := b.fetch(e, f)
	if size == 0 && status.Code(err) == codes.Unavailable {
		fmt.Fprintln(e.stderr, "edgectl: without logs and states of modules:", describe(err))
		return nil
	}
	if err != nil {
		return err
	}
	r, err := zip.NewReader(f, size)
	if err != nil {
		return fmt.Errorf("the daemon's bundle: %w", err)
	}
	for _, entry := range r.File {
		if entry.Name == host.ChecksEntry && b.asked() {
			continue
		}
		if err := copyEntry(a, entry); err != nil {
			return fmt.Errorf("the daemon's bundle: %s: %w", entry.Name, err)
		}
	}
	return nil
}

func copyEntry(a *bundle.Archive, entry *zip.File) error {
	text, err := entry.Open()
	if err != nil {
		return err
	}
	return errors.Join(a.Add(entry.Name, func(w io.Writer) error {
		_, err := io.Copy(w, text) //nolint:gosec // from the device's own daemon
		return err
	}), text.Close())
}

// fetch returns how many bytes have come, with an error too.
func (b bundleCmd) fetch(e *env, w io.Writer) (size int64, err error) {
	conn, err := e.connect()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stream, err := managementv1.NewSystemClient(conn).SupportBundle(e.ctx, &managementv1.SupportBundleRequest{
		Since: b.Since, Until: b.Until, EdgeRuntimeOnly: b.Runtime, IothubHostname: b.HubName,
	})
	if err != nil {
		return 0, err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		n, err := w.Write(chunk.GetData())
		size += int64(n)
		if err != nil {
			return size, err
		}
	}
}
