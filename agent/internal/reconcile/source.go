package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
)

// source is where the wanted deployment comes from.
type source struct {
	raw        json.RawMessage // desired section last parsed
	err        error           // of parsing raw
	good       *manifest.Deployment
	triedSaved bool
	noteSigned bool // the note about signatures was written
}

// config returns the deployment to enforce, nil when there is none. With an error
// the twin's own manifest was refused, and the deployment is the last good one.
func (l *Loop) config(ctx context.Context) (*manifest.Deployment, error) {
	raw, ok := l.twin.Desired()
	if !ok {
		if l.source.good == nil && !l.source.triedSaved {
			l.source.triedSaved = true
			l.source.good = l.backup(ctx)
		}
		return l.source.good, nil
	}
	if !bytes.Equal(raw, l.source.raw) {
		l.source.raw = raw
		l.parse(ctx, raw)
	}
	return l.source.good, l.source.err
}

func (l *Loop) parse(ctx context.Context, raw json.RawMessage) {
	d, err := manifest.Parse(raw, manifest.Options{Parent: l.opts.Host.Parent})
	l.source.err = err
	if err != nil {
		l.log.Error("deployment refused; the last good one stays in force", "error", err)
		if l.source.good == nil && l.hasTaken {
			good := l.taken.Deployment
			l.source.good = &good
		}
		return
	}
	l.source.good = d
	if d.Signed && !l.source.noteSigned {
		l.source.noteSigned = true
		l.log.Info("the deployment is signed; signatures are not verified")
	}
	if err := l.store.SaveBackup(ctx, d.Version, raw); err != nil {
		l.log.Error("backup not written", "error", err)
	}
}

// backup reads the deployment that was saved for a start without the cloud.
func (l *Loop) backup(ctx context.Context) *manifest.Deployment {
	raw, err := l.store.LoadBackup(ctx)
	if errors.Is(err, state.ErrNone) {
		l.log.Warn("neither twin nor backup: nothing to do yet")
		return nil
	}
	if err != nil {
		l.log.Error("backup is unreadable: modules stay as they are", "error", err)
		return nil
	}
	d, err := manifest.Parse(raw, manifest.Options{Parent: l.opts.Host.Parent})
	if err != nil {
		l.log.Error("backup is no valid deployment: modules stay as they are", "error", err)
		return nil
	}
	l.log.Info("deployment read from the backup", "version", d.Version)
	return d
}

// equalJSON compares deployments by what is written to disk.
func equalJSON(a, b manifest.Deployment) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
