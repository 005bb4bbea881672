package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/config/legacy"
)

// connection is the connection string of a device.
const connection = "HostName=hub.invalid;DeviceId=edge1;SharedAccessKey=c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc4OTA="

// machine stands for the system: its files are below root, its programs note how
// they are run.
type machine struct {
	t      *testing.T
	root   string
	stdin  string
	stdout io.Writer
	out    bytes.Buffer // both streams, unless stdout is set
	calls  []string
	// answers are what programs print, by how their command line begins.
	answers map[string]string
	fail    string // command line that fails
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	for _, dir := range []string{"run/systemd/system", "etc/aziot/edged"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) run(args ...string) int {
	stdout := io.Writer(&m.out)
	if m.stdout != nil {
		stdout = m.stdout
	}
	return run(args, &env{ctx: m.t.Context(), stdin: strings.NewReader(m.stdin), stdout: stdout, stderr: &m.out, tool: m.tool, root: m.root})
}

func (m *machine) tool(_ context.Context, stdout, _ io.Writer, name string, args ...string) error {
	line := name + " " + strings.Join(args, " ")
	m.calls = append(m.calls, line)
	if m.fail != "" && strings.HasPrefix(line, m.fail) {
		return fmt.Errorf("%s: exit status 1", name)
	}
	for begin, text := range m.answers {
		if strings.HasPrefix(line, begin) {
			_, err := io.WriteString(stdout, text)
			return err
		}
	}
	return nil
}

// shown is what systemctl show prints for a unit.
func shown(id, load, active, sub, rest string) string {
	return "Id=" + id + "\nLoadState=" + load + "\nActiveState=" + active + "\nSubState=" + sub + "\n" + rest + "\n"
}

const show = "systemctl show --property=Id,LoadState,ActiveState,SubState,Result,StatusText,ExecMainStatus "

func TestStatusOfUnits(t *testing.T) {
	mgmt := shown("aziot-edged.mgmt.socket", "loaded", "active", "running", "")
	work := shown("aziot-edged.workload.socket", "loaded", "active", "listening", "")
	for _, c := range []struct {
		name, text string
		code       int
		want       []string
	}{
		{"all run", shown("containerd.service", "loaded", "active", "running", "") + mgmt + work +
			shown(service, "loaded", "active", "running", "StatusText=device edge1 of hub.test\n"), 0,
			[]string{"containerd.service            running\n", "aziot-edged.service           running   device edge1 of hub.test\n"}},
		{"containerd from elsewhere", shown("containerd.service", "not-found", "inactive", "dead", "") + mgmt + work +
			shown(service, "loaded", "active", "running", ""), 0, []string{"not installed"}},
		{"failed", shown("containerd.service", "loaded", "active", "running", "") + mgmt + work +
			shown(service, "loaded", "failed", "failed", "Result=exit-code\nExecMainStatus=153\n"), 1,
			[]string{"failed (exit-code, status 153)", "Last lines of aziot-edged.service:\nline 3: hostname: wrong\n"}},
		{"stopped", shown(service, "loaded", "inactive", "dead", ""), 1, []string{"inactive (dead)"}},
		{"waiting", shown(service, "loaded", "activating", "start", "StatusText=waiting to be provisioned\n"), 1, []string{"activating (start)   waiting to be provisioned"}},
		{"killed", shown(service, "loaded", "failed", "failed", "Result=watchdog\nExecMainStatus=0\n"), 1, []string{"failed (watchdog)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.answers = map[string]string{show: c.text, "journalctl --no-pager --lines=10 --output=cat --unit=" + service: "line 3: hostname: wrong\n"}
			if code := m.run("system", "status"); code != c.code {
				t.Errorf("code %d", code)
			}
			for _, want := range c.want {
				if !strings.Contains(squeeze(m.out.String()), squeeze(want)) {
					t.Errorf("no %q in\n%s", want, &m.out)
				}
			}
			if strings.Contains(m.out.String(), "edgectl:") {
				t.Errorf("says it twice: %s", &m.out)
			}
		})
	}
}

// squeeze makes one space of many.
func squeeze(s string) string {
	for strings.Contains(s, "  ") {
		s = strings.ReplaceAll(s, "  ", " ")
	}
	return strings.ReplaceAll(s, " \n", "\n")
}

var (
	restarts = []string{
		"systemctl reset-failed aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-edged.service",
		"systemctl stop aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-edged.service",
		"systemctl start --no-block aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-edged.service",
		show + service,
	}
	runs = map[string]string{show: shown(service, "loaded", "active", "running", "StatusText=device edge1 of hub.test\n")}
)

func TestOrdersForTheSystem(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		answers map[string]string
		fail    string
		code    int
		calls   []string
		text    string
	}{
		{"restart", []string{"system", "restart"}, runs, "", 0, restarts, "edged runs: device edge1 of hub.test"},
		{"restart that fails", []string{"system", "restart"}, map[string]string{show: shown(service, "loaded", "failed", "failed", "Result=exit-code\nExecMainStatus=153\n")},
			"", 1, restarts, "edgectl: edged does not start: failed (exit-code, status 153); see edgectl system logs"},
		{"not installed", []string{"system", "restart"}, map[string]string{show: shown(service, "not-found", "inactive", "dead", "")},
			"", 1, restarts, "edged does not start: not installed"},
		{"stop", []string{"system", "stop"}, nil, "", 0, []string{"systemctl stop aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-edged.service"}, ""},
		{"stop is not permitted", []string{"system", "stop"}, nil, "systemctl stop", 1,
			[]string{"systemctl stop aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-edged.service"}, "edgectl: systemctl: exit status 1"},
		{"logs", []string{"system", "logs"}, map[string]string{"journalctl": "a line\n"}, "", 0,
			[]string{"journalctl --unit=aziot-edged.mgmt.socket --unit=aziot-edged.workload.socket --unit=aziot-edged.service"}, "a line\n"},
		{"logs with arguments", []string{"system", "logs", "--", "-f", "--since", "1 hour ago"}, nil, "", 0,
			[]string{"journalctl --unit=aziot-edged.mgmt.socket --unit=aziot-edged.workload.socket --unit=aziot-edged.service -f --since 1 hour ago"}, ""},
		{"no such level", []string{"system", "set-log-level", "loud"}, nil, "", 2, nil, "must be one of"},
		{"log level", []string{"system", "set-log-level", "debug"}, runs, "", 0, restarts, "edged runs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.answers, m.fail = c.answers, c.fail
			if code := m.run(c.args...); code != c.code || !slices.Equal(m.calls, c.calls) || !strings.Contains(m.out.String(), c.text) {
				t.Errorf("code %d, ran %q: %s", code, m.calls, &m.out)
			}
		})
	}
}

func TestWithoutSystemd(t *testing.T) {
	for _, args := range [][]string{{"system", "status"}, {"system", "restart"}, {"system", "stop"}, {"system", "logs"}, {"system", "set-log-level", "info"}} {
		m := newMachine(t)
		if err := os.RemoveAll(filepath.Join(m.root, "run")); err != nil {
			t.Fatal(err)
		}
		if code := m.run(args...); code != 1 || len(m.calls) > 0 || !strings.Contains(m.out.String(), "systemd does not run here") {
			t.Errorf("%q: code %d, ran %q: %s", args, code, m.calls, &m.out)
		}
	}
}

func TestLogLevelLeavesOtherVariables(t *testing.T) {
	m := newMachine(t)
	m.answers = runs
	file := filepath.Join(m.root, environmentFile)
	if err := os.WriteFile(file, []byte("https_proxy=http://p\nEDGED_LOG=warn\nX=1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code := m.run("system", "set-log-level", "error"); code != 0 {
		t.Fatal(m.out.String())
	}
	text, err := os.ReadFile(file)
	st, statErr := os.Stat(file)
	if err := errors.Join(err, statErr); err != nil || string(text) != "https_proxy=http://p\nX=1\nEDGED_LOG=error\n" || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %q", err, text)
	}
}

func TestMissingProgramsOfTheSystem(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := execute(t.Context(), io.Discard, io.Discard, "systemctl")
	if err == nil || err.Error() != "systemctl is not installed" {
		t.Error(err)
	}
}

func TestConfigFromAConnectionString(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.root, "config.toml")
	if code := m.run("config", "mp", "-c", connection, "-o", file); code != 0 {
		t.Fatal(m.out.String())
	}
	cfg, err := config.Load(file, "gw")
	st, statErr := os.Stat(file)
	if err := errors.Join(err, statErr); err != nil || cfg.Device.DeviceID != "edge1" || cfg.Reprovisioning != config.OnErrorOnly || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %+v", err, cfg.Device)
	}
	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		text  string
	}{
		{"again", "", []string{"-c", connection}, 1, "exists: give --force to replace it"},
		{"replaced, from standard input", connection + "\n", []string{"-c", "-", "--force"}, 0, "now: edgectl config apply"},
		{"of a module", "", []string{"-c", connection + ";ModuleId=m", "-f"}, 1, "provisioning.connection_string: is that of a module"},
		{"nonsense", "", []string{"-c", "nonsense", "-f"}, 1, "edgectl: provisioning.connection_string: "},
		{"none", "", nil, 2, "missing flags"},
	} {
		m.out.Reset()
		m.stdin = c.stdin
		code := m.run(append([]string{"config", "mp", "-o", file}, c.args...)...)
		if code != c.code || !strings.Contains(m.out.String(), c.text) || strings.Contains(m.out.String(), "c2VjcmV0") {
			t.Errorf("%s: code %d: %s", c.name, code, &m.out)
		}
	}
	if _, err := config.Load(file, "gw"); err != nil {
		t.Error(err)
	}
}

func TestConfigFromVersionOne(t *testing.T) {
	m := newMachine(t)
	old, file := filepath.Join(m.root, "config.yaml"), filepath.Join(m.root, "config.toml")
	if err := os.WriteFile(old, []byte("provisioning:\n  source: manual\n  device_connection_string: \""+connection+"\"\nmoby_runtime:\n  uri: unix:///var/run/docker.sock\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := m.run("config", "import", "-c", old, "-o", file); code != 0 || !strings.Contains(m.out.String(), "note: moby_runtime.uri is left out") {
		t.Fatal(m.out.String())
	}
	if cfg, err := config.Load(file, "gw"); err != nil || cfg.Device.HubName != "hub.invalid" {
		t.Errorf("%+v, %v", cfg.Device, err)
	}
	master := filepath.Join(m.root, legacy.MasterKey)
	if err := errors.Join(os.MkdirAll(filepath.Dir(master), 0o700), os.WriteFile(master, make([]byte, 32), 0o600)); err != nil {
		t.Fatal(err)
	}
	if code := m.run("config", "import", "-c", old, "-o", file, "--force"); code != 0 || !strings.Contains(m.out.String(), "note: what modules have sealed is opened with "+master) {
		t.Fatal(m.out.String())
	}
	if cfg, err := config.Load(file, "gw"); err != nil || cfg.MasterKeys.Encryption != master {
		t.Errorf("%+v, %v", cfg.MasterKeys, err)
	}
	for file, want := range map[string]string{filepath.Join(m.root, "none"): "no such file", file: "not a config.yaml of version 1.1"} {
		m.out.Reset()
		if code := m.run("config", "import", "-c", file, "-o", old); code != 1 || !strings.Contains(m.out.String(), want) || strings.Contains(m.out.String(), "c2VjcmV0") {
			t.Errorf("%s: code %d: %s", file, code, &m.out)
		}
	}
}

func TestApply(t *testing.T) {
	m := newMachine(t)
	m.answers = runs
	home := filepath.Join(m.root, "home")
	file, applied := filepath.Join(m.root, "config.toml"), filepath.Join(m.root, config.AppliedPath)
	write := func(hostname, more string) {
		t.Helper()
		text := "hostname = \"" + hostname + "\"\nhomedir = \"" + home + "\"\n" + more + "[provisioning]\nsource = \"manual\"\nconnection_string = \"" + connection + "\"\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(code int, text string, restarted bool) {
		t.Helper()
		m.out.Reset()
		m.calls = nil
		before, _ := os.ReadFile(applied)
		got := m.run("config", "apply", "-c", file)
		if got != code || !strings.Contains(m.out.String(), text) || slices.Equal(m.calls, restarts) != restarted {
			t.Errorf("code %d, ran %q: %s", got, m.calls, &m.out)
		}
		after, _ := os.ReadFile(applied)
		want, _ := os.ReadFile(file)
		if code == 0 && !bytes.Equal(after, want) || code != 0 && !bytes.Equal(after, before) {
			t.Errorf("applied:\n%s", after)
		}
	}
	apply(1, "no such file", false)
	write("gw1", "")
	apply(0, "is applied", true)
	if st, err := os.Stat(applied); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Dir(applied)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
	write("gw2", "nonsense = 1\nhostnme = 2\n")
	apply(1, "config.toml: line 3: nonsense: unknown key\n"+file+": line 4: hostnme: unknown key", false)
	write("gw2", "")
	apply(0, "is applied", true) // no modules yet
	if err := errors.Join(os.MkdirAll(filepath.Join(home, "mnt"), 0o755), os.WriteFile(filepath.Join(home, "mnt", "edgeAgent.sock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	write("gw3", "")
	apply(1, `hostname cannot be changed from "gw2" to "gw3" while there are modules: edgeAgent`, false)
	write("gw2", "localid = { domain = \"x\" }\n")
	apply(0, "warning: "+file+": line 3: localid: has no effect", true)
	write("gw2", "cloud_retries = 2\n")
	apply(0, "edged runs", true)
	if err := os.RemoveAll(filepath.Join(m.root, "run")); err != nil {
		t.Fatal(err)
	}
	apply(0, "systemd does not run here", false)
}

func TestCompletionScriptsAreThoseThatAreInstalled(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		m := newMachine(t)
		want, err := os.ReadFile("../../../deploy/completion/edgectl." + shell)
		if err != nil {
			t.Fatal(err)
		}
		if code := m.run("completion", shell, "--program", "/usr/bin/edgectl"); code != 0 || m.out.String() != string(want) {
			t.Errorf("%s: code %d: %s", shell, code, &m.out)
		}
	}
	for args, want := range map[string]int{"completion csh": 2, "completion bash --program /a;b": 1, "completion bash --program edgectl": 1} {
		m := newMachine(t)
		if code := m.run(strings.Fields(args)...); code != want {
			t.Errorf("%s: code %d", args, code)
		}
	}
}

func TestWordsAreSuggested(t *testing.T) {
	for line, want := range map[string]string{
		"edgectl ":                    "check",
		"edgectl sys":                 "system",
		"edgectl system ":             "set-log-level",
		"edgectl check --war":         "--warnings-as-errors",
		"edgectl config mp --out-con": "--out-config-file",
	} {
		t.Setenv("COMP_LINE", line)
		t.Setenv("COMP_POINT", fmt.Sprint(len(line)))
		m := newMachine(t)
		if code := m.run(); code != 0 || !slices.Contains(strings.Fields(m.out.String()), want) {
			t.Errorf("%q: code %d: %q", line, code, m.out.String())
		}
	}
}
