package edge

import (
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Limits bound the queues and say how a backlog drains. The zero value is no limit but
// the disk, and all in order.
type Limits struct {
	MaxBytes int64 // of all queues on disk; 0: no limit
	WhenFull queue.Policy
	MaxAge   time.Duration // that a message may wait, whatever its route says; 0: no limit
	// LiveFirst lets new messages pass a backlog; see queue.Options.
	LiveFirst bool
}

func (h *Hub) queueOptions() queue.Options {
	return queue.Options{
		Logger: h.o.Logger, Expired: h.expired, Evicted: h.evicted,
		MaxBytes: h.o.Limits.MaxBytes, WhenFull: h.o.Limits.WhenFull, LiveFirst: h.o.Limits.LiveFirst,
		UnsafeNoSync: h.o.UnsafeNoSync,
	}
}

// evicted counts a message that was dropped to make room.
func (h *Hub) evicted(m *iothub.Message, _ string) {
	h.metrics.Dropped("queue_full", m.Sender().String(), m.System.Get(iothub.OutputName))
}

// limit is a time to live within Limits.MaxAge; negative: never expires.
func (l Limits) limit(ttl time.Duration) time.Duration {
	if l.MaxAge > 0 && (ttl < 0 || ttl > l.MaxAge) {
		return l.MaxAge
	}
	return ttl
}
