package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle/host"
	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// errChecks says that checks have failed, which they have reported themselves.
var errChecks = fmt.Errorf("checks have failed: %w", errShown)

type checkCmd struct {
	ConfigFile string   `short:"c" env:"AZIOT_EDGED_CONFIG" default:"${config}" placeholder:"FILE" help:"The configuration."`
	DontRun    []string `sep:"," placeholder:"ID" help:"Checks to leave out; see check-list."`
	HubName    string   `name:"iothub-hostname" placeholder:"HOST" help:"Connect to this hub instead of the configured one."`
	ProxyURI   string   `name:"proxy-uri" placeholder:"URL" help:"Connect from the host through this HTTP proxy; by default that of the environment."`
	NTPServer  string   `name:"ntp-server" default:"${timeserver}" help:"Server to compare the clock with."`
	Aziot      string   `name:"expected-aziot-version" placeholder:"VERSION" help:"Version that edgectl should be of."`
	Edged      string   `name:"expected-aziot-edged-version" placeholder:"VERSION" help:"Version that the daemon should be of; by default that of edgectl."`
	Program    string   `name:"aziot-edged" default:"/usr/libexec/breakwater/edged" placeholder:"PATH" help:"Where the daemon's program is installed."`
	Output     string   `short:"o" default:"text" enum:"text,json" help:"Form of the report: text or json."`
	Verbose    bool     `help:"Show all details, and what was not run."`
	Strict     bool     `name:"warnings-as-errors" help:"Take warnings for errors."`

	// Scripts written for the original give these. There is no engine with a
	// configuration of that kind, and what needs an image there is done without.
	EngineConfig string `name:"container-engine-config-file" hidden:"" help:"Without effect."`
	Image        string `name:"diagnostics-image-name" hidden:"" help:"Without effect."`
}

// device are the probes of this device.
func (e *env) device(file, proxy, program string) check.Probes {
	return check.Device(check.DeviceOptions{
		ConfigFile: file, AppliedFile: e.path(config.AppliedPath), Host: e.host, Proxy: proxy, Program: program,
	})
}

// Run checks and reports; errors make the command fail.
func (c checkCmd) Run(e *env) error {
	o := check.Options{
		Probes: e.device(c.ConfigFile, c.ProxyURI, c.Program), DontRun: c.DontRun, HubName: c.HubName, TimeServer: c.NTPServer,
		Version: version, ExpectedAziot: c.Aziot, ExpectedEdged: c.Edged,
	}
	tally := check.Tally{WarningsAreErrors: c.Strict}
	if c.Output == "json" {
		doc := check.Document{Additional: host.Additional(version), Tally: tally}
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

// defaults are variables of the command line's tags.
var defaults = map[string]string{"config": config.DefaultPath, "timeserver": check.DefaultTimeServer}
