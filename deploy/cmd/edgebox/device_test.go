package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSettingsAreAddedToTheConfiguration: policies for images can be given to the
// device in the container, and it starts without.
func TestSettingsAreAddedToTheConfiguration(t *testing.T) {
	const policy = "[[image_verification.policy]]\nimages = [\"*\"]\nrequire = \"digest\"\n"
	dir := t.TempDir()
	d := device{options: options{Hostname: "edge-1", Home: dir, Settings: filepath.Join(dir, "more.toml")}}
	configured := func() string {
		t.Helper()
		if err := d.configure("HostName=hub", "10.0.0.1"); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(d.configFile())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := configured(); !strings.Contains(text, `hostname = "edge-1"`) || strings.Contains(text, "policy") {
		t.Errorf("without settings: %s", text)
	}
	if err := os.WriteFile(d.Settings, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := configured(); !strings.HasPrefix(text, `hostname = "edge-1"`) || !strings.HasSuffix(text, "\n\n"+policy) {
		t.Errorf("with settings: %s", text)
	}
	d.Settings = dir
	if err := d.configure("HostName=hub", "10.0.0.1"); err == nil {
		t.Error("settings that cannot be read are taken as none")
	}
}
