package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
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

// archive is the bundle as it grows.
type archive struct {
	zip *zip.Writer
	now time.Time
	// say is told of each entry.
	say func(entry string)
}

// add puts a text in, without its secrets.
func (a *archive) add(name string, text io.Reader) error {
	a.say(name)
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.now})
	if err != nil {
		return err
	}
	return redact(w, text)
}

func (b bundleCmd) write(e *env, w io.Writer, now time.Time, say func(string)) error {
	a := &archive{zip: zip.NewWriter(w), now: now, say: say}
	for _, part := range []func(*env, *archive) error{b.fromDaemon, b.checks, b.journals, b.network} {
		if err := part(e, a); err != nil {
			return err
		}
	}
	return a.zip.Close()
}

// fromDaemon takes over the daemon's own bundle: logs and states of modules, and the
// host's description.
func (b bundleCmd) fromDaemon(e *env, a *archive) (err error) {
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
		text, err := entry.Open()
		if err != nil {
			return fmt.Errorf("the daemon's bundle: %w", err)
		}
		if err := errors.Join(a.add(entry.Name, text), text.Close()); err != nil {
			return fmt.Errorf("the daemon's bundle: %s: %w", entry.Name, err)
		}
	}
	return nil
}

// fetch returns how many bytes have come, with an error too.
func (b bundleCmd) fetch(e *env, w io.Writer) (size int64, err error) {
	conn, err := e.connect()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stream, err := managementv1.NewSystemClient(conn).SupportBundle(e.ctx, &managementv1.SupportBundleRequest{
		Since: b.Since, Until: b.Until, EdgeRuntimeOnly: b.Runtime,
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

func (b bundleCmd) checks(e *env, a *archive) error {
	doc := check.Document{Additional: additional()}
	o := check.Options{Probes: e.device(b.ConfigFile, "", ""), HubName: b.HubName, TimeServer: b.NTPServer, Version: version}
	if err := check.Run(e.ctx, o, doc.Add); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := doc.Write(&text); err != nil {
		return err
	}
	return a.add("check.json", &text)
}

// journals of services, by the names of their entries.
var journals = []struct{ entry, unit string }{
	{"logs/aziot-edged.txt", service}, {"logs/containerd.txt", "containerd.service"},
}

func (b bundleCmd) journals(e *env, a *archive) error {
	if err := e.systemd(); err != nil {
		fmt.Fprintln(e.stderr, "edgectl: without journals:", err)
		return nil
	}
	args := []string{"--no-pager", "--output=short-iso-precise"}
	for name, at := range map[string]string{"since": b.Since, "until": b.Until} {
		if t, err := humantime.Moment(at, a.now); err == nil && !t.IsZero() {
			args = append(args, "--"+name+"=@"+strconv.FormatInt(t.Unix(), 10))
		}
	}
	for _, j := range journals {
		f, err := os.CreateTemp("", "edgectl-journal-")
		if err != nil {
			return err
		}
		err = e.tool(e.ctx, f, e.stderr, "journalctl", append([]string{"--unit=" + j.unit}, args...)...)
		if err != nil {
			// An unreadable journal is worth a line, not the bundle.
			fmt.Fprintf(e.stderr, "edgectl: %s is not complete: %v\n", j.entry, err)
		}
		_, err = f.Seek(0, io.SeekStart)
		if err == nil {
			err = a.add(j.entry, f)
		}
		if err := errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// network adds the configuration of the module network, as its plugins get it.
func (b bundleCmd) network(e *env, a *archive) error {
	cfg, err := e.device(b.ConfigFile, "", "").Config()
	if err != nil {
		return nil //nolint:nilerr // check.json tells
	}
	text, err := os.ReadFile(filepath.Join(cfg.HomeDir, "cni", "modules.conflist"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.add("network/"+cfg.Containerd.Network+".json", bytes.NewReader(text))
}
