package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// Device are the probes of this device, whose config is the file at path.
func Device(path string) Probes {
	return Probes{
		Now: time.Now,
		Config: func() (config.Config, error) {
			machine, err := os.Hostname()
			if err != nil {
				return config.Config{}, fmt.Errorf("name of the machine: %w", err)
			}
			cfg, err := config.Load(path, machine)
			if err != nil || cfg.Provisioning.Source != "dps" {
				return cfg, err
			}
			if a, err := provision.ReadFile(provision.File(cfg.HomeDir)); err == nil {
				cfg.Device = config.Device{HubName: a.Hub, DeviceID: a.DeviceID, Gateway: a.Hub}
			}
			return cfg, nil
		},
		Hostname: os.Hostname,
		ConfigChanged: func() (time.Time, error) {
			st, err := os.Stat(path)
			if err != nil {
				return time.Time{}, err
			}
			return st.ModTime(), nil
		},
		Engine: func(ctx context.Context, cfg config.Config) (string, error) {
			seen, err := containerd.Look(ctx, cfg.Containerd.Address, cfg.Containerd.Namespace)
			return seen.Version, err
		},
		Plugins: func(cfg config.Config) error {
			if dir := cfg.Containerd.CNIBinDir; dir != "" {
				return network.CheckPlugins([]string{dir})
			}
			return network.CheckPlugins(network.DefaultPluginDirs)
		},
		Uptime: uptime,
		EdgeCA: func(cfg config.Config) ([]Certificate, error) {
			return certificates(cmp.Or(cfg.EdgeCA.KeyPair.Cert, issued(cfg, "edge_ca")))
		},
		Identity: func(cfg config.Config) ([]Certificate, error) {
			return certificates(cmp.Or(cfg.Identity.Cert, issued(cfg, "device-id")))
		},
		EST:           estIdentities,
		LocalCA:       func(cfg config.Config) ([]Certificate, error) { return certificates(cfg.Issuance.LocalCA.Cert) },
		Pairs:         matchingPairs,
		TrustBundle:   func(cfg config.Config) ([]Certificate, error) { return certificates(cfg.TrustBundleCert) },
		ClockOffset:   clockOffset,
		HostConnect:   hostConnect,
		ModuleConnect: moduleConnect,
	}
}

// issued is the file of a certificate that the daemon gets from an issuer.
func issued(cfg config.Config, name string) string {
	return filepath.Join(cfg.HomeDir, "certs", name+".pem")
}

// estIdentities reads what EST clients authenticate with; a certificate that is yet
// to be issued is left out.
func estIdentities(cfg config.Config) ([]Certificate, error) {
	var out []Certificate
	for name, i := range map[string]config.Issue{"device-id": cfg.Identity.Issue, "edge_ca": cfg.EdgeCA.Issue} {
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

// matchingPairs compares certificates in files with their keys, as far as those are
// in files too.
func matchingPairs(ctx context.Context, cfg config.Config) error {
	var errs []error
	for _, p := range []config.KeyPair{
		{Cert: cfg.Identity.Cert, Key: cfg.Identity.CertPK}, cfg.EdgeCA.KeyPair, cfg.Issuance.LocalCA,
		{Cert: cfg.Identity.Issue.Cert, Key: cfg.Identity.Issue.CertPK}, {Cert: cfg.Identity.Issue.BootstrapCert, Key: cfg.Identity.Issue.BootstrapPK},
		{Cert: cfg.EdgeCA.Issue.Cert, Key: cfg.EdgeCA.Issue.CertPK}, {Cert: cfg.EdgeCA.BootstrapCert, Key: cfg.EdgeCA.BootstrapPK},
	} {
		if p.Cert == "" || p.Key.OnToken() {
			continue
		}
		if _, err := (credential.Keys{}).Certificate(ctx, p.Cert, p.Key); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Cert, err))
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

// uptime asks the daemon at its management socket.
func uptime(ctx context.Context, cfg config.Config) (_ time.Duration, err error) {
	path, err := config.SocketPath(cfg.Listen.Management)
	if err != nil {
		return 0, err
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithNoProxy())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	res, err := managementv1.NewSystemClient(conn).GetResources(ctx, &managementv1.GetResourcesRequest{})
	if err != nil {
		return 0, errors.New(status.Convert(err).Message())
	}
	return time.Duration(res.GetProcessUptime() * float64(time.Second)), nil
}

func hostConnect(ctx context.Context, cfg config.Config, host string, port int) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return handshake(ctx, cfg, conn, host)
}

func moduleConnect(ctx context.Context, cfg config.Config, host string, port int) error {
	seen, err := containerd.Look(ctx, cfg.Containerd.Address, cfg.Containerd.Namespace)
	if err != nil {
		return fmt.Errorf("%w: containerd: %w", ErrNoModule, err)
	}
	m, err := findModuleNet(seen.Running)
	if err != nil {
		return err
	}
	conn, err := m.Dial(ctx, host, strconv.Itoa(port))
	if err != nil {
		return err
	}
	return handshake(ctx, cfg, conn, host)
}

// handshake speaks TLS as the daemon does, trusting what it trusts, and closes.
func handshake(ctx context.Context, cfg config.Config, conn net.Conn, host string) error {
	defer conn.Close()
	roots, _, err := daemon.Trust(cfg)
	if err != nil {
		return err
	}
	return tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
}

// sameHost compares host names, of which either may be the full one.
func sameHost(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}
