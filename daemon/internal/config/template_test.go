package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// blocks takes the commented blocks out of the template: paragraphs of lines that
// begin with "# ".
func blocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/systemd/config.toml.edge.template")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	open := false
	for line := range strings.Lines(string(text)) {
		code, ok := strings.CutPrefix(line, "# ")
		switch {
		case !ok && !strings.HasPrefix(line, "##") && strings.TrimSpace(line) != "":
			t.Errorf("line is neither a comment nor a key in one: %q", line)
		case ok && !open:
			out = append(out, code)
		case ok:
			out[len(out)-1] += code
		}
		open = ok
	}
	return out
}

func TestEveryBlockOfTheTemplateIsTaken(t *testing.T) {
	all := blocks(t)
	if len(all) < 20 {
		t.Fatalf("%d blocks", len(all))
	}
	const manual = "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=h.example;DeviceId=d;SharedAccessKey=YmFzZTY0\"\n"
	const pkcs11 = "[aziot_keys]\npkcs11_lib_path = \"/lib.so\"\n"
	tables := map[string]bool{}
	for _, block := range all {
		text := block
		if !strings.HasPrefix(block, "[provisioning]") {
			if strings.HasPrefix(block, "[") {
				text = manual + block
			} else {
				text = block + manual // top-level keys come first
			}
		}
		if strings.Contains(block, "pkcs11:") && !strings.Contains(block, "pkcs11_lib_path") {
			text += pkcs11
		}
		if _, err := config.Parse([]byte(text), "gw"); err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
		for line := range strings.Lines(block) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "["); ok {
				tables[strings.Trim(name, "[]")] = true
			}
		}
	}
	for _, want := range []string{
		"provisioning", "edge_ca", "cert_issuance.est", "cert_issuance.local_ca", "cert_issuance.local_ca.cert", "aziot_keys", "tpm", "agent", "watchdog",
		"listen", "connect", "iotedge_max_requests", "containerd", "moby_runtime.network", "image_garbage_collection", "additional_info",
	} {
		if !tables[want] {
			t.Errorf("template has no [%s]", want)
		}
	}
}

func TestDefaultsOfTheTemplateAreTheDefaults(t *testing.T) {
	const manual = "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=h.example;DeviceId=d;SharedAccessKey=YmFzZTY0\"\n"
	want, err := config.Parse([]byte(manual), "gw")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks(t) {
		for _, name := range []string{"[watchdog]", "[iotedge_max_requests]", "[image_garbage_collection]", "[connect]", "cloud_timeout_sec", "homedir", "auto_repro", "allow_elev"} {
			if !strings.HasPrefix(block, name) {
				continue
			}
			text := block + manual
			if block[0] == '[' {
				text = manual + block
			}
			got, err := config.Parse([]byte(text), "gw")
			if err != nil {
				t.Fatal(err)
			}
			got.Provisioning, got.Identity = want.Provisioning, want.Identity
			if got.Watchdog != want.Watchdog || got.MaxRequests != want.MaxRequests || got.ImageGC != want.ImageGC || got.Connect != want.Connect ||
				got.CloudTimeoutSec != want.CloudTimeoutSec || got.CloudRetries != want.CloudRetries || got.HomeDir != want.HomeDir ||
				got.Reprovisioning != want.Reprovisioning || got.AllowElevated != want.AllowElevated {
				t.Errorf("not the defaults:\n%s", block)
			}
		}
	}
}
