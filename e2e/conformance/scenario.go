package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// feature is one row that a scenario fills for its hub.
type feature struct {
	name string
	// na says why the client or the protocol does not have it; it is not tried.
	na string
}

// has lists features that are tried.
func has(names ...string) []feature {
	list := make([]feature, len(names))
	for i, name := range names {
		list[i].name = name
	}
	return list
}

// hasNot lists features that are not applicable.
func hasNot(reason string, names ...string) []feature {
	list := has(names...)
	for i := range list {
		list[i].na = reason
	}
	return list
}

// scenario is a program that speaks the protocol of scenario.js.
type scenario struct {
	client, transport, hub string

	command  []string
	dir      string
	env      []string
	config   map[string]any
	features []feature
	// limit ends the program.
	limit time.Duration
}

func (s *scenario) name() string { return s.client + " " + s.transport + " " + s.hub }

// line is what a program writes.
type line struct {
	Feature string    `json:"feature"`
	OK      bool      `json:"ok"`
	Error   string    `json:"error"`
	Note    string    `json:"note"`
	Arrives []arrival `json:"arrives"`
	Ordered bool      `json:"ordered"`
	Absent  []string  `json:"absent"`
	Ask     string    `json:"ask"`
}

// runScenario runs the program and fills all its rows.
func (w *world) runScenario(ctx context.Context, s *scenario) {
	results := make(map[string]*result)
	var tried []string
	for _, f := range s.features {
		results[f.name] = &result{s.client, s.transport, s.hub, f.name, notApplicable, f.na}
		if f.na == "" {
			tried = append(tried, f.name)
			results[f.name].status = "" // not reached yet
		}
	}
	s.config["features"] = tried
	logged := w.logSizes()
	var output bytes.Buffer
	ended := w.served(ctx, s.hub, s.transport)
	if ended == nil {
		ended = w.runProgram(ctx, s, &output, func(l line) {
			r := results[l.Feature]
			if r == nil || r.status != "" {
				fmt.Fprintf(&output, "%s: not asked for, or told twice\n", l.Feature)
				return
			}
			r.status, r.reason = passed, l.Note
			if err := w.judge(l); err != nil {
				r.status, r.reason = failed, err.Error()
				fmt.Fprintf(&output, "%s: %v\n", l.Feature, err)
			}
		})
	}
	// For who wants to see more than the end of it.
	if err := os.WriteFile(filepath.Join(w.o.Dir, strings.ReplaceAll(s.name(), " ", "-")+".log"), output.Bytes(), 0o600); err != nil {
		w.o.Say("output of %s: %v", s.name(), err)
	}
	failures := false
	for _, f := range s.features {
		r := results[f.name]
		if r.status == "" {
			r.status, r.reason = failed, fmt.Sprintf("not reached: %v", ended)
		}
		failures = failures || r.status == failed
		w.report.add(*r)
	}
	if failures {
		w.explain(s.name(), output.String(), logged)
	}
}

// judge tells whether a feature held: the program has to say so, and the cloud to
// show it.
func (w *world) judge(l line) error {
	switch {
	case !l.OK && l.Error == "":
		return errors.New("the program says no more than that it failed")
	case !l.OK:
		return errors.New(l.Error)
	}
	if err := w.ledger.check(l.Arrives, l.Ordered); err != nil {
		return err
	}
	return w.ledger.absent(l.Absent)
}

// ports of the transports.
var ports = map[string]string{
	"mqtt": portMQTT, "amqp": portAMQP, "mqtt-ws": portHTTPS, "amqp-ws": portHTTPS, "http": portHTTPS, "https": portHTTPS,
}

// served tells whether a hub listens at the port of a transport: clients try it for
// minutes.
func (w *world) served(ctx context.Context, hub, transport string) error {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(w.address(hub), ports[transport]))
	if err != nil {
		return fmt.Errorf("nobody listens: %w", err)
	}
	return conn.Close()
}

// errEnded is why a row is missing when the program ended well.
var errEnded = errors.New("the program ended without a word of it")

// runProgram runs the program, hands each of its lines on, answers what it asks and
// returns why it ended.
func (w *world) runProgram(ctx context.Context, s *scenario, output *bytes.Buffer, each func(line)) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.command[0], err)
	}
	writer := json.NewEncoder(in)
	if err := writer.Encode(s.config); err != nil {
		fmt.Fprintf(output, "configuration: %v\n", err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil || l.Feature == "" && l.Ask == "" {
			fmt.Fprintf(output, "%.500s\n", lines.Text())
			continue
		}
		if l.Ask == "" {
			each(l)
			continue
		}
		if err := writer.Encode(answer(w.grant(ctx, s.hub, l.Ask))); err != nil {
			fmt.Fprintf(output, "answer: %v\n", err)
		}
	}
	in.Close()
	_, _ = io.Copy(io.Discard, out) // after a line that is too long
	err = cmd.Wait()
	output.Write(stderr.Bytes())
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the program did not end within %v", s.limit)
	case err != nil:
		return fmt.Errorf("the program ended: %w", err)
	}
	return errEnded
}

func answer(err error) map[string]any {
	if err != nil {
		return map[string]any{"ok": false, "error": err.Error()}
	}
	return map[string]any{"ok": true}
}

// grant does what a program has asked for.
func (w *world) grant(ctx context.Context, hub, what string) error {
	if what != "restart" {
		return fmt.Errorf("%q is not known", what)
	}
	return w.restart(ctx, hub)
}

// explain says what led to failures: what the program said, and what the hubs have
// logged meanwhile.
func (w *world) explain(name, output string, from map[string]int64) {
	w.o.Say("%s failed; it said:\n%s", name, indent(tail(output, 40)))
	for _, file := range []string{w.rig.CloudLog(), w.rig.HubLog()} {
		if text := logFrom(file, from[file]); text != "" {
			w.o.Say("meanwhile in %s:\n%s", filepath.Base(file), indent(tail(text, 15)))
		}
	}
}

func (w *world) logSizes() map[string]int64 {
	sizes := make(map[string]int64)
	for _, file := range []string{w.rig.CloudLog(), w.rig.HubLog()} {
		if info, err := os.Stat(file); err == nil {
			sizes[file] = info.Size()
		}
	}
	return sizes
}

func logFrom(file string, from int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	raw, err := io.ReadAll(io.NewSectionReader(f, from, 1<<20))
	if err != nil {
		return ""
	}
	return string(raw)
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }
