package check_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func cert(name string, from, until time.Duration) check.Certificate {
	return check.Certificate{File: "/certs/" + name, Certificate: &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(from), NotAfter: now.Add(until),
	}}
}

// healthy is a device with which nothing is wrong.
func healthy() check.Options {
	cfg := config.Default()
	cfg.Hostname, cfg.TrustBundleCert = "gw", "/certs/bundle"
	cfg.Device = config.Device{HubName: "hub.test", Gateway: "hub.test", DeviceID: "edge1"}
	cfg.Provisioning = config.Provisioning{Source: "dps", GlobalEndpoint: "https://dps.test:444"}
	cfg.Identity = config.Identity{Method: config.X509, Cert: "/certs/id"}
	cfg.Issuance.LocalCA.Cert = "/certs/local"
	const day = 24 * time.Hour
	connect := func(context.Context, config.Config, string, int) error { return nil }
	return check.Options{TimeServer: "time.test:123", Probes: check.Probes{
		Now:           func() time.Time { return now },
		Config:        func() (config.Config, error) { return cfg, nil },
		Hostname:      func() (string, error) { return "gw.plant.test", nil },
		ConfigChanged: func() (time.Time, error) { return now.Add(-time.Hour), nil },
		Engine:        func(context.Context, config.Config) (string, error) { return "1.6.20", nil },
		Plugins:       func(config.Config) error { return nil },
		Uptime:        func(context.Context, config.Config) (time.Duration, error) { return time.Minute, nil },
		EdgeCA: func(config.Config) ([]check.Certificate, error) {
			return []check.Certificate{cert("ca", -day, 60*day)}, nil
		},
		Identity: func(config.Config) ([]check.Certificate, error) {
			return []check.Certificate{cert("id", -day, 60*day), cert("its issuer", -day, -day)}, nil
		},
		EST: func(config.Config) ([]check.Certificate, error) {
			return []check.Certificate{cert("est", -day, 60*day)}, nil
		},
		LocalCA: func(config.Config) ([]check.Certificate, error) {
			return []check.Certificate{cert("local", -day, 60*day)}, nil
		},
		Pairs: func(context.Context, config.Config) error { return nil },
		TrustBundle: func(config.Config) ([]check.Certificate, error) {
			return []check.Certificate{cert("root", -day, 60*day)}, nil
		},
		ClockOffset: func(context.Context, string) (time.Duration, error) { return -time.Second, nil },
		HostConnect: connect, ModuleConnect: connect,
	}}
}

func run(t *testing.T, o check.Options) map[string]check.Outcome {
	t.Helper()
	out := map[string]check.Outcome{}
	var order []string
	err := check.Run(t.Context(), o, func(d check.Done) {
		out[d.ID] = d.Outcome
		order = append(order, d.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, c := range check.List() {
		want = append(want, c.ID)
	}
	if !slices.Equal(order, want) {
		t.Errorf("order %v", order)
	}
	return out
}

func TestHealthyDevicePassesEverything(t *testing.T) {
	for id, got := range run(t, healthy()) {
		if got.Result != check.OK {
			t.Errorf("%s: %+v", id, got)
		}
	}
}

func TestFaultsAreFound(t *testing.T) {
	const day = 24 * time.Hour
	down := errors.New("connection refused")
	certs := func(c ...check.Certificate) func(config.Config) ([]check.Certificate, error) {
		return func(config.Config) ([]check.Certificate, error) { return c, nil }
	}
	with := func(change func(*config.Config)) func(*check.Options) {
		return func(o *check.Options) {
			cfg, _ := o.Config()
			change(&cfg)
			o.Config = func() (config.Config, error) { return cfg, nil }
		}
	}
	for _, c := range []struct {
		name   string
		change func(*check.Options)
		want   map[string]check.Result
		text   string // in the first detail of any of them
	}{
		{"config changed since the start", func(o *check.Options) {
			o.ConfigChanged = func() (time.Time, error) { return now.Add(-time.Second), nil }
		}, map[string]check.Result{"config-up-to-date": check.Warning}, "restart edged"},
		{"config vanished", func(o *check.Options) {
			o.ConfigChanged = func() (time.Time, error) { return time.Time{}, fs.ErrNotExist }
		}, map[string]check.Result{"config-up-to-date": check.Error}, "does not exist"},
		{"daemon down", func(o *check.Options) {
			o.Uptime = func(context.Context, config.Config) (time.Duration, error) { return 0, down }
		}, map[string]check.Result{"config-up-to-date": check.Skipped, "connect-management-uri": check.Error}, "refused"},
		{"other host name", func(o *check.Options) { o.Hostname = func() (string, error) { return "gwx", nil } },
			map[string]check.Result{"hostname": check.Warning}, `"gwx"`},
		{"long host name", with(func(c *config.Config) { c.Hostname = strings.Repeat("a", 65) }),
			map[string]check.Result{"hostname": check.Error}, "longer than"},
		{"engine down", func(o *check.Options) {
			o.Engine = func(context.Context, config.Config) (string, error) { return "", down }
		}, map[string]check.Result{"container-engine-uri": check.Error}, "/run/containerd/containerd.sock"},
		{"no plugins", func(o *check.Options) {
			o.Plugins = func(config.Config) error { return errors.New("bridge not found") }
		},
			map[string]check.Result{"cni-plugins": check.Error}, "bridge"},
		{"clock just right", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return 10*time.Second - 1, nil }
		}, map[string]check.Result{}, ""},
		{"clock slow", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return 10 * time.Second, nil }
		}, map[string]check.Result{"host-local-time": check.Error}, "by 10s"},
		{"clock fast", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return -time.Hour, nil }
		}, map[string]check.Result{"host-local-time": check.Error}, "time.test:123"},
		{"no time server", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return 0, down }
		}, map[string]check.Result{"host-local-time": check.Warning}, "refused"},
		{"CA expired", func(o *check.Options) { o.EdgeCA = certs(cert("old", -9*day, -time.Second)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, `"old" in /certs/old has expired`},
		{"CA ends soon", func(o *check.Options) { o.EdgeCA = certs(cert("ca", -9*day, 6*day)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Warning}, "expires at 2026-01-08T03:04:05Z"},
		{"CA of tomorrow", func(o *check.Options) { o.EdgeCA = certs(cert("ca", day, 9*day)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, "not valid before"},
		{"no CA yet", func(o *check.Options) {
			with(func(c *config.Config) { c.EdgeCA.Method = config.SelfSigned })(o)
			o.EdgeCA = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"edge-ca-certificate-expiry": check.Skipped}, "not made"},
		{"CA is not issued", func(o *check.Options) {
			with(func(c *config.Config) { c.EdgeCA.Method = config.EST })(o)
			o.EdgeCA = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, "no edge CA has been issued"},
		{"identity certificate expired", func(o *check.Options) { o.Identity = certs(cert("id", -9*day, -day)) },
			map[string]check.Result{"identity-certificate-expiry": check.Error}, `"id" in /certs/id has expired`},
		{"identity certificate is not issued", func(o *check.Options) {
			with(func(c *config.Config) { c.Identity.Issue.Method = config.EST })(o)
			o.Identity = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"identity-certificate-expiry": check.Error}, "no identity certificate has been issued"},
		{"symmetric key", with(func(c *config.Config) { c.Identity = config.Identity{Method: config.SAS} }),
			map[string]check.Result{"identity-certificate-expiry": check.Skipped}, "does not authenticate with a certificate"},
		{"bootstrap certificate ends soon", func(o *check.Options) { o.EST = certs(cert("est", -9*day, day)) },
			map[string]check.Result{"est-identity-and-bootstrap-certificate-expiry": check.Warning}, `"est"`},
		{"no EST", func(o *check.Options) { o.EST = certs() },
			map[string]check.Result{"est-identity-and-bootstrap-certificate-expiry": check.Skipped}, "no certificate is used"},
		{"local CA expired", func(o *check.Options) { o.LocalCA = certs(cert("local", -9*day, -day)) },
			map[string]check.Result{"local-ca-certificate-expiry": check.Error}, `"local"`},
		{"no local CA", with(func(c *config.Config) { c.Issuance.LocalCA.Cert = "" }),
			map[string]check.Result{"local-ca-certificate-expiry": check.Skipped}, "no local CA"},
		{"key of another certificate", func(o *check.Options) {
			o.Pairs = func(context.Context, config.Config) error { return errors.New("/certs/id: key does not belong") }
		}, map[string]check.Result{"certs-match-private-keys": check.Error}, "does not belong"},
		{"provisioned by hand", with(func(c *config.Config) { c.Provisioning = config.Provisioning{Source: "manual"} }),
			map[string]check.Result{"host-connect-dps-endpoint": check.Skipped}, "by hand"},
		{"provisioning service is away", func(o *check.Options) {
			o.HostConnect = func(_ context.Context, _ config.Config, host string, _ int) error {
				if host == "dps.test" {
					return down
				}
				return nil
			}
		}, map[string]check.Result{"host-connect-dps-endpoint": check.Error}, "dps.test port 444: connection refused"},
		{"not provisioned yet", with(func(c *config.Config) { c.Device = config.Device{} }), map[string]check.Result{
			"host-connect-iothub-https": check.Skipped, "host-connect-iothub-mqtt": check.Skipped,
			"container-connect-upstream-https": check.Skipped, "container-connect-upstream-mqtt": check.Skipped,
		}, "not provisioned yet"},
		{"operator's CA is missing", func(o *check.Options) {
			with(func(c *config.Config) { c.EdgeCA.KeyPair.Cert = "/certs/mine" })(o)
			o.EdgeCA = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, "does not exist"},
		{"no bundle", with(func(c *config.Config) { c.TrustBundleCert = "" }), map[string]check.Result{"certs-read": check.Skipped}, "trust_bundle_cert"},
		{"empty bundle", func(o *check.Options) { o.TrustBundle = certs() }, map[string]check.Result{"certs-read": check.Error}, "no certificate"},
		{"one of the bundle expired", func(o *check.Options) {
			o.TrustBundle = certs(cert("a", -day, day), cert("b", -day, -time.Hour), cert("c", -day, 90*day))
		},
			map[string]check.Result{"certs-read": check.Error}, `"a"`},
		{"unreadable bundle", func(o *check.Options) {
			o.TrustBundle = func(config.Config) ([]check.Certificate, error) { return nil, errors.New("not PEM") }
		}, map[string]check.Result{"certs-read": check.Error}, "not PEM"},
		{"firewall at one port", func(o *check.Options) {
			o.HostConnect = func(_ context.Context, _ config.Config, host string, port int) error {
				if host == "dps.test" && port == 444 {
					return nil
				}
				if host != "hub.test" || port == 8883 {
					return down
				}
				return nil
			}
		}, map[string]check.Result{"host-connect-iothub-mqtt": check.Error}, "hub.test port 8883"},
		{"modules have no way out", func(o *check.Options) {
			o.ModuleConnect = func(context.Context, config.Config, string, int) error { return down }
		}, map[string]check.Result{"container-connect-upstream-https": check.Error, "container-connect-upstream-mqtt": check.Error}, "refused"},
		{"no module runs", func(o *check.Options) {
			o.ModuleConnect = func(context.Context, config.Config, string, int) error {
				return fmt.Errorf("look: %w", check.ErrNoModule)
			}
		}, map[string]check.Result{"container-connect-upstream-https": check.Skipped, "container-connect-upstream-mqtt": check.Skipped}, "no module"},
		{"left out", func(o *check.Options) { o.DontRun = []string{"hostname", "cni-plugins"} },
			map[string]check.Result{"hostname": check.Ignored, "cni-plugins": check.Ignored}, "request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := healthy()
			c.change(&o)
			found := c.text == ""
			for id, got := range run(t, o) {
				want, expected := c.want[id]
				if !expected {
					want = check.OK
				}
				if got.Result != want {
					t.Errorf("%s: %+v, want %s", id, got, want)
				}
				if expected && strings.Contains(got.Details[0], c.text) {
					found = true
				}
			}
			if !found {
				t.Errorf("no detail has %q", c.text)
			}
		})
	}
}

func TestBadConfigLeavesNothingToCheck(t *testing.T) {
	o := healthy()
	o.Config = func() (config.Config, error) {
		return config.Config{}, errors.Join(errors.New("line 1: x"), errors.New("line 2: y"))
	}
	for id, got := range run(t, o) {
		want := check.Skipped
		if id == "aziot-edged-config-well-formed" {
			want = check.Fatal
			if !slices.Equal(got.Details, []string{"line 1: x", "line 2: y"}) {
				t.Errorf("details %q", got.Details)
			}
		}
		if got.Result != want {
			t.Errorf("%s: %+v", id, got)
		}
	}
	o = healthy()
	o.DontRun = []string{"aziot-edged-config-well-formed"}
	if got := run(t, o)["hostname"]; got.Result != check.Skipped {
		t.Errorf("hostname without a config: %+v", got)
	}
}

func TestUnknownIDAndEndOfContext(t *testing.T) {
	o := healthy()
	o.DontRun = []string{"nonsense"}
	if err := check.Run(t.Context(), o, func(check.Done) {}); err == nil {
		t.Error("unknown id is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := 0
	err := check.Run(ctx, healthy(), func(check.Done) { done++; cancel() })
	if !errors.Is(err, context.Canceled) || done != 1 {
		t.Errorf("%d done, %v", done, err)
	}
}

func TestHubCanBeReplaced(t *testing.T) {
	o := healthy()
	o.HubName = "other.test"
	o.HostConnect = func(_ context.Context, _ config.Config, host string, _ int) error {
		if host != "other.test" {
			return errors.New(host)
		}
		return nil
	}
	if got := run(t, o)["host-connect-iothub-https"]; got.Result != check.OK {
		t.Errorf("%+v", got)
	}
}

// mixed has every result.
func mixed() check.Options {
	o := healthy()
	o.Hostname = func() (string, error) { return "gwx", nil }
	o.HostConnect = func(context.Context, config.Config, string, int) error { return errors.New("first\nsecond") }
	o.ModuleConnect = func(context.Context, config.Config, string, int) error { return check.ErrNoModule }
	o.DontRun = []string{"cni-plugins"}
	return o
}

func TestReports(t *testing.T) {
	for name, c := range map[string]struct {
		verbose, strict bool
		errors          int
	}{
		"text": {false, false, 3}, "text_verbose": {true, false, 3}, "text_strict": {false, true, 4},
	} {
		var out bytes.Buffer
		text := check.Text{Out: &out, Verbose: c.verbose, Tally: check.Tally{WarningsAreErrors: c.strict}}
		if err := errors.Join(check.Run(t.Context(), mixed(), text.Add), text.End()); err != nil {
			t.Fatal(err)
		}
		if text.Errors != c.errors {
			t.Errorf("%s: %d errors", name, text.Errors)
		}
		golden(t, name, out.Bytes())
	}
	var out bytes.Buffer
	doc := check.Document{Additional: map[string]any{"now": "x"}}
	if err := errors.Join(check.Run(t.Context(), mixed(), doc.Add), doc.Write(&out)); err != nil {
		t.Fatal(err)
	}
	if doc.Errors != 3 || doc.Warnings != 1 || doc.NotTaken != 3 {
		t.Errorf("%+v", doc.Tally)
	}
	golden(t, "json", out.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}
