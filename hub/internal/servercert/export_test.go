package servercert

import (
	"context"
	"log/slog"
	"time"
)

// NewAt is New with a clock.
func NewAt(ctx context.Context, issue Issuer, log *slog.Logger, now func() time.Time) (*Holder, error) {
	h := &Holder{issue: issue, log: log, now: now}
	return h, h.renew(ctx)
}
