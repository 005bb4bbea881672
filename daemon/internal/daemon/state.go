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
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/atomicfile"
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
	return func() { f.Close() }, nil
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
	if err := atomicfile.Write(path, want, 0o600); err != nil {
		return fmt.Errorf("provisioning state: %w", err)
	}
	return nil
}

// forget removes what is remembered of the device's and its modules' identities.
// The next start registers them anew, without the modules that run now.
func (d *daemon) forget() error {
	if err := os.RemoveAll(filepath.Join(d.home, "cache")); err != nil {
		return errors.Join(ErrReprovision, fmt.Errorf("forget identities: %w", err))
	}
	return ErrReprovision
}

// longestWait bounds a timer, so that a changed clock is noticed within a day.
const longestWait = 24 * time.Hour

// renewCA renews a quick start CA when it is due and restarts the modules then.
func (d *daemon) renewCA(ctx context.Context) error {
	log := part(d.Log, "pki")
	wait := time.Until(d.authority.RenewAt())
	for {
		timer := time.NewTimer(min(max(wait, 0), longestWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = time.Until(d.authority.RenewAt())
		if wait > 0 {
			continue
		}
		if err := d.authority.Renew(); err != nil {
			wait = d.authority.RetryAfter()
			log.ErrorContext(ctx, "renew edge CA", "error", err, "retry", wait)
			continue
		}
		wait = time.Until(d.authority.RenewAt())
		log.InfoContext(ctx, "edge CA renewed: restarting modules", "until", d.authority.Certificate().NotAfter)
		if err := d.manager.RestartRunning(ctx); err != nil {
			log.ErrorContext(ctx, "restart modules after renewal", "error", err)
		}
	}
}
