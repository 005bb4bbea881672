package check_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// above is where the parent is.
var above = netip.MustParseAddr("10.0.0.1")

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
	cfg.EdgeCA.Issue = config.Issue{Method: config.EST, URL: "https://est.test:8443/.well-known/est"}
	const day = 24 * time.Hour
	connect := func(context.Context, config.Config, string, int) error { return nil }
	fine := func(context.Context, config.Config) error { return nil }
	return check.Options{TimeServer: "time.test:123", Version: "1.0", Probes: check.Probes{
		Applied:   func() (bool, error) { return true, nil },
		Installed: func(context.Context) (string, error) { return "1.0", nil },
		Info: func(context.Context, config.Config) (check.Info, error) {
			return check.Info{Version: "1.0", DeviceID: "edge1", HubName: "hub.test"}, nil
		},
		HostIPv6: func() error { return nil },
		Network: func(config.Config) (network.Shape, error) {
			return network.Shape{Bridge: "bw-edge0", V4: network.Range{Subnet: netip.MustParsePrefix("172.30.0.0/24")}}, nil
		},
		LinkAddrs: func(string) ([]netip.Addr, error) { return nil, nil },
		Workload:  fine, TPM: fine, Preloaded: fine, KeyFiles: fine, ESTConnect: connect,
		Nameservers: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil },
		LogSizes:    func(config.Config) (map[string]int64, error) { return map[string]int64{"a": 30 << 20}, nil },
		Storage: func(context.Context, config.Config, string) (string, bool, error) {
			return "/iotedge/storage", true, nil
		},
		ServiceEnv:    func(context.Context) (map[string]string, error) { return map[string]string{"PATH": "/bin"}, nil },
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
		SharedConnect: func(context.Context, config.Config, string, int) error { return check.ErrNoModule },
		HostResolve:   func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{above}, nil },
		ModuleResolve: func(context.Context, config.Config, string) ([]netip.Addr, error) { return []netip.Addr{above}, nil },
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

// nothingToSee are checks that a healthy device skips.
var nothingToSee = []string{
	"tpmd-running", "parent_hostname", "container-resolve-parent-hostname", "container-default-connect-upstream-amqp",
	"container-default-connect-upstream-https", "container-default-connect-upstream-mqtt",
}

// usual is what a check says of a healthy device.
func usual(id string) check.Result {
	if slices.Contains(nothingToSee, id) {
		return check.Skipped
	}
	return check.OK
}

func TestHealthyDevicePassesEverything(t *testing.T) {
	for id, got := range run(t, healthy()) {
		if got.Result != usual(id) {
			t.Errorf("%s: %+v", id, got)
		}
	}
}

// below puts the device below a parent.
func below(c *config.Config) {
	c.ParentHostname = "up.test"
	c.Device = c.Assigned("hub.test", "edge1")
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
			o.Info = func(context.Context, config.Config) (check.Info, error) { return check.Info{}, down }
			o.Workload = func(context.Context, config.Config) error { return down }
		}, map[string]check.Result{
			"config-up-to-date": check.Skipped, "connect-management-uri": check.Error, "keyd-running": check.Error,
			"certd-running": check.Error, "identityd-running": check.Error, "aziot-edge-version": check.Error,
		}, "refused"},
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
		}, map[string]check.Result{"host-local-time": check.Error, "container-local-time": check.Error}, "by 10s"},
		{"clock fast", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return -time.Hour, nil }
		}, map[string]check.Result{"host-local-time": check.Error, "container-local-time": check.Error}, "time.test:123"},
		{"no time server", func(o *check.Options) {
			o.ClockOffset = func(context.Context, string) (time.Duration, error) { return 0, down }
		}, map[string]check.Result{"host-local-time": check.Warning, "container-local-time": check.Warning}, "refused"},
		{"CA expired", func(o *check.Options) { o.EdgeCA = certs(cert("old", -9*day, -time.Second)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, `"old" in /certs/old has expired`},
		{"CA ends soon", func(o *check.Options) { o.EdgeCA = certs(cert("ca", -9*day, 6*day)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Warning}, "expires at 2026-01-08T03:04:05Z"},
		{"CA of tomorrow", func(o *check.Options) { o.EdgeCA = certs(cert("ca", day, 9*day)) },
			map[string]check.Result{"edge-ca-certificate-expiry": check.Error}, "not valid before"},
		{"no CA yet", func(o *check.Options) {
			with(func(c *config.Config) { c.EdgeCA.Method = config.SelfSigned })(o)
			o.EdgeCA = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"edge-ca-certificate-expiry": check.Skipped, "est-server-https": check.Skipped}, "not made"},
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
		{"local CA is not issued", func(o *check.Options) {
			with(func(c *config.Config) {
				c.Issuance.LocalCA = config.IssuingCA{Issue: config.Issue{Method: config.EST, URL: "https://est.test:8443/.well-known/est"}}
			})(o)
			o.LocalCA = func(config.Config) ([]check.Certificate, error) { return nil, fs.ErrNotExist }
		}, map[string]check.Result{"local-ca-certificate-expiry": check.Error}, "no local CA has been issued yet"},
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
			"host-connect-iothub-amqp": check.Skipped, "host-connect-iothub-https": check.Skipped, "host-connect-iothub-mqtt": check.Skipped,
			"container-connect-upstream-amqp": check.Skipped, "container-connect-upstream-https": check.Skipped, "container-connect-upstream-mqtt": check.Skipped,
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
		}, map[string]check.Result{"container-connect-upstream-amqp": check.Error, "container-connect-upstream-https": check.Error, "container-connect-upstream-mqtt": check.Error}, "refused"},
		{"no module runs", func(o *check.Options) {
			o.ModuleConnect = func(context.Context, config.Config, string, int) error {
				return fmt.Errorf("look: %w", check.ErrNoModule)
			}
		}, map[string]check.Result{"container-connect-upstream-amqp": check.Skipped, "container-connect-upstream-https": check.Skipped, "container-connect-upstream-mqtt": check.Skipped}, "no module"},
		{"modules of the host's network have no way out", func(o *check.Options) {
			o.SharedConnect = func(context.Context, config.Config, string, int) error { return down }
		}, map[string]check.Result{"container-default-connect-upstream-amqp": check.Error, "container-default-connect-upstream-https": check.Error, "container-default-connect-upstream-mqtt": check.Error}, "hub.test port"},
		{"modules of the host's network reach the hub", func(o *check.Options) {
			o.SharedConnect = func(_ context.Context, _ config.Config, host string, port int) error {
				if host != "hub.test" || port == 8883 {
					return down
				}
				return nil
			}
		}, map[string]check.Result{"container-default-connect-upstream-amqp": check.OK, "container-default-connect-upstream-https": check.OK, "container-default-connect-upstream-mqtt": check.Error}, ""},
		{"a parent", with(below), map[string]check.Result{"parent_hostname": check.OK, "container-resolve-parent-hostname": check.OK}, "10.0.0.1"},
		{"the parent is what connections go to", func(o *check.Options) {
			with(below)(o)
			o.HostConnect = func(_ context.Context, _ config.Config, host string, _ int) error {
				if host == "hub.test" {
					return down
				}
				return nil
			}
			o.ModuleConnect = o.HostConnect
		}, map[string]check.Result{"parent_hostname": check.OK, "container-resolve-parent-hostname": check.OK}, ""},
		{"the parent has a long name", with(func(c *config.Config) {
			below(c)
			c.ParentHostname = strings.Repeat("a", 65)
		}), map[string]check.Result{"parent_hostname": check.Error, "container-resolve-parent-hostname": check.OK}, ""},
		{"nobody knows the parent", func(o *check.Options) {
			with(below)(o)
			o.HostResolve = func(_ context.Context, host string) ([]netip.Addr, error) {
				return nil, errors.New("no such host: " + host)
			}
			o.ModuleResolve = func(_ context.Context, _ config.Config, host string) ([]netip.Addr, error) {
				return nil, errors.New("no such host: " + host)
			}
		}, map[string]check.Result{"parent_hostname": check.Error, "container-resolve-parent-hostname": check.Error}, "no such host: up.test"},
		{"no module could ask for the parent", func(o *check.Options) {
			with(below)(o)
			o.ModuleResolve = func(context.Context, config.Config, string) ([]netip.Addr, error) { return nil, check.ErrNoModule }
		}, map[string]check.Result{"parent_hostname": check.OK, "container-resolve-parent-hostname": check.Skipped}, ""},
		{"not applied", func(o *check.Options) { o.Applied = func() (bool, error) { return false, nil } },
			map[string]check.Result{"configs-up-to-date": check.Warning}, "edgectl config apply"},
		{"nothing is applied", func(o *check.Options) { o.Applied = func() (bool, error) { return false, fs.ErrNotExist } },
			map[string]check.Result{"configs-up-to-date": check.Skipped}, "reads this file itself"},
		{"applied file cannot be read", func(o *check.Options) { o.Applied = func() (bool, error) { return false, fs.ErrPermission } },
			map[string]check.Result{"configs-up-to-date": check.Error}, "permission denied"},
		{"old edgectl", func(o *check.Options) { o.ExpectedAziot = "2.0" }, map[string]check.Result{"aziot-version": check.Warning}, "expected is 2.0"},
		{"old daemon", func(o *check.Options) { o.ExpectedEdged = "2.0" }, map[string]check.Result{"aziot-edge-version": check.Warning}, "expected is 2.0"},
		{"daemon of before the upgrade", func(o *check.Options) {
			o.Installed = func(context.Context) (string, error) { return "1.1", nil }
		}, map[string]check.Result{"aziot-edge-version": check.Warning}, "installed is 1.1: edgectl system restart"},
		{"daemon is elsewhere", func(o *check.Options) {
			o.Installed = func(context.Context) (string, error) { return "", fs.ErrNotExist }
		}, map[string]check.Result{"aziot-edge-version": check.OK}, "1.0"},
		{"daemon's program is broken", func(o *check.Options) {
			o.Installed = func(context.Context) (string, error) { return "", down }
		}, map[string]check.Result{"aziot-edge-version": check.Warning}, "installed daemon"},
		{"edgectl of another version", func(o *check.Options) { o.Version = "0.9" }, map[string]check.Result{"aziot-edge-version": check.Warning}, "edgectl of 0.9"},
		{"another device runs", func(o *check.Options) {
			o.Info = func(context.Context, config.Config) (check.Info, error) {
				return check.Info{Version: "1.0", DeviceID: "edge2", HubName: "hub.test"}, nil
			}
		}, map[string]check.Result{"identityd-running": check.Warning}, `device "edge2"`},
		{"daemon without a device", func(o *check.Options) {
			o.Info = func(context.Context, config.Config) (check.Info, error) { return check.Info{Version: "1.0"}, nil }
		}, map[string]check.Result{"identityd-running": check.Error}, "does not know its device"},
		{"TPM answers", with(func(c *config.Config) { c.Identity, c.TPM.Needed = config.Identity{Method: config.TPMKey}, true }),
			map[string]check.Result{"tpmd-running": check.OK, "identity-certificate-expiry": check.Skipped}, ""},
		{"TPM is silent", func(o *check.Options) {
			with(func(c *config.Config) { c.Identity, c.TPM.Needed = config.Identity{Method: config.TPMKey}, true })(o)
			o.TPM = func(context.Context, config.Config) error { return down }
		}, map[string]check.Result{"tpmd-running": check.Error, "identity-certificate-expiry": check.Skipped}, "device: connection refused"},
		{"certificate file is missing", func(o *check.Options) {
			o.Preloaded = func(context.Context, config.Config) error { return errors.New("/certs/id: no such file") }
		}, map[string]check.Result{"certs-preloaded": check.Error}, "/certs/id"},
		{"key is for everybody", func(o *check.Options) {
			o.KeyFiles = func(context.Context, config.Config) error { return errors.New("/certs/key is accessible to others") }
		}, map[string]check.Result{"key-pairs-read": check.Error}, "accessible"},
		{"EST server is away", func(o *check.Options) {
			o.ESTConnect = func(_ context.Context, _ config.Config, host string, port int) error {
				if host == "est.test" && port == 8443 {
					return down
				}
				return nil
			}
		}, map[string]check.Result{"est-server-https": check.Error}, "https://est.test:8443/.well-known/est: connection refused"},
		{"no EST server", with(func(c *config.Config) { c.EdgeCA.Issue = config.Issue{} }),
			map[string]check.Result{"est-server-https": check.Skipped}, "EST server"},
		{"modules have no name server", func(o *check.Options) { o.Nameservers = func() ([]netip.Addr, error) { return nil, nil } },
			map[string]check.Result{"container-engine-dns": check.Warning}, "resolv.conf"},
		{"name servers are unknown", func(o *check.Options) { o.Nameservers = func() ([]netip.Addr, error) { return nil, down } },
			map[string]check.Result{"container-engine-dns": check.Error}, "refused"},
		{"a long log", func(o *check.Options) {
			o.LogSizes = func(config.Config) (map[string]int64, error) { return map[string]int64{"a": 300 << 20, "b": 1}, nil }
		}, map[string]check.Result{"container-engine-logrotate": check.Warning}, "the log of a takes 300 MiB"},
		{"logs cannot be read", func(o *check.Options) {
			o.LogSizes = func(config.Config) (map[string]int64, error) { return nil, fs.ErrPermission }
		}, map[string]check.Result{"container-engine-logrotate": check.Error}, "permission denied"},
		{"data in containers", func(o *check.Options) {
			o.Storage = func(_ context.Context, _ config.Config, module string) (string, bool, error) {
				return "/tmp", module == "edgeAgent", nil
			}
		}, map[string]check.Result{"edge-hub-storage-mounted-from-host": check.Warning}, "edgeHub keeps its data in /tmp"},
		{"agent does not run", func(o *check.Options) {
			o.Storage = func(context.Context, config.Config, string) (string, bool, error) {
				return "", false, check.ErrNoModule
			}
		}, map[string]check.Result{"edge-agent-storage-mounted-from-host": check.Skipped, "edge-hub-storage-mounted-from-host": check.Skipped}, "does not run"},
		{"containers cannot be looked at", func(o *check.Options) {
			o.Storage = func(context.Context, config.Config, string) (string, bool, error) { return "", false, down }
		}, map[string]check.Result{"edge-agent-storage-mounted-from-host": check.Error, "edge-hub-storage-mounted-from-host": check.Error}, "refused"},
		{"image without a tag", with(func(c *config.Config) { c.Agent.Config.Image = "reg:5000/agent" }),
			map[string]check.Result{"check-agent-image": check.Warning}, "no tag"},
		{"image of the day", with(func(c *config.Config) { c.Agent.Config.Image = "agent:latest" }),
			map[string]check.Result{"check-agent-image": check.Warning}, "no tag"},
		{"image with a digest", with(func(c *config.Config) { c.Agent.Config.Image = "agent@sha256:00" }),
			map[string]check.Result{"check-agent-image": check.OK}, "sha256"},
		{"proxy of the agent alone", with(func(c *config.Config) { c.Agent.Env = map[string]string{"https_proxy": "http://u:geheim@p"} }),
			map[string]check.Result{"proxy-settings": check.Warning}, "the daemon has none"},
		{"proxy of the daemon alone", func(o *check.Options) {
			o.ServiceEnv = func(context.Context) (map[string]string, error) {
				return map[string]string{"HTTPS_PROXY": "http://u:geheim@p"}, nil
			}
		}, map[string]check.Result{"proxy-settings": check.Warning}, "agent.env sets none"},
		{"two proxies", func(o *check.Options) {
			with(func(c *config.Config) { c.Agent.Env = map[string]string{"https_proxy": "http://u:geheim@p"} })(o)
			o.ServiceEnv = func(context.Context) (map[string]string, error) {
				return map[string]string{"https_proxy": "http://q"}, nil
			}
		}, map[string]check.Result{"proxy-settings": check.Warning}, "differs"},
		{"one proxy", func(o *check.Options) {
			with(func(c *config.Config) { c.Agent.Env = map[string]string{"https_proxy": "http://q"} })(o)
			o.ServiceEnv = func(context.Context) (map[string]string, error) {
				return map[string]string{"HTTPS_PROXY": "http://q"}, nil
			}
		}, map[string]check.Result{}, ""},
		{"no service manager", func(o *check.Options) {
			o.ServiceEnv = func(context.Context) (map[string]string, error) { return nil, check.ErrNoService }
		}, map[string]check.Result{"proxy-settings": check.Skipped}, "systemd"},
		{"environment cannot be read", func(o *check.Options) {
			o.ServiceEnv = func(context.Context) (map[string]string, error) { return nil, fs.ErrPermission }
		}, map[string]check.Result{"proxy-settings": check.Error}, "permission denied"},
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
					want = usual(id)
				}
				if got.Result != want {
					t.Errorf("%s: %+v, want %s", id, got, want)
				}
				if strings.Contains(strings.Join(got.Details, " "), "geheim") {
					t.Errorf("%s tells the password: %q", id, got.Details)
				}
				if expected && c.text != "" && strings.Contains(got.Details[0], c.text) {
					found = true
				}
			}
			if !found {
				t.Errorf("no detail has %q", c.text)
			}
		})
	}
}

func TestMistakesAreShownByPart(t *testing.T) {
	bad := func(line int, key string) error { return &config.Error{Line: line, Key: key, Reason: "x"} }
	for _, c := range []struct {
		name string
		err  error
		want map[string]string // first detail by id
	}{
		{"one in each", errors.Join(bad(1, "aziot_keys.pkcs11_lib_path"), bad(2, "edge_ca.cert"), bad(3, "tpm.tcti"), bad(4, "provisioning.source"), bad(5, "agent.name")),
			map[string]string{
				"keyd-config-well-formed": "line 1", "certd-config-well-formed": "line 2", "tpmd-config-well-formed": "line 3",
				"identityd-config-well-formed": "line 4", "aziot-edged-config-well-formed": "line 5",
			}},
		{"two in one", errors.Join(bad(7, "hostname"), bad(8, "provisioning")), map[string]string{"identityd-config-well-formed": "line 7"}},
		{"no file", fs.ErrNotExist, map[string]string{"aziot-edged-config-well-formed": "file does not exist"}},
		{"not TOML", &config.Error{Line: 9, Reason: "x"}, map[string]string{"aziot-edged-config-well-formed": "line 9"}},
	} {
		o := healthy()
		o.Config = func() (config.Config, error) { return config.Config{}, c.err }
		for id, got := range run(t, o) {
			want := check.Skipped
			text, expected := c.want[id]
			if expected {
				want = check.Fatal
			} else if strings.HasSuffix(id, "-config-well-formed") {
				want = check.OK
			}
			if got.Result != want || expected && !strings.Contains(got.Details[0], text) {
				t.Errorf("%s: %s: %+v, want %s", c.name, id, got, want)
			}
		}
	}
}

func TestWarningsOfTheConfigurationAreShownByPart(t *testing.T) {
	o := healthy()
	good := o.Config
	o.Config = func() (config.Config, error) {
		cfg, err := good()
		cfg.Warnings = []*config.Error{{Line: 2, Key: "manifest_trust_bundle_cert", Reason: "x"}, {Line: 7, Key: "listen.workload_uri", Reason: "y"}}
		return cfg, err
	}
	all := run(t, o)
	for id, text := range map[string]string{"certd-config-well-formed": "line 2", "aziot-edged-config-well-formed": "line 7"} {
		if got := all[id]; got.Result != check.Warning || len(got.Details) != 1 || !strings.Contains(got.Details[0], text) {
			t.Errorf("%s: %+v", id, got)
		}
	}
	if got := all["tpmd-config-well-formed"]; got.Result != check.OK {
		t.Errorf("part without a warning: %+v", got)
	}
}

// TestEveryCheckOfTheOriginalIsThere has the table of spec security-daemon 13.1.
func TestEveryCheckOfTheOriginalIsThere(t *testing.T) {
	const table = `keyd-config-well-formed certd-config-well-formed tpmd-config-well-formed identityd-config-well-formed
configs-up-to-date hostname aziot-version host-local-time identity-certificate-expiry est-identity-and-bootstrap-certificate-expiry
local-ca-certificate-expiry certs-preloaded keyd-running certd-running tpmd-running identityd-running certs-read key-pairs-read
est-server-https certs-match-private-keys
aziot-edged-config-well-formed config-up-to-date container-engine-uri parent_hostname container-resolve-parent-hostname
connect-management-uri aziot-edge-version container-local-time container-engine-dns container-engine-ipv6 container-engine-logrotate
edge-agent-storage-mounted-from-host edge-hub-storage-mounted-from-host check-agent-image proxy-settings
host-connect-dps-endpoint host-connect-iothub-amqp host-connect-iothub-https host-connect-iothub-mqtt
container-default-connect-upstream-amqp container-default-connect-upstream-https container-default-connect-upstream-mqtt
container-connect-upstream-amqp container-connect-upstream-https container-connect-upstream-mqtt`
	var got []string
	for _, c := range check.List() {
		if c.ID != "cni-plugins" && c.ID != "edge-ca-certificate-expiry" { // ours
			got = append(got, c.ID)
		}
	}
	if want := strings.Fields(table); !slices.Equal(got, want) {
		t.Errorf("checks %q, want %q", got, want)
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
