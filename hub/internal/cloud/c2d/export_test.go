package c2d

import (
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Sweep does what is due now.
func (q *Queues) Sweep() time.Time { return q.sweep() }

// Drain ends all handing out, as the end of Run does.
func (q *Queues) Drain() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.pumps.Wait()
}

// Window is how many messages of a subscription are unsettled at most.
const Window = window

// DecodeRecord is decodeRecord, encoded again.
func DecodeRecord(raw []byte) ([]byte, error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return nil, err
	}
	return r.encode()
}

// ParseMessageKey is parseMessageKey, and its opposite.
func ParseMessageKey(k string) (id iothub.Identity, again string, err error) {
	id, seq, err := parseMessageKey(k)
	if err != nil {
		return id, "", err
	}
	return id, messageKey(id, seq), nil
}
