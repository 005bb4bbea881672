//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// TestIPv6 switches IPv6 of the module network on and off on a device with modules, with a
// leaf that has nothing else between.
func TestIPv6(t *testing.T) {
	p := newPath(t, rig.Options{}, 5*time.Minute)
	file := filepath.Join(p.Dir, "device", "config.toml")
	const table = "\n[moby_runtime.network]\nname = \"azure-iot-edge\"\nipv6 = true\n"
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"everything comes up without IPv6", p.comesUp},
		{"the configuration asks for it and edgectl check says what is to be done", func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err := errors.Join(err, os.WriteFile(file, append(text, table...), 0o600)); err != nil {
				t.Fatal(err)
			}
			p.checksIPv6(t, "warning", "has none yet: restart edged")
		}},
		{"after a restart the modules are in the new network", func(t *testing.T) {
			p.restartDaemon(t)
			p.checksIPv6(t, "ok", "modules have addresses of fd")
		}},
		{"messages of the module and of a leaf that has only IPv6 arrive in the cloud", func(t *testing.T) {
			if err := rig.LeafOverIPv6(p.within(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			p.messagesArrive(t)
		}},
		{"switched off again nothing is left of it", func(t *testing.T) {
			if err := p.StopLeaf(); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err := errors.Join(err, os.WriteFile(file, []byte(strings.Replace(string(text), table, "", 1)), 0o600)); err != nil {
				t.Fatal(err)
			}
			p.restartDaemon(t)
			p.checksIPv6(t, "ok", "modules have IPv4 addresses only")
			p.moreArrive(t, p.within(t, time.Minute), rig.FilterID, 5)
			for _, args := range [][]string{{"ip6tables-save"}, {"ip", "-6", "address", "show", "dev", "bw-edge0", "scope", "global"}} {
				out, err := exec.Command("ip", append([]string{"netns", "exec", string(rig.Device)}, args...)...).CombinedOutput()
				if err != nil || strings.Contains(string(out), "BREAKWATER") || strings.Contains(string(out), "inet6") {
					t.Errorf("%v, %s", err, out)
				}
			}
		}},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow()
		}
	}
}

// restartDaemon does what systemctl restart does, and waits until all modules run again.
func (p *path) restartDaemon(t *testing.T) {
	t.Helper()
	ctx := p.within(t, 2*time.Minute)
	before := p.pids(t)
	if err := p.Edged().Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-p.Edged().Done()
	if err := p.StartDevice(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "all modules run again", func() error {
		now, err := p.PIDs(ctx)
		if err != nil {
			return err
		}
		for name, pid := range before {
			if now[name] == 0 || now[name] == pid {
				return fmt.Errorf("%s has process %d, had %d", name, now[name], pid)
			}
		}
		return nil
	})
	if _, err := p.WaitDeployed(ctx); err != nil {
		t.Fatal(err)
	}
}

func (p *path) checksIPv6(t *testing.T, result, says string) {
	t.Helper()
	// The checks may fail for what this device is not: only one counts.
	out, _ := p.EdgeCtl(p.within(t, time.Minute), "check", "--config-file", filepath.Join(p.Dir, "device", "config.toml"),
		"--dont-run", "host-local-time,hostname,container-local-time,container-engine-dns", "--output", "json")
	var report struct {
		Checks map[string]struct {
			Result  string   `json:"result"`
			Details []string `json:"details"`
		} `json:"checks"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	got := report.Checks["container-engine-ipv6"]
	if got.Result != result || !strings.Contains(strings.Join(got.Details, " "), says) {
		t.Errorf("%+v, want %s with %q", got, result, says)
	}
}
