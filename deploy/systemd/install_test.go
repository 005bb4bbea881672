package systemd_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// worst is the exposure, in tenths, that systemd-analyze may find in the service:
// most of what it counts are the rights to network and mounts.
const worst = "52"

// install runs the installer with programs that do nothing and returns DESTDIR.
func install(t *testing.T) string {
	t.Helper()
	bin, dest := t.TempDir(), t.TempDir()
	for _, name := range []string{"edged", "edged-log", "edged-init", "edged-pkcs11", "edgectl"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("BIN", bin)
	out := order(t, dest, "install")
	if !strings.Contains(out, "edgectl config apply") {
		t.Errorf("does not say what next: %s", out)
	}
	return dest
}

func order(t *testing.T, dest, what string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../install.sh", what)
	cmd.Env = append(os.Environ(), "DESTDIR="+dest)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", what, err, out)
	}
	return string(out)
}

// files lists a tree with modes, folders of its own kind included.
func files(t *testing.T, root string) string {
	t.Helper()
	var out bytes.Buffer
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root)
		if d.IsDir() && info.Mode().Perm() == 0o755 {
			return nil
		}
		fmt.Fprintf(&out, "%04o %s\n", info.Mode().Perm(), rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestInstallPutsEverythingInItsPlace(t *testing.T) {
	dest := install(t)
	const want = `0600 /etc/aziot/config.toml.edge.template
0700 /etc/aziot/edged
0700 /etc/aziot/edged/config.d
0755 /usr/bin/edgectl
0644 /usr/lib/systemd/system/aziot-edged.mgmt.socket
0644 /usr/lib/systemd/system/aziot-edged.service
0644 /usr/lib/systemd/system/aziot-edged.workload.socket
0644 /usr/lib/sysusers.d/aziot-edged.conf
0644 /usr/lib/tmpfiles.d/aziot-edged.conf
0755 /usr/libexec/breakwater/edged
0755 /usr/libexec/breakwater/edged-init
0755 /usr/libexec/breakwater/edged-log
0755 /usr/libexec/breakwater/edged-pkcs11
0644 /usr/share/bash-completion/completions/edgectl
0644 /usr/share/doc/breakwater/README.md
0644 /usr/share/fish/vendor_completions.d/edgectl.fish
0644 /usr/share/zsh/site-functions/_edgectl
`
	if got := files(t, dest); got != want {
		t.Errorf("installed:\n%swant:\n%s", got, want)
	}
	config := filepath.Join(dest, "etc/aziot/config.toml")
	if err := os.WriteFile(config, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	order(t, dest, "install") // again, as an upgrade
	order(t, dest, "uninstall")
	const left = "0600 /etc/aziot/config.toml\n0700 /etc/aziot/edged\n0700 /etc/aziot/edged/config.d\n"
	if got := files(t, dest); got != left {
		t.Errorf("left:\n%swant:\n%s", got, left)
	}
	order(t, dest, "uninstall")
}

func TestInstallNeedsThePrograms(t *testing.T) {
	dest := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "../install.sh")
	cmd.Env = append(os.Environ(), "DESTDIR="+dest, "BIN="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "make build") || files(t, dest) != "" {
		t.Errorf("%v: %s", err, out)
	}
}

// analyze runs systemd-analyze on an installed tree.
func analyze(t *testing.T, dest string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", append([]string{"--root=" + dest}, args...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=info", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// units are the installed ones, and targets that the machine would have.
func units(t *testing.T, dest string) []string {
	t.Helper()
	var out []string
	for _, unit := range []string{"aziot-edged.service", "aziot-edged.mgmt.socket", "aziot-edged.workload.socket"} {
		out = append(out, filepath.Join(dest, "usr/lib/systemd/system", unit))
	}
	return out
}

func TestUnitsAreValid(t *testing.T) {
	dest := install(t)
	out, err := analyze(t, dest, append([]string{"verify", "--recursive-errors=no", "--man=no"}, units(t, dest)...)...)
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%v: %s", err, out)
	}
	// The check itself must find something.
	unit := units(t, dest)[0]
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	for old, wrong := range map[string]string{"Type=notify": "Type=nonsense", "WatchdogSec=": "WatchdogSeconds="} {
		if err := os.WriteFile(unit, bytes.Replace(text, []byte(old), []byte(wrong), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := analyze(t, dest, "verify", "--recursive-errors=no", "--man=no", unit); err == nil && strings.TrimSpace(out) == "" {
			t.Errorf("%s is valid", wrong)
		}
	}
}

func TestServiceIsHardened(t *testing.T) {
	dest := install(t)
	if out, err := analyze(t, dest, "security", "--offline=true", "--threshold="+worst, units(t, dest)[0]); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUsersAndFoldersAreMade(t *testing.T) {
	dest := install(t)
	for _, c := range [][]string{
		{"systemd-sysusers", "--root=" + dest, "aziot-edged.conf"},
		{"systemd-tmpfiles", "--root=" + dest, "--create", "aziot-edged.conf"},
	} {
		if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c[0], err, out)
		}
	}
	passwd, err := os.ReadFile(filepath.Join(dest, "etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.ReadFile(filepath.Join(dest, "etc/group"))
	if err != nil {
		t.Fatal(err)
	}
	for text, in := range map[string][]byte{"edgeagentuser:x:13622:": passwd, "edgehubuser:x:13623:": passwd, "iotedge:x:": group} {
		if !bytes.Contains(in, []byte(text)) {
			t.Errorf("no %s in\n%s", text, in)
		}
	}
	if st, err := os.Stat(filepath.Join(dest, "run/iotedge")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("run/iotedge: %v", err)
	}
}

// confined runs a command with root's user id and the capabilities of the service.
func confined(t *testing.T, command ...string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	unit, err := os.ReadFile("aziot-edged.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	line, _, _ = strings.Cut(line, "\n")
	set := "-all"
	for name := range strings.FieldsSeq(line) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	cmd := exec.CommandContext(t.Context(), "setpriv", append([]string{"--bounding-set", set, "--inh-caps=-all", "--no-new-privs"}, command...)...)
	cmd.Env = append(os.Environ(), "CONFINED=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// As edged-verify, which becomes nobody.
func TestCapabilitiesSufficeToEndHelpers(t *testing.T) {
	const script = `setpriv --reuid 65534 --regid 65534 --clear-groups sleep 60 >/dev/null 2>&1 & helper=$!
until [ "$(stat -c %u /proc/$helper)" = 65534 ]; do :; done
kill -9 $helper`
	if out, err := confined(t, "sh", "-c", script); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// As edgeHub's, which edged holds on the host.
func TestCapabilitiesSufficeForLowPorts(t *testing.T) {
	if os.Getenv("CONFINED") != "" {
		id := os.Getpid() // and so an address of its own
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:1", 1+id>>16, id>>8&255, id&255))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return
	}
	if out, err := confined(t, os.Args[0], "-test.run=^TestCapabilitiesSufficeForLowPorts$"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
