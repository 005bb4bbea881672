package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
)

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := `homedir = "` + dir + `/home"
[provisioning]
source = "manual"
connection_string = "HostName=hub.example.net;DeviceId=edge1;SharedAccessKey=c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc4OTA="
[containerd]
address = "` + dir + `/no-containerd.sock"
`
	busy := filepath.Join(dir, "busy")
	unlock, err := daemon.LockHome(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"home in use", []string{"-c", file("busy.toml", strings.Replace(good, dir+"/home", busy, 1), 0o600)}, 1, "in use by another daemon"},
		{"version", []string{"--version"}, 0, "edged dev"},
		{"unknown flag", []string{"--nope"}, 1, "unknown flag --nope"},
		{"no file", []string{"--config", dir + "/none"}, 153, "no such file"},
		{"unknown key", []string{"-c", file("unknown", "hostnme = \"x\"\n"+good, 0o600)}, 153, "line 1: hostnme: unknown key"},
		{"readable by all", []string{"-c", file("open", good, 0o644)}, 153, "chmod 0600"},
		{"key without effect", []string{"-c", file("warned", good+"[localid]\ndomain = \"x\"\n", 0o600)}, 1, "line 7: localid: has no effect"},
		{"trust bundle missing", []string{"-c", file("trust", "trust_bundle_cert = \"file:///none.pem\"\n"+good, 0o600)}, 1, "trust bundle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), c.args, &stdout, &stderr)
			if out := stdout.String() + stderr.String(); code != c.code || !strings.Contains(out, c.want) {
				t.Fatalf("status %d, want %d; output %q, want %q", code, c.code, out, c.want)
			}
			if strings.Contains(stderr.String(), "c2VjcmV0") {
				t.Error("output holds the key")
			}
		})
	}
}

func TestConfigPathFromTheEnvironment(t *testing.T) {
	t.Setenv("AZIOT_EDGED_CONFIG", "/nowhere/from-env.toml")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), nil, &stdout, &stderr); code != 153 || !strings.Contains(stderr.String(), "/nowhere/from-env.toml") {
		t.Fatalf("status %d: %s", code, &stderr)
	}
}
