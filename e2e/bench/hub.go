package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// started is how long an edgehub took, from exec.
type started struct{ tls, connack time.Duration }

func (s started) String() string {
	return fmt.Sprintf("%v to TLS, %v to a CONNACK", millis(s.tls), millis(s.connack))
}

// startHub starts edgehub on a storage folder, and measures until it has answered a
// TLS handshake, and until a module is logged in.
func startHub(ctx context.Context, rig *hubrig.Rig, storage string) (*hubrig.Process, started, error) {
	var s started
	login := rig.Login(sinkModule)
	began := time.Now()
	hub, err := rig.StartHub(storage)
	if err != nil {
		return nil, s, err
	}
	s.tls, err = until(ctx, hub, began, func() error {
		conn, err := (&tls.Dialer{Config: login.TLS}).DialContext(ctx, "tcp", login.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err == nil {
		s.connack, err = until(ctx, hub, began, func() error {
			c, err := mqttload.Dial(ctx, login)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	if err != nil {
		hub.Kill()
	}
	return hub, s, err
}

// startLimit is how long a start may take before it counts as failed.
const startLimit = time.Minute

// until tries again and again, and returns when it first worked, since began.
func until(ctx context.Context, hub *hubrig.Process, began time.Time, try func() error) (time.Duration, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		took := time.Since(began)
		switch {
		case err == nil:
			return took, nil
		case took > startLimit:
			return 0, fmt.Errorf("edgehub does not take clients: %w", err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-hub.Done():
			return 0, errors.Join(errors.New("edgehub ended while starting"), hub.Err())
		case <-tick.C:
		}
	}
}

func stop(hub *hubrig.Process) error { return hub.Stop(30 * time.Second) }

// freshStorage is a storage folder of a hub that has been started once, so that it
// knows its configuration.
func freshStorage(ctx context.Context, rig *hubrig.Rig, dir string) (first started, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return first, err
	}
	hub, first, err := startHub(ctx, rig, dir)
	if err != nil {
		return first, err
	}
	return first, stop(hub)
}
