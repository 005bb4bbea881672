package main

import (
	"errors"
	"fmt"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
)

// errChecks says that checks have failed, which they have reported themselves.
var errChecks = errors.New("checks have failed")

type checkCmd struct {
	ConfigFile string   `short:"c" env:"AZIOT_EDGED_CONFIG" default:"${config}" help:"The daemon's configuration file."`
	DontRun    []string `sep:"," placeholder:"ID" help:"Checks to leave out; see check-list."`
	HubName    string   `name:"iothub-hostname" placeholder:"HOST" help:"Connect to this hub instead of the configured one."`
	NTPServer  string   `name:"ntp-server" default:"pool.ntp.org:123" help:"Server to compare the clock with."`
	Output     string   `short:"o" default:"text" enum:"text,json" help:"Form of the report: text or json."`
	Verbose    bool     `help:"Show all details, and what was not run."`
	Strict     bool     `name:"warnings-as-errors" help:"Take warnings for errors."`
}

// Run checks and reports; errors make the command fail.
func (c checkCmd) Run(e *env) error {
	o := check.Options{Probes: check.Device(c.ConfigFile), DontRun: c.DontRun, HubName: c.HubName, TimeServer: c.NTPServer}
	tally := check.Tally{WarningsAreErrors: c.Strict}
	if c.Output == "json" {
		doc := check.Document{Additional: additional(), Tally: tally}
		if err := check.Run(e.ctx, o, doc.Add); err != nil {
			return err
		}
		return failedIf(doc.Errors, doc.Write(e.stdout))
	}
	text := check.Text{Out: e.stdout, Verbose: c.Verbose, Tally: tally}
	if err := check.Run(e.ctx, o, text.Add); err != nil {
		return err
	}
	return failedIf(text.Errors, text.End())
}

func failedIf(failures int, err error) error {
	if err == nil && failures > 0 {
		return errChecks
	}
	return err
}

// additional describes where the report comes from.
func additional() map[string]any {
	release := hostinfo.Host{}.Release()
	return map[string]any{
		"now":             time.Now().UTC().Format(time.RFC3339),
		"edgectl_version": version,
		"os":              map[string]any{"id": release["ID"], "version_id": release["VERSION_ID"], "arch": runtime.GOARCH},
	}
}

type checkListCmd struct{}

// Run lists ids by group.
func (checkListCmd) Run(e *env) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	group := ""
	for _, c := range check.List() {
		if c.Group != group {
			group = c.Group
			fmt.Fprintln(w, group)
		}
		fmt.Fprintf(w, "   %s\t%s\n", c.ID, c.Name)
	}
	return w.Flush()
}

// defaultConfig is a variable of the command line's defaults.
var defaultConfig = map[string]string{"config": config.DefaultPath}
