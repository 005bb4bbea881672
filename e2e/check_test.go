//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"
)

// deviceChecks runs edgectl check on the running device: the daemon, its engine,
// certificates, and the way to the hub from the host and from the modules' network.
func (p *path) deviceChecks(t *testing.T) {
	ctx := p.within(t, 90*time.Second)
	// No time server and no name server can be reached from here, and the machine has
	// another name.
	out, err := p.EdgeCtl(ctx, "check", "--config-file", filepath.Join(p.Dir, "device", "config.toml"),
		"--dont-run", "host-local-time,hostname,container-local-time,container-engine-dns", "--output", "json", "--warnings-as-errors")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var report struct {
		Checks map[string]struct {
			Result  string   `json:"result"`
			Details []string `json:"details"`
		} `json:"checks"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	for id, c := range report.Checks {
		want := "ok"
		switch id {
		case "host-local-time", "hostname", "container-local-time", "container-engine-dns":
			want = "ignored"
		case "identity-certificate-expiry", "est-identity-and-bootstrap-certificate-expiry", "local-ca-certificate-expiry", "host-connect-dps-endpoint",
			"tpmd-running", "est-server-https":
			want = "skipped" // this device has a connection string
		case "configs-up-to-date", "proxy-settings", "parent_hostname", "container-resolve-parent-hostname",
			"container-default-connect-upstream-amqp", "container-default-connect-upstream-https", "container-default-connect-upstream-mqtt":
			want = "skipped" // neither systemd nor a parent nor another network
		}
		if c.Result != want {
			t.Errorf("%s is %s: %v", id, c.Result, c.Details)
		}
	}
	if len(report.Checks) < 10 {
		t.Errorf("only %d checks", len(report.Checks))
	}
}
