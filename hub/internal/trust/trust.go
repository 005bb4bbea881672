// Package trust holds the certificates of the device's trust bundle, as the security
// daemon has it now: when the edge CA is renewed, those that the new one has signed
// are let in without a restart, and sessions go on. New connections to the cloud trust
// it as well.
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
	current atomic.Pointer[pools]
	raw     []byte // as in current; of New, then of Run
}

// pools are the certificates of one bundle.
type pools struct {
	bundle *x509.CertPool
	roots  *x509.CertPool // those of the system too
}

func newPools(raw []byte) (p *pools, ok bool) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a system without roots
	}
	p = &pools{bundle: x509.NewCertPool(), roots: roots}
	p.roots.AppendCertsFromPEM(raw)
	return p, p.bundle.AppendCertsFromPEM(raw)
}

// New fetches the bundle for the first time.
func New(ctx context.Context, fetch Fetch, log *slog.Logger) (*Bundle, error) {
	b := &Bundle{fetch: fetch, log: log}
	none, _ := newPools(nil)
	b.current.Store(none)
	return b, b.refresh(ctx)
}

// Pool returns the certificates. The pool is never changed; a renewed bundle is
// another pool.
func (b *Bundle) Pool() *x509.CertPool { return b.current.Load().bundle }

// Roots returns the certificates and those of the system. As for Pool, the pool is
// never changed.
func (b *Bundle) Roots() *x509.CertPool { return b.current.Load().roots }

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
	pools, ok := newPools(raw)
	if !ok && len(bytes.TrimSpace(raw)) > 0 {
		return fmt.Errorf("trust bundle: no certificate can be read of its %d bytes", len(raw))
	}
	if b.raw != nil {
		b.log.Info("trust bundle has changed")
	}
	b.raw = raw
	b.current.Store(pools)
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
