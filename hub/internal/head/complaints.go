package head

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// maxComplaints is how many lines a connection may put into the log about what its
// clients do wrong; they can do it faster than anybody reads.
const maxComplaints = 100

// Complaints logs what the clients of one connection do wrong. The zero value is
// usable; Log may be called concurrently.
type Complaints struct{ n atomic.Int64 }

// Log logs one thing that a client does wrong: after the first hundred for debugging
// only.
func (c *Complaints) Log(ctx context.Context, log *slog.Logger, text string, args ...any) {
	level := slog.LevelInfo
	switch n := c.n.Add(1); {
	case n == maxComplaints:
		args = append(args, "note", "the last of this connection that is logged")
	case n > maxComplaints:
		level = slog.LevelDebug
	}
	log.Log(ctx, level, text, args...)
}

// Clip is the beginning of what a client says, for the log.
func Clip(s string) string { return s[:min(len(s), 300)] }
