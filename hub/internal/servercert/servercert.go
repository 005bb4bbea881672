// Package servercert keeps the hub's server certificate fresh: it is issued by the
// security daemon and replaced, without a restart, before it ends. The original
// exits instead and lets itself be started again; clients see no difference but the
// missing pause.
package servercert

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Issuer issues a certificate with a fresh key, valid until expiry.
type Issuer func(ctx context.Context) (cert tls.Certificate, expiry time.Time, err error)

// retryAfter is the pause after a failure to renew.
const retryAfter = time.Minute

// Holder holds the current certificate. It may be used concurrently.
type Holder struct {
	issue   Issuer
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
	issued  time.Time
	expiry  time.Time
}

// New gets the first certificate.
func New(ctx context.Context, issue Issuer, log *slog.Logger) (*Holder, error) {
	h := &Holder{issue: issue, log: log}
	if err := h.renew(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Holder) renew(ctx context.Context) error {
	cert, expiry, err := h.issue(ctx)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	now := time.Now()
	if !expiry.After(now) {
		return fmt.Errorf("server certificate: it has ended at %s already", expiry.UTC().Format(time.RFC3339))
	}
	h.current.Store(&cert)
	h.issued, h.expiry = now, expiry
	return nil
}

// GetCertificate is for tls.Config.
func (h *Holder) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return h.current.Load(), nil
}

// Run renews the certificate after four fifths of its life, until ctx ends.
func (h *Holder) Run(ctx context.Context) error {
	for {
		wait := h.expiry.Sub(h.issued) * 4 / 5
		timer := time.NewTimer(time.Until(h.issued.Add(wait)))
		for renewed := false; !renewed; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
			if err := h.renew(ctx); err != nil {
				h.log.Error("server certificate not renewed", "error", err, "ends", h.expiry)
				timer.Reset(retryAfter)
				continue
			}
			h.log.Info("server certificate renewed", "ends", h.expiry)
			renewed = true
		}
	}
}
