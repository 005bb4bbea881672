// Package host adds to a support bundle what the machine tells, beside the modules: the
// checks, the journals and the module network.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

// Names of entries.
const (
	ChecksEntry = "check.json"
	EdgedLog    = "logs/aziot-edged.txt"
	engineLog   = "logs/containerd.txt"
)

// checkTime bounds all checks together: without a network most of them wait.
const checkTime = 90 * time.Second

// Parts says where to look. Probes and Version are needed.
type Parts struct {
	Probes  check.Probes
	Version string
	bundle.Wish
	TimeServer string
	// Journal runs journalctl; nil means that the machine has no journal.
	Journal func(ctx context.Context, stdout io.Writer, args ...string) error
}

// Additional describes where a report of checks comes from.
func Additional(version string) map[string]any {
	release := hostinfo.Host{}.Release()
	return map[string]any{
		"now":             time.Now().UTC().Format(time.RFC3339),
		"edgectl_version": version,
		"os":              map[string]any{"id": release["ID"], "version_id": release["VERSION_ID"], "arch": runtime.GOARCH},
	}
}

// Add adds all parts that are not there yet.
func (p Parts) Add(ctx context.Context, a *bundle.Archive) error {
	for _, part := range []func(context.Context, *bundle.Archive) error{p.network, p.journals, p.checks} {
		if err := part(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (p Parts) checks(ctx context.Context, a *bundle.Archive) error {
	if a.Has(ChecksEntry) {
		return nil
	}
	doc := check.Document{Additional: Additional(p.Version)}
	within, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	o := check.Options{Probes: p.Probes, HubName: p.HubName, TimeServer: p.TimeServer, Version: p.Version}
	err := check.Run(within, o, doc.Add)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		doc.Additional["incomplete"] = fmt.Sprintf("checks that are missing were not done within %v", checkTime)
		err = nil
	}
	if err != nil {
		return err
	}
	return a.Add(ChecksEntry, doc.Write)
}

func (p Parts) journals(ctx context.Context, a *bundle.Archive) error {
	if p.Journal == nil {
		return nil
	}
	args := []string{"--no-pager", "--output=short-iso-precise"}
	for _, at := range []struct {
		flag string
		time time.Time
	}{{"--since", p.Since}, {"--until", p.Until}} {
		if !at.time.IsZero() {
			args = append(args, at.flag+"=@"+strconv.FormatInt(at.time.Unix(), 10))
		}
	}
	for _, j := range []struct{ entry, unit string }{{EdgedLog, "aziot-edged.service"}, {engineLog, "containerd.service"}} {
		if a.Has(j.entry) {
			continue
		}
		err := a.Add(j.entry, func(w io.Writer) error {
			err := p.Journal(ctx, w, append([]string{"--unit=" + j.unit}, args...)...)
			if err != nil && ctx.Err() == nil {
				// A journal that cannot be read is worth a line, not the bundle.
				_, err = fmt.Fprintf(w, "(journal is not complete: %v)\n", err)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// network adds the configuration of the module network, as its plugins get it, and which
// module has which addresses.
func (p Parts) network(_ context.Context, a *bundle.Archive) error {
	cfg, err := p.Probes.Config()
	if err != nil {
		return nil //nolint:nilerr // check.json tells
	}
	for _, part := range []struct{ entry, file string }{
		{"network/" + cfg.Containerd.Network + ".json", "modules.conflist"},
		{"network/addresses.json", "addresses.json"},
	} {
		if a.Has(part.entry) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(network.Dir(cfg.HomeDir), part.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := a.Add(part.entry, func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
