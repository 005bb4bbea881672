package events

import (
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Event is one message in the log. Message must not be changed.
type Event struct {
	Position  uint64 // in the whole log, from 0
	Partition int
	Sequence  int64 // in the partition, from 0
	Offset    int64 // in the partition, bytes
	Enqueued  time.Time

	Sender     iothub.Identity
	Generation string // of the sender's identity
	AuthMethod string // JSON text
	ModelID    string
	Message    *iothub.Message
}
