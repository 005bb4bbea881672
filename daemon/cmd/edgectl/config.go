package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/config/legacy"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

type configCmd struct {
	Apply  applyCmd  `cmd:"" help:"Check the configuration, hand it to edged and restart edged."`
	MP     mpCmd     `cmd:"" name:"mp" help:"Make a configuration from the connection string of a device."`
	Import importCmd `cmd:"" help:"Make a configuration from the config.yaml of IoT Edge 1.1."`
}

type applyCmd struct {
	ConfigFile string `short:"c" default:"${config}" placeholder:"FILE" help:"The configuration."`
}

// Run refuses what edged would refuse, so that a mistake stops nothing that runs.
func (a applyCmd) Run(e *env) error {
	machine, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of the machine: %w", err)
	}
	text, err := os.ReadFile(a.ConfigFile)
	if err != nil {
		return err
	}
	cfg, err := config.Load(a.ConfigFile, machine)
	if err != nil {
		return inFile(a.ConfigFile, err)
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintf(e.stderr, "edgectl: warning: %s: %v\n", a.ConfigFile, w)
	}
	applied := e.path(config.AppliedPath)
	if err := refuseRename(applied, machine, cfg); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(applied), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(applied, text, 0o600); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, a.ConfigFile, "is applied")
	if err := e.systemd(); err != nil {
		_, err := fmt.Fprintln(e.stdout, err)
		return err
	}
	return e.restart()
}

// refuseRename compares the hostname with the one that is in force. Certificates and
// environments of modules carry it, so it may change only when there are none.
func refuseRename(applied, machine string, cfg config.Config) error {
	old, err := config.Load(applied, machine)
	if err != nil {
		return nil //nolint:nilerr // nothing that could run is in force
	}
	if old.Hostname == cfg.Hostname {
		return nil
	}
	// A module's socket lives as long as its container.
	sockets, err := filepath.Glob(filepath.Join(old.HomeDir, "mnt", "*.sock"))
	if err != nil || len(sockets) == 0 {
		return err
	}
	var names []string
	for _, s := range sockets {
		names = append(names, strings.TrimSuffix(filepath.Base(s), ".sock"))
	}
	return fmt.Errorf("hostname cannot be changed from %q to %q while there are modules: %s", old.Hostname, cfg.Hostname, strings.Join(names, ", "))
}

// inFile puts the name of a file before each problem of it.
func inFile(name string, err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return fmt.Errorf("%s: %w", name, err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, fmt.Errorf("%s: %w", name, e))
	}
	return errors.Join(errs...)
}

type mpCmd struct {
	ConnectionString string `short:"c" required:"" placeholder:"TEXT" help:"The device's connection string; - reads it from standard input, where no list of processes shows it."`
	Out              string `short:"o" name:"out-config-file" default:"${config}" placeholder:"FILE" help:"File to write."`
	Force            bool   `short:"f" help:"Replace the file."`
}

// maxLine bounds what is read from standard input.
const maxLine = 64 << 10

// Run writes a file that is for root only.
func (m mpCmd) Run(e *env) error {
	if m.ConnectionString == "-" {
		text, err := io.ReadAll(io.LimitReader(e.stdin, maxLine))
		if err != nil {
			return fmt.Errorf("connection string: %w", err)
		}
		m.ConnectionString = strings.TrimSpace(string(text))
	}
	return writeConfig(e, m.Out, m.Force, "# Made by edgectl config mp.\n", map[string]any{
		"auto_reprovisioning_mode": string(config.OnErrorOnly),
		"provisioning":             map[string]any{"source": "manual", "connection_string": m.ConnectionString},
	})
}

// writeConfig writes a document that edged takes.
func writeConfig(e *env, file string, force bool, head string, doc map[string]any) error {
	var text bytes.Buffer
	text.WriteString(head)
	if err := toml.NewEncoder(&text).Encode(doc); err != nil {
		return err
	}
	machine, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of the machine: %w", err)
	}
	if _, err := config.Parse(text.Bytes(), machine); err != nil {
		var first *config.Error
		if errors.As(err, &first) {
			first.Line = 0 // of a text that nobody sees
		}
		return err
	}
	write := atomicfile.Create
	if force {
		write = atomicfile.Write
	}
	err = write(file, text.Bytes(), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: give --force to replace it", file)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%s is written; now: edgectl config apply\n", file)
	return err
}

type importCmd struct {
	ConfigFile string `short:"c" default:"/etc/iotedge/config.yaml" placeholder:"FILE" help:"The old configuration."`
	Out        string `short:"o" name:"out-config-file" default:"${config}" placeholder:"FILE" help:"File to write."`
	Force      bool   `short:"f" help:"Replace the file."`
}

// Run says what it leaves out.
func (i importCmd) Run(e *env) error {
	text, err := os.ReadFile(i.ConfigFile)
	if err != nil {
		return err
	}
	doc, notes, err := legacy.Convert(text)
	if err != nil {
		return fmt.Errorf("%s: %w", i.ConfigFile, err)
	}
	if key := e.path(legacy.MasterKey); isFile(key) {
		doc["imported_master_encryption_key"] = key
		notes = append(notes, "what modules have sealed is opened with "+key+", which edged takes over when it is started for the first time")
	}
	for _, n := range notes {
		fmt.Fprintln(e.stderr, "edgectl: note:", n)
	}
	return writeConfig(e, i.Out, i.Force, "# Made by edgectl config import from "+i.ConfigFile+".\n", doc)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
