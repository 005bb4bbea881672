package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

type systemCmd struct {
	Status      statusCmd      `cmd:"" help:"Show the state of the runtime's units, and the last lines of those that have failed."`
	Restart     sysRestartCmd  `cmd:"" help:"Restart edged with its sockets; modules are stopped and started."`
	Stop        sysStopCmd     `cmd:"" help:"Stop edged with its sockets and all modules."`
	Logs        sysLogsCmd     `cmd:"" help:"Show the journal of the runtime's units; arguments after -- are for journalctl."`
	SetLogLevel setLogLevelCmd `cmd:"" help:"Set the least level of edged's log lines, and restart it."`
	Reprovision reprovisionCmd `cmd:"" help:"Have the device provisioned anew: modules are stopped, and removed and deployed again."`
}

const service = "aziot-edged.service"

// units are what is started and stopped; sockets come first.
var units = []string{"aziot-edged.mgmt.socket", "aziot-edged.workload.socket", service}

// environmentFile is read by the service's unit.
const environmentFile = "/etc/aziot/edged/environment"

// unit is what systemctl show tells.
type unit struct{ id, load, active, sub, result, status, code string }

// show asks for the state of units.
func (e *env) show(names ...string) ([]unit, error) {
	var out bytes.Buffer
	args := []string{"show", "--property=Id,LoadState,ActiveState,SubState,Result,StatusText,ExecMainStatus"}
	if err := e.tool(e.ctx, &out, e.stderr, "systemctl", append(args, names...)...); err != nil {
		return nil, err
	}
	var all []unit
	for _, text := range strings.Split(strings.TrimSpace(out.String()), "\n\n") {
		var u unit
		for line := range strings.Lines(text) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "Id":
				u.id = value
			case "LoadState":
				u.load = value
			case "ActiveState":
				u.active = value
			case "SubState":
				u.sub = value
			case "Result":
				u.result = value
			case "StatusText":
				u.status = value
			case "ExecMainStatus":
				u.code = value
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// word says in a word or two how the unit is.
func (u unit) word() string {
	switch {
	case u.load == "not-found":
		return "not installed"
	case u.active == "failed" && u.code != "" && u.code != "0":
		return fmt.Sprintf("failed (%s, status %s)", u.result, u.code)
	case u.active == "failed":
		return "failed (" + u.result + ")"
	case u.active == "active":
		return "running"
	}
	return u.active + " (" + u.sub + ")"
}

// errNotRunning says that a unit does not run, which the status has shown.
var errNotRunning = fmt.Errorf("not all units run: %w", errShown)

type statusCmd struct{}

// Run lists the units; it fails when one does not run.
func (statusCmd) Run(e *env) error {
	if err := e.systemd(); err != nil {
		return err
	}
	all, err := e.show(append([]string{"containerd.service"}, units...)...)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	down := false
	for _, u := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", u.id, u.word(), u.status)
		// Who has containerd from elsewhere sees that it is not there, no more.
		down = down || u.active != "active" && (u.load != "not-found" || u.id != "containerd.service")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, u := range all {
		if u.active != "failed" {
			continue
		}
		fmt.Fprintf(e.stdout, "\nLast lines of %s:\n", u.id)
		if err := e.tool(e.ctx, e.stdout, e.stderr, "journalctl", "--no-pager", "--lines=10", "--output=cat", "--unit="+u.id); err != nil {
			return err
		}
	}
	if down {
		return errNotRunning
	}
	return nil
}

type sysRestartCmd struct{}

// Run restarts the sockets too, so that a changed unit file counts.
func (sysRestartCmd) Run(e *env) error {
	if err := e.systemd(); err != nil {
		return err
	}
	return e.restart()
}

// Between two looks at a service that starts, and how many.
const (
	settlePause = 500 * time.Millisecond
	settleLooks = 60
)

// restart restarts the units and waits half a minute for the service to be ready.
// A device that waits for its provisioning service may take longer.
func (e *env) restart() error {
	// What has failed too often is not started else.
	if err := e.systemctl(append([]string{"reset-failed"}, units...)...); err != nil {
		return err
	}
	if err := e.systemctl(append([]string{"stop"}, units...)...); err != nil {
		return err
	}
	if err := e.systemctl(append([]string{"start", "--no-block"}, units...)...); err != nil {
		return err
	}
	ticker := time.NewTicker(settlePause)
	defer ticker.Stop()
	var u unit
	for range settleLooks {
		all, err := e.show(service)
		if err != nil {
			return err
		}
		switch u = all[0]; u.active {
		case "active":
			_, err := fmt.Fprintln(e.stdout, "edged runs:", u.status)
			return err
		case "failed", "inactive":
			if u.active == "failed" || u.load == "not-found" {
				return fmt.Errorf("edged does not start: %s; see edgectl system logs", u.word())
			}
		}
		select {
		case <-e.ctx.Done():
			return e.ctx.Err()
		case <-ticker.C:
		}
	}
	_, err := fmt.Fprintf(e.stdout, "edged is still starting: %s; see edgectl system status\n", u.status)
	return err
}

type sysStopCmd struct{}

// Run stops the sockets with the service: else the next client would start it.
func (sysStopCmd) Run(e *env) error {
	if err := e.systemd(); err != nil {
		return err
	}
	return e.systemctl(append([]string{"stop"}, units...)...)
}

type sysLogsCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" help:"Arguments for journalctl, as in: -- --follow."`
}

// Run hands over to journalctl.
func (s sysLogsCmd) Run(e *env) error {
	if err := e.systemd(); err != nil {
		return err
	}
	var args []string
	for _, name := range units {
		args = append(args, "--unit="+name)
	}
	if len(s.Args) > 0 && s.Args[0] == "--" {
		s.Args = s.Args[1:]
	}
	return e.tool(e.ctx, e.stdout, e.stderr, "journalctl", append(args, s.Args...)...)
}

type setLogLevelCmd struct {
	Level string `arg:"" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
}

// Run changes the variable in the unit's environment file; other lines stay.
func (s setLogLevelCmd) Run(e *env) error {
	if err := e.systemd(); err != nil {
		return err
	}
	path := e.path(environmentFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(string(old)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "EDGED_LOG=") {
			text.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	text.WriteString("EDGED_LOG=" + s.Level + "\n")
	// Proxies may be set there with their password.
	if err := atomicfile.Write(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return e.restart()
}

type reprovisionCmd struct{}

// Run asks the daemon, which ends and is started again by the service manager.
func (reprovisionCmd) Run(e *env) (err error) {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := managementv1.NewSystemClient(conn).Reprovision(e.ctx, &managementv1.ReprovisionRequest{}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, "the device is being provisioned anew")
	return err
}
