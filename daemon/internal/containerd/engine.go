// Package containerd runs modules on containerd (1.6 or later). It is the one
// implementation of runtime.Runtime that the product uses.
//
// What it must remember lives with the container, in containerd's own store:
// labels for the last run, an extension for what the module was created from. A
// daemon that starts again finds running modules and watches them on; their logs
// are written by processes of their own (package modlog) and do not stop.
package containerd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/apparmor"
	hostarmor "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// Config says where the engine is and where the daemon keeps files.
type Config struct {
	// Address is containerd's socket; empty is /run/containerd/containerd.sock.
	Address string
	// Namespace is containerd's namespace; empty is "breakwater".
	Namespace string
	// HomeDir is the daemon's directory. Used below it: cni, hosts, logs, volumes,
	// scratch. Containerd must see it under the same path.
	HomeDir string
	// LogWriter is the executable that is started as "… log-writer ARG" for every
	// running module: edged-log; empty is the calling program's own. See
	// modlog.RunWriter.
	LogWriter string
	// Init is the executable that HostConfig.Init puts before a module's command:
	// edged-init. Where it does not exist, and if it is empty, such modules are refused.
	Init string
	// Network describes the module network; its Dir is chosen here.
	Network network.Config
	// RootCAs are trusted for registries; nil is the system's.
	RootCAs *x509.CertPool
	// CDIDirs are folders of CDI specs; nil is /etc/cdi and /var/run/cdi.
	CDIDirs []string
	// StallTimeout is how long a registry may send nothing before a pull fails; 0 is two
	// minutes.
	StallTimeout time.Duration
	// Gate decides which images may run; nil lets all.
	Gate *verify.Gate
	Log  *slog.Logger
}

// Runtime implements runtime.Runtime.
type Runtime struct {
	cfg    Config
	log    *slog.Logger
	client *client.Client
	net    *network.Network
	hosts  *network.Hosts
	host   ocimap.Host
	events *hub
	locks  keyedLock // of modules

	ingests keyedLock // of blobs that are being fetched
	pulls   keyedLock // of images that are

	// watchers are the goroutines that wait for running modules to end; stop ends
	// them.
	watchers sync.WaitGroup
	stop     context.CancelFunc
	life     context.Context // the watchers', ended by Close

	mu      sync.Mutex
	running map[string]*run
}

var _ runtime.Runtime = (*Runtime)(nil)

// Open connects, sets up the module network, and takes over what runs. Close it.
func Open(ctx context.Context, cfg Config) (*Runtime, error) {
	if cfg.Address == "" {
		cfg.Address = "/run/containerd/containerd.sock"
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "breakwater"
	}
	if !filepath.IsAbs(cfg.HomeDir) {
		return nil, fmt.Errorf("home directory %q is not absolute", cfg.HomeDir)
	}
	if cfg.LogWriter == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("log writer: %w", err)
		}
		cfg.LogWriter = exe
	}
	// Better now than at the start of every module.
	if _, err := os.Stat(cfg.LogWriter); err != nil {
		return nil, fmt.Errorf("log writer: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate == nil {
		cfg.Gate = verify.New(verify.Options{})
	}
	if cfg.CDIDirs == nil {
		cfg.CDIDirs = defaultCDIDirs
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = defaultStallTimeout
	}
	cfg.Network.Dir = network.Dir(cfg.HomeDir)
	cfg.Network.Log = cfg.Log
	c, err := client.New(cfg.Address, client.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w: %w", cfg.Address, runtime.ErrUnavailable, err)
	}
	r := &Runtime{cfg: cfg, log: cfg.Log, client: c, events: newHub(), running: make(map[string]*run)}
	r.life, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := r.open(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Runtime) open(ctx context.Context) error {
	if _, err := r.Info(ctx); err != nil {
		return err
	}
	var err error
	if r.net, err = network.Open(ctx, r.cfg.Network); err != nil {
		return fmt.Errorf("module network: %w", err)
	}
	r.hosts = network.NewHosts(filepath.Join(r.cfg.HomeDir, "hosts"), r.net.Gateway())
	if r.host, err = r.describeHost(); err != nil {
		return err
	}
	return r.adopt(r.ctx(ctx))
}

func (r *Runtime) describeHost() (ocimap.Host, error) {
	h := ocimap.Host{
		VolumesDir:  filepath.Join(r.cfg.HomeDir, "volumes"),
		ScratchDir:  filepath.Join(r.cfg.HomeDir, "scratch"),
		NetworkName: r.net.Name(),
		IPv6:        r.net.Shape().V6.Subnet.IsValid(),
	}
	_, err := os.Stat(r.cfg.Init)
	if err == nil {
		h.Init = r.cfg.Init
	}
	if h.Hostname, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("host name: %w", err)
	}
	if h.Capabilities, err = cap.Current(); err != nil {
		return h, fmt.Errorf("capabilities: %w", err)
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	h.CgroupV2 = err == nil
	if hostarmor.HostSupports() {
		const profile = "breakwater-module"
		if err := apparmor.LoadDefaultProfile(profile); err != nil {
			r.log.Warn("modules run without an AppArmor profile", "error", err)
		} else {
			h.AppArmor = profile
		}
	}
	return h, nil
}

// Close ends the watching of modules, which run on, and the Events channels. The
// Runtime must not be used afterwards.
func (r *Runtime) Close() error {
	r.stop()
	r.watchers.Wait()
	r.events.close()
	return r.client.Close()
}

// TearDown removes every module, the module network and the daemon's files about
// them, except volumes. Close must still be called.
func (r *Runtime) TearDown(ctx context.Context) error {
	states, err := r.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range states {
		errs = append(errs, r.Remove(ctx, s.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.net.TearDown(ctx)
}

// Gateway is the host's address in the module network.
func (r *Runtime) Gateway() string { return r.net.Gateway().V4.String() }

// Info implements runtime.Observer.
func (r *Runtime) Info(ctx context.Context) (runtime.Info, error) {
	v, err := r.client.Version(r.ctx(ctx))
	if err != nil {
		return runtime.Info{}, fmt.Errorf("containerd at %s: %w", r.cfg.Address, translate(err))
	}
	return runtime.Info{Name: "containerd", Version: v.Version}, nil
}

func (r *Runtime) ctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.cfg.Namespace)
}

// translate gives engine errors the kinds of package runtime.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	case errdefs.IsAlreadyExists(err):
		return fmt.Errorf("%w: %w", runtime.ErrExists, err)
	}
	return err
}

// keyedLock lets one operation at a time work on a module.
type keyedLock struct {
	mu    sync.Mutex
	locks map[string]*keyed
}

type keyed struct {
	turn  chan struct{}
	users int
}

func (k *keyedLock) lock(ctx context.Context, name string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = make(map[string]*keyed)
	}
	l := k.locks[name]
	if l == nil {
		l = &keyed{turn: make(chan struct{}, 1)}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// busy reports whether name is locked or waited for.
func (k *keyedLock) busy(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.locks[name] != nil
}
