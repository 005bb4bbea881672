package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
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
			return config.Load(path, machine)
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
			if cfg.EdgeCA.Cert != "" {
				return certificates(cfg.EdgeCA.Cert)
			}
			return certificates(filepath.Join(cfg.HomeDir, "certs", "edge_ca.pem"))
		},
		TrustBundle:   func(cfg config.Config) ([]Certificate, error) { return certificates(cfg.TrustBundleCert) },
		ClockOffset:   clockOffset,
		HostConnect:   hostConnect,
		ModuleConnect: moduleConnect,
	}
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
