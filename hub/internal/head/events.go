package head

import (
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// EventHub is the event-hub-compatible endpoint of a hub that has one: the messages
// of all devices, in partitions, for any number of readers (spec iothub-service 12).
// Methods may be called concurrently; those that return an error may read the disk.
type EventHub interface {
	EventHub() EventHubInfo
	// Partition describes a partition, which must be one of those that there are.
	Partition(n int) (PartitionInfo, error)
	// ReadEvents begins to read a partition. Errors: ErrInvalid for a start that lies
	// beyond the end, and ErrUnavailable.
	ReadEvents(partition int, start EventStart) (EventCursor, error)
}

// EventHubInfo says what does not change while the hub runs.
type EventHubInfo struct {
	Name string // the entity
	Host string // under which clients find it
	// Port is where they find it, over TLS.
	Port       uint16
	Created    time.Time
	Partitions int
	Groups     []string // consumer groups; $Default is one of them
}

// PartitionInfo describes a partition.
type PartitionInfo struct {
	Begin        int64 // sequence number of the oldest event
	Last         int64 // of the newest; -1 when there never was one
	LastOffset   int64 // -1 likewise, and when it is gone
	LastEnqueued time.Time
	Empty        bool
}

// EventProperty is what an EventStart compares.
type EventProperty uint8

// What an EventStart compares.
const (
	EventOffset EventProperty = iota
	EventSequence
	EventTime // milliseconds since 1970
)

// EventStart is where reading begins: behind a value, or at it. -1 is before
// everything.
type EventStart struct {
	Latest    bool // behind what there is now; the rest says nothing then
	By        EventProperty
	Value     int64
	Inclusive bool
}

// EventCursor is a place in a partition. Only one goroutine may use it.
type EventCursor interface {
	// Read returns the next events, none if there are none yet: at most limit, and no
	// more once they have so many bytes.
	Read(limit, bytes int) ([]Event, error)
	// More is closed when Read may find more.
	More() <-chan struct{}
}

// Event is a message as readers see it. Message must not be changed.
type Event struct {
	Sequence   int64
	Offset     int64
	Enqueued   time.Time
	Source     string // iothub-message-source
	Sender     iothub.Identity
	Generation string
	AuthMethod string
	ModelID    string
	Message    *iothub.Message
}
