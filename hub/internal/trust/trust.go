// Package trust holds the certificates of the device's trust bundle, as the security
// daemon has it now: when the edge CA is renewed, those that the new one has signed
// are let in without a restart, and sessions go on.
package trust

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Fetch gets the bundle, in PEM; empty when the device has none.
type Fetch func(ctx context.Context) ([]byte, error)

const (
	every = time.Minute
	// limit is for one answer of the daemon.
	limit = 20 * time.Second
)

// Bundle is the bundle as last fetched. It may be used concurrently.
type Bundle struct {
	fetch   Fetch
	log     *slog.Logger
	current atomic.Pointer[x509.CertPool]
	raw     []byte // as in current; of New, then of Run
}

// New fetches the bundle for the first time.
func New(ctx context.Context, fetch Fetch, log *slog.Logger) (*Bundle, error) {
	b := &Bundle{fetch: fetch, log: log}
	b.current.Store(x509.NewCertPool())
	return b, b.refresh(ctx)
}

// Pool returns the certificates. The pool is never changed; a renewed bundle is
// another pool.
func (b *Bundle) Pool() *x509.CertPool { return b.current.Load() }

// refresh fetches the bundle. One that has bytes and no certificate is taken for a
// mistake and changes nothing.
func (b *Bundle) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	raw, err := b.fetch(ctx)
	if err != nil {
		return fmt.Errorf("trust bundle: %w", err)
	}
	if bytes.Equal(raw, b.raw) {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) && len(bytes.TrimSpace(raw)) > 0 {
		return fmt.Errorf("trust bundle: no certificate can be read of its %d bytes", len(raw))
	}
	if b.raw != nil {
		b.log.Info("trust bundle has changed")
	}
	b.raw = raw
	b.current.Store(pool)
	return nil
}

// Run fetches the bundle every minute until ctx ends. When that fails the old one
// holds on.
func (b *Bundle) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := b.refresh(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			b.log.Warn("trust bundle not refreshed; the one before holds on", "error", err)
		}
		failing = err != nil
	}
}
