package check

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// DeviceOptions say where to look.
type DeviceOptions struct {
	// ConfigFile is the operator's configuration, AppliedFile what the daemon was
	// handed.
	ConfigFile, AppliedFile string
	// Host is the URI of the management API for a daemon whose sockets are the service
	// manager's.
	Host string
	// Proxy is the URL of an HTTP proxy to connect through; empty means that of the
	// environment.
	Proxy string
	// Program is the daemon's.
	Program string
}

// Device are the probes of this device.
func Device(o DeviceOptions) Probes {
	return Probes{
		Now:      time.Now,
		Config:   o.load,
		Applied:  o.applied,
		Hostname: os.Hostname,
		ConfigChanged: func() (time.Time, error) {
			st, err := os.Stat(o.AppliedFile)
			if errors.Is(err, fs.ErrNotExist) {
				st, err = os.Stat(o.ConfigFile)
			}
			if err != nil {
				return time.Time{}, err
			}
			return st.ModTime(), nil
		},
		Installed: o.installed,
		Engine: func(ctx context.Context, cfg config.Config) (string, error) {
			seen, err := look(ctx, cfg)
			return seen.Version, err
		},
		Plugins: func(cfg config.Config) error {
			if dir := cfg.Containerd.CNIBinDir; dir != "" {
				return network.CheckPlugins([]string{dir})
			}
			return network.CheckPlugins(network.DefaultPluginDirs)
		},
		Uptime: o.uptime, Info: o.info, Workload: workload, TPM: talkToTPM, ServiceEnv: serviceEnv,
		EdgeCA: func(cfg config.Config) ([]Certificate, error) {
			return certificates(cmp.Or(cfg.EdgeCA.KeyPair.Cert, issued(cfg, "edge_ca")))
		},
		Identity: func(cfg config.Config) ([]Certificate, error) {
			return certificates(cmp.Or(cfg.Identity.Cert, issued(cfg, "device-id")))
		},
		EST: estIdentities,
		LocalCA: func(cfg config.Config) ([]Certificate, error) {
			return certificates(cmp.Or(cfg.Issuance.LocalCA.Cert, issued(cfg, "local-ca")))
		},
		Pairs: matchingPairs, Preloaded: preloadedFiles, KeyFiles: readableKeys,
		TrustBundle: func(cfg config.Config) ([]Certificate, error) { return certificates(cfg.TrustBundleCert) },
		ClockOffset: clockOffset,
		HostIPv6:    func() error { return network.HostHasIPv6("") },
		Network: func(cfg config.Config) (network.Shape, error) {
			return network.ReadShape(network.Dir(cfg.HomeDir))
		},
		LinkAddrs:   linkAddrs,
		Nameservers: moduleNameservers, LogSizes: logSizes, Storage: moduleStorage,
		HostConnect: o.hostConnect, ESTConnect: o.estConnect,
		ModuleConnect: connectFrom(inModuleNetwork), SharedConnect: connectFrom(inHostNetwork),
		HostResolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			return bothFamilies(addrs), err
		},
		ModuleResolve: func(ctx context.Context, cfg config.Config, host string) ([]netip.Addr, error) {
			m, err := findModule(ctx, cfg, inModuleNetwork)
			if err != nil {
				return nil, err
			}
			return m.lookup(ctx, host)
		},
	}
}

// load reads the configuration, and who the device is if that was assigned.
func (o DeviceOptions) load() (config.Config, error) {
	machine, err := os.Hostname()
	if err != nil {
		return config.Config{}, fmt.Errorf("name of the machine: %w", err)
	}
	cfg, err := config.Load(o.ConfigFile, machine)
	if err != nil || cfg.Provisioning.Source != "dps" {
		return cfg, err
	}
	if a, err := provision.ReadFile(provision.File(cfg.HomeDir)); err == nil {
		cfg.Device = cfg.Assigned(a.Hub, a.DeviceID)
	}
	return cfg, nil
}

func (o DeviceOptions) applied() (bool, error) {
	have, err := os.ReadFile(o.AppliedFile)
	if err != nil {
		return false, err
	}
	want, err := os.ReadFile(o.ConfigFile)
	if err != nil {
		// Who asks must learn of the missing file, not that nothing is applied.
		return false, fmt.Errorf("%s: %s", o.ConfigFile, err.Error())
	}
	return bytes.Equal(have, want), nil
}

// installed asks the program on disk, which may be newer than what runs.
func (o DeviceOptions) installed(ctx context.Context) (string, error) {
	if _, err := os.Stat(o.Program); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, o.Program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", o.Program, err)
	}
	_, version, ok := strings.Cut(strings.TrimSpace(string(out)), "edged ")
	if !ok {
		return "", fmt.Errorf("%s --version says %.40q", o.Program, out)
	}
	return version, nil
}

// issued is the file of a certificate that the daemon gets from an issuer.
func issued(cfg config.Config, name string) string {
	return filepath.Join(cfg.HomeDir, "certs", name+".pem")
}

// estIdentities reads what EST clients authenticate with; a certificate that is yet
// to be issued is left out.
func estIdentities(cfg config.Config) ([]Certificate, error) {
	var out []Certificate
	for name, i := range map[string]config.Issue{
		"device-id": cfg.Identity.Issue, "edge_ca": cfg.EdgeCA.Issue, "local-ca": cfg.Issuance.LocalCA.Issue,
	} {
		for _, file := range []string{i.Cert, i.BootstrapCert} {
			if file == "" {
				continue
			}
			certs, err := certificates(file)
			if err != nil {
				return nil, err
			}
			out = append(out, certs[0])
		}
		certs, err := certificates(issued(cfg, "est-"+name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(certs) > 0 && i.BootstrapCert != "" {
			out = append(out, certs[0])
		}
	}
	return out, nil
}

// configured are the certificates with keys that the configuration names.
func configured(cfg config.Config) (out []config.KeyPair) {
	local := cfg.Issuance.LocalCA
	for _, p := range []config.KeyPair{
		{Cert: cfg.Identity.Cert, Key: cfg.Identity.CertPK}, cfg.EdgeCA.KeyPair, {Cert: local.Cert, Key: local.Key},
		{Cert: local.Issue.Cert, Key: local.Issue.CertPK}, {Cert: local.Issue.BootstrapCert, Key: local.Issue.BootstrapPK},
		{Cert: cfg.Identity.Issue.Cert, Key: cfg.Identity.Issue.CertPK}, {Cert: cfg.Identity.Issue.BootstrapCert, Key: cfg.Identity.Issue.BootstrapPK},
		{Cert: cfg.EdgeCA.Issue.Cert, Key: cfg.EdgeCA.Issue.CertPK}, {Cert: cfg.EdgeCA.BootstrapCert, Key: cfg.EdgeCA.BootstrapPK},
	} {
		if p.Cert != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// keysOf finds the keys that the configuration names, but those on a PKCS#11 token, which
// the daemon has in hand.
func keysOf(cfg config.Config) (credential.Keys, error) {
	if !cfg.TPM.Needed {
		return credential.Keys{}, nil
	}
	chip, err := cfg.TPM.Chip()
	return credential.Keys{TPM: chip}, err
}

// matchingPairs compares certificates in files with their keys, as far as those can be
// reached.
func matchingPairs(ctx context.Context, cfg config.Config) error {
	keys, err := keysOf(cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range configured(cfg) {
		if p.Key.OnToken() {
			continue
		}
		if _, err := keys.Certificate(ctx, p.Cert, p.Key); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Cert, err))
		}
	}
	return errors.Join(errs...)
}

func preloadedFiles(_ context.Context, cfg config.Config) error {
	var errs []error
	for _, p := range configured(cfg) {
		if _, err := certificates(p.Cert); err != nil {
			errs = append(errs, err)
		}
	}
	files := slices.Clone(cfg.Issuance.EST.TrustedCerts)
	if cfg.ManifestTrustBundleCert != "" {
		files = append(files, cfg.ManifestTrustBundleCert)
	}
	for _, file := range files {
		if _, err := certificates(file); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func readableKeys(ctx context.Context, cfg config.Config) error {
	keys, err := keysOf(cfg)
	if err != nil {
		return err
	}
	var errs []error
	if uri := cfg.Identity.KeyURI; uri.InTPM() {
		// The text is no token for anything.
		if _, err := keys.TPM.HMAC(ctx, string(uri), []byte("edgectl check")); err != nil {
			errs = append(errs, fmt.Errorf("key of the device: %w", err))
		}
	}
	for _, p := range configured(cfg) {
		if p.Key.OnToken() {
			continue
		}
		if _, err := keys.Signer(ctx, p.Key); err != nil {
			errs = append(errs, fmt.Errorf("key of %s: %w", p.Cert, err))
		}
	}
	return errors.Join(errs...)
}

func certificates(file string) ([]Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out := make([]Certificate, len(certs))
	for i, c := range certs {
		out[i] = Certificate{file, c}
	}
	return out, nil
}

func (o DeviceOptions) hostConnect(ctx context.Context, cfg config.Config, host string, port int) error {
	roots, _, err := daemon.Trust(cfg)
	if err != nil {
		return err
	}
	return o.connect(ctx, roots, host, port)
}

func (o DeviceOptions) estConnect(ctx context.Context, cfg config.Config, host string, port int) error {
	roots, _, err := daemon.Trust(cfg)
	if err != nil {
		return err
	}
	for _, file := range cfg.Issuance.EST.TrustedCerts {
		certs, err := certificates(file)
		if err != nil {
			return err
		}
		for _, c := range certs {
			roots.AddCert(c.Certificate)
		}
	}
	return o.connect(ctx, roots, host, port)
}

func (o DeviceOptions) connect(ctx context.Context, roots *x509.CertPool, host string, port int) error {
	var d *proxy.Dialer
	var err error
	if o.Proxy != "" {
		d, err = proxy.New(o.Proxy, "")
	} else {
		d, err = proxy.FromEnvironment(os.Getenv)
	}
	if err != nil {
		return err
	}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return handshake(ctx, roots, conn, host)
}

// findModule asks containerd for a module that runs in the network.
func findModule(ctx context.Context, cfg config.Config, where inNetwork) (moduleNet, error) {
	seen, err := look(ctx, cfg)
	if err != nil {
		return moduleNet{}, fmt.Errorf("%w: containerd: %w", ErrNoModule, err)
	}
	return findModuleNet(seen.Running, where)
}

// connectFrom makes the probe that opens TLS connections as a module of the network.
func connectFrom(where inNetwork) func(context.Context, config.Config, string, int) error {
	return func(ctx context.Context, cfg config.Config, host string, port int) error {
		m, err := findModule(ctx, cfg, where)
		if err != nil {
			return err
		}
		conn, err := m.Dial(ctx, host, strconv.Itoa(port))
		if err != nil {
			return err
		}
		roots, _, err := daemon.Trust(cfg)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		return handshake(ctx, roots, conn, host)
	}
}

// handshake speaks TLS as the daemon does, and closes.
func handshake(ctx context.Context, roots *x509.CertPool, conn net.Conn, host string) error {
	defer conn.Close()
	return tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
}

// sameHost compares host names, of which either may be the full one.
func sameHost(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}
