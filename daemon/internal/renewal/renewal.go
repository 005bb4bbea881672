// Package renewal says when a certificate is to be replaced, and has that done in
// time (spec security-daemon 8.2).
package renewal

import (
	"context"
	"log/slog"
	"time"
)

// Period is a share of a certificate's life, or a time. As a threshold the share
// counts from the certificate's begin, and the time back from its end.
type Period struct {
	Share float64 // 0 to 1; 0 means that Time counts
	Time  time.Duration
}

// Of returns the length of the period in a life.
func (p Period) Of(life time.Duration) time.Duration {
	if p.Share > 0 {
		return time.Duration(p.Share * float64(life))
	}
	return p.Time
}

// Policy says when and how a certificate is renewed.
type Policy struct {
	// RotateKey has every certificate come with a new key.
	RotateKey bool
	// Threshold is when it is due, Retry the pause after a failure.
	Threshold, Retry Period
}

// Default is the original's policy: a new key, at 80 % of the life, again after
// 4 %.
func Default() Policy {
	return Policy{RotateKey: true, Threshold: Period{Share: 0.80}, Retry: Period{Share: 0.04}}
}

// Due returns when a certificate with these ends is to be renewed.
func (p Policy) Due(notBefore, notAfter time.Time) time.Time {
	if p.Threshold.Share > 0 {
		return notBefore.Add(p.Threshold.Of(notAfter.Sub(notBefore)))
	}
	return notAfter.Add(-p.Threshold.Time)
}

// RetryAfter returns the pause after a failed renewal of such a certificate, at
// least a second.
func (p Policy) RetryAfter(notBefore, notAfter time.Time) time.Duration {
	return max(time.Second, p.Retry.Of(notAfter.Sub(notBefore)))
}

// Certificate is one that can be renewed.
type Certificate interface {
	// RenewAt is when the current one is due.
	RenewAt() time.Time
	// RetryAfter is the pause after a failure.
	RetryAfter() time.Duration
	// Renew replaces it; on an error the current one stays in use.
	Renew(ctx context.Context) error
}

// longestWait bounds a timer, so that a changed clock is noticed: devices without a
// battery start in the past.
const longestWait = time.Hour

// Run renews c whenever it is due, and calls renewed after each success, until ctx
// ends. Its error is always nil.
func Run(ctx context.Context, c Certificate, log *slog.Logger, renewed func(context.Context)) error {
	due := c.RenewAt()
	for ctx.Err() == nil {
		timer := time.NewTimer(min(max(time.Until(due), 0), longestWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			continue
		case <-timer.C:
		}
		if time.Until(due) > 0 {
			continue
		}
		// Who needed it may have renewed it meanwhile.
		if at := c.RenewAt(); at.After(due) {
			due = at
			continue
		}
		switch err := c.Renew(ctx); {
		case err == nil:
			// Where certificates live shorter than the threshold, the new one is due at
			// once: that is no reason to ask for one without a pause.
			due = later(c.RenewAt(), c.RetryAfter())
			renewed(ctx)
		case ctx.Err() == nil:
			retry := c.RetryAfter()
			due = later(due, retry)
			log.ErrorContext(ctx, "certificate not renewed", "error", err, "retry", retry)
		}
	}
	return nil
}

// later returns due, but not before pause has passed.
func later(due time.Time, pause time.Duration) time.Time {
	// Round takes the monotonic part off, which does not see a changed clock.
	if first := time.Now().Round(0).Add(pause); due.Before(first) {
		return first
	}
	return due
}
