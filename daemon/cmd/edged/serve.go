package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11"
	"github.com/breakwater-iot/breakwater/daemon/internal/systemd"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/proto/footprint"
)

// operators is the group that may use the management socket.
const operators = "iotedge"

// serve runs the daemon until ctx ends and returns the exit status.
func serve(ctx context.Context, c cli, stderr io.Writer) int {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		fmt.Fprintln(stderr, "edged:", err)
		return exitFailure
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	machine, err := os.Hostname()
	if err != nil {
		log.Error("machine name", "error", err)
		return exitFailure
	}
	cfg, err := config.Load(c.Config, machine)
	if err != nil {
		fmt.Fprintf(stderr, "edged: %s: %v\n", c.Config, err)
		return exitBadConfig
	}
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "file", c.Config, "warning", w.Error())
	}
	switch err := start(ctx, c.Config, cfg, log); {
	case errors.Is(err, daemon.ErrReprovision):
		log.Warn("edged ends to be provisioned anew", "reason", err)
		return exitReprovision
	case err != nil:
		log.Error("edged ends", "error", err)
		return exitFailure
	}
	log.Info("edged ended")
	return 0
}

// start opens the engine and runs the daemon on it; file is where cfg came from.
func start(ctx context.Context, file string, cfg config.Config, log *slog.Logger) (err error) {
	notifier, err := systemd.NewNotifier(log.With("part", "systemd"))
	if err != nil {
		return err
	}
	sockets, err := systemd.Inherit()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sockets.Close()) }()
	unlock, err := daemon.LockHome(cfg.HomeDir)
	if err != nil {
		return err
	}
	defer unlock()
	roots, _, err := daemon.Trust(cfg)
	if err != nil {
		return err
	}
	engine, err := openEngine(ctx, cfg, roots, log)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	group, err := operatorGroup()
	if err != nil {
		return err
	}
	opt := daemon.Options{
		Config: cfg, Runtime: engine, Version: version, Log: log, AdminGroup: group,
		Inherited: sockets, Status: notifier.Status, Ready: notifier.Ready, BundleExtras: bundleExtras(file),
		Supervise: func(ctx context.Context, alive func(context.Context) error) error {
			defer notifier.Stopping()
			var g errgroup.Group
			g.Go(func() error { return notifier.Watch(ctx, alive) })
			g.Go(func() error {
				if err := footprint.Run(ctx); err != nil {
					log.Warn("memory is not given back", "error", err)
				}
				return nil
			})
			return g.Wait()
		},
	}
	if cfg.TPM.Needed {
		if opt.TPM, err = cfg.TPM.Chip(); err != nil {
			return err
		}
	}
	if cfg.Keys.LibPath != "" {
		token, err := openToken(cfg.Keys, log)
		if err != nil {
			return err
		}
		defer token.Close()
		opt.Token = token
	}
	return daemon.Run(ctx, opt)
}

// openToken gives access to PKCS#11 keys by the helper that lies next to this
// program.
func openToken(k config.Keys, log *slog.Logger) (*pkcs11.Token, error) {
	program, err := beside("edged-pkcs11")
	if err != nil {
		return nil, err
	}
	return pkcs11.New(pkcs11.Options{
		Program: program, Library: k.LibPath, Log: log.With("part", "pkcs11"),
	}), nil
}

// beside returns the path of a program in the directory of this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

func openEngine(ctx context.Context, cfg config.Config, roots *x509.CertPool, log *slog.Logger) (*containerd.Runtime, error) {
	c := cfg.Containerd
	net := network.Config{
		Name: c.Network, V4: network.Range(c.V4), IPv6: c.IPv6, V6: network.Range(c.V6), PluginDirs: network.DefaultPluginDirs,
	}
	if dir := c.CNIBinDir; dir != "" {
		net.PluginDirs = []string{dir}
	}
	judge, err := beside("edged-verify")
	if err != nil {
		return nil, err
	}
	writer, err := beside("edged-log")
	if err != nil {
		return nil, err
	}
	init, err := beside("edged-init")
	if err != nil {
		return nil, err
	}
	gate := verify.New(verify.Options{
		Policies: cfg.Verification.ImagePolicies(), Dir: filepath.Join(cfg.HomeDir, "verified"),
		Program: judge, Log: log.With("part", "verify"),
	})
	return containerd.Open(ctx, containerd.Config{
		Address: cfg.Containerd.Address, Namespace: cfg.Containerd.Namespace, HomeDir: cfg.HomeDir,
		LogWriter: writer, Init: init, Network: net, RootCAs: roots, Gate: gate, Log: log.With("part", "engine"),
	})
}

// operatorGroup returns the id of the operators' group, -1 when it does not exist.
func operatorGroup() (int, error) {
	g, err := user.LookupGroup(operators)
	if errors.As(err, new(user.UnknownGroupError)) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("group %s: %w", operators, err)
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("group %s: %w", operators, err)
	}
	return id, nil
}
