package mqtt

import (
	"context"
	"sync"
)

// inbox is the window of publishes that a client has sent and that are not
// settled yet. It acknowledges in order of reception, whatever the order in which
// they settle.
//
// Only the connection's reader calls begin; settle may be called by anyone. Lock
// order: inbox.mu before outbox.mu.
type inbox struct {
	maxCount, maxBytes int
	out                *outbox
	room               chan struct{} // holds a token when room was made

	mu    sync.Mutex
	slots []slot // ring; len is a power of two
	first uint64 // sequence number of the oldest unsettled publish
	next  uint64 // sequence number of the next one
	bytes int
}

type slot struct {
	packetID uint16 // 0 for QoS 0
	settled  bool
	size     int
}

func newInbox(maxCount, maxBytes int, out *outbox) *inbox {
	return &inbox{maxCount: maxCount, maxBytes: maxBytes, out: out, room: make(chan struct{}, 1)}
}

// begin takes a place in the window for a publish, waiting for room. The
// sequence number is for settle. A single publish always fits. It fails only with
// the context's error.
func (in *inbox) begin(ctx context.Context, packetID uint16, size int) (uint64, error) {
	for {
		if seq, ok := in.tryBegin(packetID, size); ok {
			return seq, nil
		}
		select {
		case <-in.room:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (in *inbox) tryBegin(packetID uint16, size int) (uint64, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	count := int(in.next - in.first)
	if count >= in.maxCount || (count > 0 && in.bytes+size > in.maxBytes) {
		return 0, false
	}
	if count == len(in.slots) {
		in.grow()
	}
	seq := in.next
	in.slots[seq&uint64(len(in.slots)-1)] = slot{packetID: packetID, size: size}
	in.next++
	in.bytes += size
	return seq, true
}

// alone tells whether a publish is the only one that is not settled.
func (in *inbox) alone(seq uint64) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.first == seq && in.next == seq+1
}

// grow doubles the ring; entries keep their sequence numbers.
func (in *inbox) grow() {
	slots := make([]slot, max(8, 2*len(in.slots)))
	for seq := in.first; seq != in.next; seq++ {
		slots[seq&uint64(len(slots)-1)] = in.slots[seq&uint64(len(in.slots)-1)]
	}
	in.slots = slots
}

// settle marks a publish as accepted and acknowledges it and those after it that
// only waited for it. Settling again does nothing.
func (in *inbox) settle(seq uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if seq < in.first {
		return
	}
	mask := uint64(len(in.slots) - 1)
	in.slots[seq&mask].settled = true
	if seq != in.first {
		return
	}
	for in.first != in.next && in.slots[in.first&mask].settled {
		s := &in.slots[in.first&mask]
		if s.packetID != 0 {
			in.out.puback(s.packetID)
		}
		in.bytes -= s.size
		in.first++
	}
	select {
	case in.room <- struct{}{}:
	default:
	}
}
