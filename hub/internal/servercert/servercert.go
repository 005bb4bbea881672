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

// retryAfter is the least pause between two attempts to renew.
const retryAfter = time.Minute

// longestWait bounds a timer, so that a changed clock is noticed: devices without a
// battery start in the past, and a certificate of that time has ended when the clock
// is set.
const longestWait = time.Hour

// Holder holds the current certificate. It may be used concurrently.
type Holder struct {
	issue   Issuer
	log     *slog.Logger
	now     func() time.Time // by the wall
	current atomic.Pointer[tls.Certificate]
	issued  time.Time
	expiry  time.Time
}

// New gets the first certificate.
func New(ctx context.Context, issue Issuer, log *slog.Logger) (*Holder, error) {
	h := &Holder{issue: issue, log: log, now: wall}
	if err := h.renew(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// wall is the time without its monotonic part, which does not see a changed clock.
func wall() time.Time { return time.Now().Round(0) }

func (h *Holder) renew(ctx context.Context) error {
	cert, expiry, err := h.issue(ctx)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	now := h.now()
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

// wait returns how long the certificate is still good for: four fifths of its life.
// It is 0 as well when the clock stands before the certificate was issued.
func (h *Holder) wait() time.Duration {
	now := h.now()
	if now.Before(h.issued) {
		return 0
	}
	return max(0, h.issued.Add(h.expiry.Sub(h.issued)*4/5).Sub(now))
}

// Run renews the certificate after four fifths of its life, until ctx ends.
func (h *Holder) Run(ctx context.Context) error {
	for {
		wait := min(h.wait(), longestWait)
		if wait == 0 {
			// Not at once again, however short the new one's life is.
			wait = retryAfter
			if err := h.renew(ctx); err != nil {
				h.log.Error("server certificate not renewed", "error", err, "ends", h.expiry)
			} else {
				h.log.Info("server certificate renewed", "ends", h.expiry)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
