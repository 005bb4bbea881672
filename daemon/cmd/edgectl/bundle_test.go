package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// zipOf makes a zip file of name, text, name, text...
func zipOf(t *testing.T, entries ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for i := 0; i < len(entries); i += 2 {
		f, err := w.Create(entries[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, entries[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// unzip returns the entries of a zip file.
func unzip(t *testing.T, data []byte) map[string]string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range r.File {
		text, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(text)
		if err != nil {
			t.Fatal(err)
		}
		text.Close()
		out[f.Name] = string(b)
	}
	return out
}

// bundleHost is a machine with systemd, a configuration and a module network.
func bundleHost(t *testing.T) (*machine, string) {
	t.Helper()
	m := newMachine(t)
	m.answers = map[string]string{
		"journalctl --unit=aziot-edged.service": "2026 edged: key SharedAccessKey=geheim1; end\n",
		"journalctl --unit=containerd.service":  "2026 containerd: pulled\n",
	}
	home := filepath.Join(m.root, "home")
	if err := os.MkdirAll(filepath.Join(home, "cni"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.root, "config.toml")
	if err := errors.Join(
		os.WriteFile(file, []byte("homedir = \""+home+"\"\n[provisioning]\nsource = \"manual\"\nconnection_string = \""+strings.Replace(connection, "hub.invalid", "127.0.0.1", 1)+"\"\n[containerd]\naddress = \""+home+"/none.sock\"\n"), 0o600),
		os.WriteFile(filepath.Join(home, "cni", "modules.conflist"), []byte(`{"name":"azure-iot-edge"}`), 0o600),
		os.WriteFile(filepath.Join(home, "cni", "addresses.json"), []byte(`{"temp":{"address":"172.30.0.2","address6":"fd00:1::2","at":1}}`), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return m, file
}

func TestSupportBundleIsWhole(t *testing.T) {
	d, uri := serve(t)
	d.zip = zipOf(t, "system.json", `{"version":"1"}`, "logs/temp_log.txt", "a token: sig=geheim2&se=5\n", "inspect/temp.json", "{}")
	m, config := bundleHost(t)
	file := filepath.Join(t.TempDir(), "b.zip")
	code := m.run("-H", uri, "support-bundle", "--ntp-server", "127.0.0.1:9", "-c", config, "-o", file, "-e", "--since", "2h", "--iothub-hostname", "127.0.0.2")
	if code != 0 {
		t.Fatalf("code %d: %s", code, &m.out)
	}
	data, err := os.ReadFile(file)
	st, statErr := os.Stat(file)
	if err := errors.Join(err, statErr); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", err, st)
	}
	got := unzip(t, data)
	want := []string{
		"check.json", "inspect/temp.json", "logs/aziot-edged.txt", "logs/containerd.txt", "logs/temp_log.txt", "network/addresses.json", "network/azure-iot-edge.json", "system.json",
	}
	var names []string
	for name, text := range got {
		names = append(names, name)
		if strings.Contains(text, "geheim") || strings.Contains(text, "c2VjcmV0") {
			t.Errorf("%s has a secret: %s", name, text)
		}
		if !strings.Contains(m.out.String(), "  "+name+"\n") {
			t.Errorf("%s is not in the list of contents", name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
	if !strings.HasSuffix(m.out.String(), file+"\n") {
		t.Errorf("says %s", &m.out)
	}
	if !strings.Contains(got["check.json"], `"container-engine-uri"`) || !strings.Contains(got["check.json"], "127.0.0.2") {
		t.Errorf("check.json: %s", got["check.json"])
	}
	if r := d.bundle; !r.GetEdgeRuntimeOnly() || r.GetSince() != "2h" || r.GetIothubHostname() != "127.0.0.2" {
		t.Errorf("asked %v", r)
	}
	if !slices.ContainsFunc(m.calls, func(c string) bool {
		return strings.Contains(c, "containerd.service") && strings.Contains(c, " --since=@")
	}) {
		t.Errorf("ran %q", m.calls)
	}
}

func TestSupportBundleWithoutDaemonAndJournal(t *testing.T) {
	m, config := bundleHost(t)
	if err := os.RemoveAll(filepath.Join(m.root, "run")); err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	m.stdout = &zipped
	if code := m.run("-H", "unix://"+m.root+"/none.sock", "support-bundle", "--ntp-server", "127.0.0.1:9", "-c", config, "-o", "-"); code != 0 {
		t.Fatalf("code %d: %s", code, &m.out)
	}
	got := unzip(t, zipped.Bytes())
	if len(got) != 3 || got["check.json"] == "" {
		t.Errorf("%v", got)
	}
	for _, want := range []string{"without logs and states of modules: the daemon cannot be reached", "without journals"} {
		if !strings.Contains(m.out.String(), want) {
			t.Errorf("does not say %q: %s", want, &m.out)
		}
	}
}

// What the daemon has found is not looked for again, unless the command line says how.
func TestSupportBundleTakesTheDaemonsChecks(t *testing.T) {
	d, uri := serve(t)
	d.zip = zipOf(t, "check.json", `{"checks":"the daemon's"}`, "logs/aziot-edged.txt", "x", "logs/containerd.txt", "y")
	m, config := bundleHost(t)
	for args, own := range map[string]bool{"": false, "--iothub-hostname=x": false, "--ntp-server=127.0.0.1:9": true, "-c=" + config: true} {
		var zipped bytes.Buffer
		m.stdout = &zipped
		m.calls = nil
		all := []string{"-H", uri, "support-bundle", "-o", "-"}
		if args != "" {
			all = append(all, args)
		}
		if strings.HasPrefix(args, "-c") {
			all = append(all, "--ntp-server=127.0.0.1:9")
		}
		if code := m.run(all...); code != 0 {
			t.Fatalf("%s: code %d: %s", args, code, &m.out)
		}
		got := unzip(t, zipped.Bytes())
		if strings.Contains(got["check.json"], "the daemon's") == own {
			t.Errorf("%s: %s", args, got["check.json"])
		}
		if got["logs/aziot-edged.txt"] != "x" || len(m.calls) > 0 {
			t.Errorf("%s: journals were read again: %q, %v", args, got["logs/aziot-edged.txt"], m.calls)
		}
	}
}

func TestSupportBundleThatFailsLeavesNoFile(t *testing.T) {
	d, uri := serve(t)
	m, config := bundleHost(t)
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		zip  []byte
		args []string
		text string
	}{
		{"broken off", zipOf(t, "a", "b"), []string{"--until", "1 min"}, "edgectl: the daemon cannot be reached: containerd is away"},
		{"not a zip file", []byte("nonsense"), nil, "edgectl: the daemon's bundle: "},
		{"no time", nil, []string{"--since", "yesterday"}, `edgectl: "yesterday" is no time`},
		{"no folder", zipOf(t), []string{"-o", filepath.Join(dir, "none", "b.zip")}, "edgectl: open "},
	} {
		d.zip = c.zip
		m.out.Reset()
		code := m.run(append([]string{"-H", uri, "support-bundle", "--ntp-server", "127.0.0.1:9", "-q", "-c", config, "-o", filepath.Join(dir, "b.zip")}, c.args...)...)
		if code != 1 || !strings.Contains(m.out.String(), c.text) {
			t.Errorf("%s: code %d: %s", c.name, code, &m.out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
