// Package provision remembers to which hub the device belongs, and asks the
// provisioning service when that is not known or may have changed (spec
// security-daemon 9.4).
//
// The file provisioning/device.json below the home directory, mode 0600, holds the
// last assignment, so that the device starts without the service:
//
//	{"registration","hub","deviceId","substatus","assigned","stale"}
//
// registration names endpoint, scope and registration id: with another one in the
// config the file does not count. stale is set when the device is to be registered
// anew; if the service is away then, the old assignment still serves.
package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// State is the content of the file.
type State struct {
	Registration string    `json:"registration"`
	Hub          string    `json:"hub"`
	DeviceID     string    `json:"deviceId"`
	Substatus    string    `json:"substatus,omitempty"`
	Assigned     time.Time `json:"assigned"`
	Stale        bool      `json:"stale,omitempty"`
}

// File returns the path of the state below a home directory.
func File(home string) string { return filepath.Join(home, "provisioning", "device.json") }

// ReadFile reads the state; none is fs.ErrNotExist.
func ReadFile(path string) (State, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil || s.Hub == "" || s.DeviceID == "" {
		return State{}, fmt.Errorf("%s is damaged", path)
	}
	return s, nil
}

func write(path string, s State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode assignment: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store assignment: %w", err)
	}
	if err := atomicfile.Write(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("store assignment: %w", err)
	}
	return nil
}

// MarkStale has the next start register the device anew. Without a file there is
// nothing to do.
func MarkStale(path string) error {
	s, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return os.Remove(path)
	}
	s.Stale = true
	return write(path, s)
}

// Registrar registers the device; *dps.Client is one.
type Registrar interface {
	Register(ctx context.Context) (dps.Assignment, error)
}

// Options configures Start. All are needed but Always.
type Options struct {
	File string
	// Registration names what is registered.
	Registration string
	// Always registers even if an assignment is known.
	Always    bool
	Registrar Registrar
	Log       *slog.Logger
}

// Pauses between attempts while no assignment is known.
const (
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
)

// Start returns the device's assignment: the known one, or that of the service.
// Without a known one it tries until ctx ends, for the device may be enrolled
// later. With a known one that is to be renewed, a service that is away leaves the
// known one in use, and one that refuses is an error. Failures on this side, such as
// a TPM that does not work, are errors too.
func Start(ctx context.Context, o Options) (State, error) {
	known, err := ReadFile(o.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Log.WarnContext(ctx, "known assignment is ignored", "error", err)
	}
	usable := err == nil && known.Registration == o.Registration
	if usable && !known.Stale && !o.Always {
		return known, nil
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		s, err := Again(ctx, o)
		if err == nil {
			o.Log.InfoContext(ctx, "device is assigned", "hub", s.Hub, "device", s.DeviceID, "substatus", s.Substatus)
			return s, nil
		}
		away := errors.Is(err, dps.ErrUnavailable)
		switch {
		case ctx.Err() != nil:
			return State{}, ctx.Err()
		case usable && away:
			o.Log.WarnContext(ctx, "provisioning service is away: the known assignment is used", "error", err)
			return known, nil
		case usable || !away && !errors.As(err, new(*dps.Error)):
			return State{}, err
		}
		wait := pause/2 + rand.N(pause)
		o.Log.ErrorContext(ctx, "device is not provisioned", "error", err, "retry", wait.Round(time.Second))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return State{}, ctx.Err()
		}
	}
}

// Again registers the device once and remembers the assignment.
func Again(ctx context.Context, o Options) (State, error) {
	a, err := o.Registrar.Register(ctx)
	if err != nil {
		return State{}, err
	}
	s := State{
		Registration: o.Registration, Hub: a.Hub, DeviceID: a.DeviceID, Substatus: a.Substatus,
		Assigned: time.Now().UTC().Truncate(time.Second),
	}
	return s, write(o.File, s)
}
