package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Options configure a rig.
type Options struct {
	// Root is the root of the source tree; programs are taken from Root/bin.
	Root string
	// Manifest is the deployment manifest to apply; empty means
	// Root/deploy/manifests/development.json.
	Manifest string
	// Dir keeps the rig's files (logs, data); empty means a temporary folder that
	// Close removes unless Keep is set.
	Dir  string
	Keep bool
	// NodeModule also pushes the image of the module with the stock Node SDK.
	NodeModule bool
	// DeviceConfig is added at the end of edged's configuration file.
	DeviceConfig string
	// Local is a folder that edgeAgent sees as /local; its deployment is deployment.json
	// there. Empty means that it is the twin's.
	Local string
	// Registry has the images; nil means one of the rig's own.
	Registry *Registry
	// Elsewhere says that the caller runs engine and daemon himself, on a machine of its
	// own whose network is Device. What needs them here is not for such a rig.
	Elsewhere bool
	// Say receives a line for what is being done; nil drops them.
	Say func(string)
}

// Rig is a world of a cloud, a device and a leaf. See the package comment.
type Rig struct {
	Options
	lock       *os.File
	tempDir    bool
	containerd *Process
	registry   *http.Server
	log        *os.File // of a registry of its own
	cloud      *Process
	monitor    *Process
	edged      *Process
	leaf       *Process
	memory     *memoryWatch

	// Arrived is the ledger of what reached the cloud.
	Arrived *Ledger
	// LeafAcked is the ledger of what the leaf was told is stored.
	LeafAcked *Ledger

	leafConnection string
	closeOnce      sync.Once
	closeErr       error
}

// The devices of the rig's world.
const (
	EdgeID = "edge-1"
	LeafID = "leaf-1"
)

const (
	lockFile = "/run/breakwater-rig.lock"

	registryAddr   = "127.0.0.1:5000"
	registryHost   = "localhost:5000"
	registryPrefix = registryHost + "/breakwater"
)

// New makes the hosts and starts containerd (if none runs) and the registry. On
// error everything is taken down again.
func New(ctx context.Context, o Options) (_ *Rig, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("root is needed: network namespaces and containers are made")
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Manifest == "" {
		o.Manifest = filepath.Join(o.Root, "deploy", "manifests", "development.json")
	}
	r := &Rig{Options: o, Arrived: NewLedger(), LeafAcked: NewLedger()}
	if err := r.takeLock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.Dir == "" {
		if r.Dir, err = os.MkdirTemp("", "breakwater-rig-"); err != nil {
			return nil, fmt.Errorf("rig folder: %w", err)
		}
		r.tempDir = true
	}
	if err := os.MkdirAll(filepath.Join(r.Dir, "logs"), 0o700); err != nil {
		return nil, fmt.Errorf("rig folder: %w", err)
	}
	if err := r.sweep(ctx); err != nil {
		return nil, fmt.Errorf("remove what an earlier rig left: %w", err)
	}
	if err := r.useEngine(ctx); err != nil {
		return nil, err
	}
	if err := os.WriteFile(markFile, nil, 0o600); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	r.say("making the hosts %v", hosts)
	if err := buildNetwork(ctx); err != nil {
		return nil, err
	}
	if err := r.openRegistry(); err != nil {
		return nil, err
	}
	r.memory = watchMemory()
	return r, nil
}

// useEngine has containerd run, unless it runs elsewhere, and makes sure that no real
// device is cleaned up after.
func (r *Rig) useEngine(ctx context.Context) error {
	if !r.Elsewhere {
		if err := r.useContainerd(ctx); err != nil {
			return err
		}
	} else if !answers(containerdSocket) {
		return nil
	}
	found, err := Containers(ctx)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("containerd's namespace %q is in use (%v): a Breakwater device runs on this machine", containerdNamespace, found)
	}
	return err
}

// markFile says that containers in containerd's namespace are a rig's, so that a
// rig that was killed can be cleaned up after without touching a real device.
const markFile = "/run/breakwater-rig.mark"

// sweep removes what a rig that was killed left behind.
func (r *Rig) sweep(ctx context.Context) error {
	if _, err := os.Stat(markFile); err != nil {
		return nil //nolint:nilerr // no mark, nothing of ours
	}
	r.say("removing what an earlier run left")
	return errors.Join(removeContainers(ctx), removeNetwork(ctx), os.Remove(markFile))
}

func (r *Rig) takeLock() error {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("rig lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("another rig runs on this machine: lock %s: %w", lockFile, err)
	}
	r.lock = f
	return nil
}

func (r *Rig) say(format string, a ...any) { r.Say(fmt.Sprintf(format, a...)) }

func (r *Rig) logPath(name string) string { return filepath.Join(r.Dir, "logs", name+".log") }

func (r *Rig) bin(name string) string { return filepath.Join(r.Root, "bin", name) }

// Close takes everything down: programs, containers, networks, mounts, files. It
// may be called more than once.
func (r *Rig) Close() error {
	r.closeOnce.Do(func() {
		// Cleaning has to work after the caller's context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		var errs []error
		stop := func(p *Process, limit time.Duration) {
			if p != nil && !p.Ended() {
				errs = append(errs, p.Stop(limit))
			}
		}
		stop(r.leaf, 10*time.Second)
		stop(r.edged, 45*time.Second)
		stop(r.monitor, 10*time.Second)
		stop(r.cloud, 20*time.Second)
		if r.memory != nil {
			r.memory.stop()
		}
		if _, err := os.Stat(markFile); err == nil {
			errs = append(errs, removeContainers(ctx))
		}
		if r.registry != nil {
			errs = append(errs, r.registry.Close())
		}
		if r.log != nil {
			errs = append(errs, r.log.Close())
		}
		stop(r.containerd, 20*time.Second)
		if _, err := os.Stat(markFile); err == nil {
			errs = append(errs, removeNetwork(ctx), os.Remove(markFile))
		}
		if r.tempDir && !r.Keep {
			errs = append(errs, os.RemoveAll(r.Dir))
		}
		if r.lock != nil {
			errs = append(errs, r.lock.Close())
		}
		r.closeErr = errors.Join(errs...)
	})
	return r.closeErr
}

// Logs copies the end of every program's log to w, for a failed test.
func (r *Rig) Logs(w io.Writer, lines int) {
	files, _ := filepath.Glob(filepath.Join(r.Dir, "logs", "*.log"))
	modules, _ := filepath.Glob(filepath.Join(r.Dir, "device", "home", "logs", "*", "*"))
	for _, f := range append(files, modules...) {
		text, err := os.ReadFile(f)
		if err != nil || len(text) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n--- %s\n%s\n", f, tail(string(text), lines))
	}
}
