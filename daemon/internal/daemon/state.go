package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
	"github.com/breakwater-iot/breakwater/proto/filelock"
)

// LockHome makes the home directory and makes sure that only one daemon uses it,
// until unlock or the end of the process.
func LockHome(home string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(home, "cache"), 0o700); err != nil {
		return nil, fmt.Errorf("home directory: %w", err)
	}
	// Sockets below it are for everybody; keys and caches have modes of their own.
	if err := os.Chmod(home, 0o755); err != nil {
		return nil, fmt.Errorf("home directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(home, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("home directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("home directory %s is in use by another daemon: %w", home, err), f.Close())
	}
	return func() { _ = filelock.Close(f) }, nil
}

// checkProvisioning removes all modules when the device is not the one that made
// them (spec security-daemon 7.1).
func (d *daemon) checkProvisioning(ctx context.Context) error {
	dev := d.Config.Device
	doc, err := json.Marshal(struct {
		DeviceID string `json:"device_id"`
		Gateway  string `json:"gateway_host_name"`
		HubName  string `json:"hub_name"`
	}{dev.DeviceID, dev.Gateway, dev.HubName})
	if err != nil {
		return fmt.Errorf("provisioning state: %w", err)
	}
	sum := sha256.Sum256(doc)
	want := []byte(base64.StdEncoding.EncodeToString(sum[:]))
	path := filepath.Join(d.home, "cache", "provisioning_state")
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("provisioning state: %w", err)
	}
	if err == nil && bytes.Equal(bytes.TrimSpace(have), want) {
		return nil
	}
	d.Log.InfoContext(ctx, "device was provisioned anew: removing all modules")
	if err := d.manager.RemoveAll(ctx); err != nil {
		return fmt.Errorf("remove modules of another identity: %w", err)
	}
	if err := errors.Join(d.handover.Forget(), d.imagesKept.Set(nil)); err != nil {
		return err
	}
	d.manager.ReleaseImages(ctx)
	if err := atomicfile.Write(path, want, 0o600); err != nil {
		return fmt.Errorf("provisioning state: %w", err)
	}
	return nil
}

// forget removes what is remembered of the device's and its modules' identities.
// The next start registers them anew, without the modules that run now.
func (d *daemon) forget() error {
	if err := provision.MarkStale(provision.File(d.home)); err != nil {
		return errors.Join(ErrReprovision, fmt.Errorf("forget assignment: %w", err))
	}
	if err := os.RemoveAll(filepath.Join(d.home, "cache")); err != nil {
		return errors.Join(ErrReprovision, fmt.Errorf("forget identities: %w", err))
	}
	return ErrReprovision
}

// renewCA keeps the edge CA fresh. edgeHub takes a certificate of the new CA when its
// own is due, and keeps its sessions meanwhile; the old CA stays in the trust bundle.
// Only where clients must learn a new root, as with a quick start CA, the other
// modules are restarted: most SDKs read the trust bundle once.
func (d *daemon) renewCA(ctx context.Context) error {
	log := part(d.Log, "pki")
	bundle := d.authority.TrustBundle()
	return renewal.Run(ctx, d.authority, log.With("certificate", "edge CA"), func(ctx context.Context) {
		log.InfoContext(ctx, "edge CA renewed", "until", d.authority.Certificate().NotAfter)
		known := d.authority.Trusts(bundle)
		bundle = d.authority.TrustBundle()
		if !known {
			if err := d.restartClients(ctx); err != nil {
				log.ErrorContext(ctx, "restart modules after renewal", "error", err)
				return // the next start finds that they do not know the CA
			}
		}
		now := d.lastTerms(ctx) // under another configuration if they could not be stopped
		now.TrustBundle = bundle
		if err := d.saveTerms(now); err != nil {
			log.ErrorContext(ctx, "after renewal", "error", err)
		}
	})
}

// edgeHub is the hub's container.
const edgeHub = "edgeHub"

// restartClients restarts the running modules, but not edgeHub and the agent.
func (d *daemon) restartClients(ctx context.Context) error {
	all, err := d.manager.List(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Status != runtime.StatusRunning || m.Name == module.Agent || m.Name == edgeHub {
			continue
		}
		if rerr := d.manager.Restart(ctx, m.Name); rerr != nil {
			err = errors.Join(err, fmt.Errorf("module %s: %w", m.Name, rerr))
		}
	}
	return err
}
