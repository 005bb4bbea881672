package cloud

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// DefaultGroup is the consumer group that every hub has.
const DefaultGroup = "$Default"

const eventPort = 5671

// EventHubName is the name of the event-hub-compatible endpoint of a hub, unless it
// was given another one.
func EventHubName(host string) string {
	name := host
	if net.ParseIP(host) == nil {
		name, _, _ = strings.Cut(host, ".")
	}
	clean := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' || r == '_' {
			return '-'
		}
		return r
	}, name)
	return "iothub-ehub-" + strings.ToLower(clean) + "-1-0"
}

var _ head.EventHub = (*Hub)(nil)

// EventHub implements head.EventHub.
func (h *Hub) EventHub() head.EventHubInfo { return h.eventHub }

// describeEventHub fills h.eventHub. That the endpoint was created is remembered
// from its first start.
func (h *Hub) describeEventHub() error {
	i := h.o.EventHub
	if i.Name == "" {
		i.Name = EventHubName(h.o.Hosts[0])
	}
	if i.Host == "" {
		i.Host = h.o.Hosts[0]
	}
	if i.Port == 0 {
		i.Port = eventPort
	}
	i.Partitions = h.events.Partitions()
	i.Groups = []string{DefaultGroup}
	for _, g := range h.o.EventHub.Groups {
		if !slices.ContainsFunc(i.Groups, func(known string) bool { return strings.EqualFold(known, g) }) {
			i.Groups = append(i.Groups, g)
		}
	}
	bucket := h.store.Bucket("cloud.eventhub")
	raw, err := bucket.Get("created")
	switch {
	case err == nil:
		if i.Created, err = time.Parse(time.RFC3339, string(raw)); err != nil {
			return fmt.Errorf("event endpoint: %w", err)
		}
	case errors.Is(err, store.ErrNotFound):
		i.Created = h.o.Now().UTC().Truncate(time.Second)
		if err := bucket.Put(context.Background(), "created", []byte(i.Created.Format(time.RFC3339))); err != nil {
			return fmt.Errorf("event endpoint: %w", err)
		}
	default:
		return fmt.Errorf("event endpoint: %w", err)
	}
	h.eventHub = i
	return nil
}

// Partition implements head.EventHub.
func (h *Hub) Partition(n int) (head.PartitionInfo, error) {
	i, err := h.events.Info(n)
	return head.PartitionInfo{Begin: i.Begin, Last: i.Last, LastOffset: i.LastOffset, LastEnqueued: i.LastEnqueued, Empty: i.Empty}, err
}

// ReadEvents implements head.EventHub.
func (h *Hub) ReadEvents(partition int, start head.EventStart) (head.EventCursor, error) {
	c := &eventCursor{log: h.events, partition: partition}
	if start.Latest {
		c.next = h.events.Next()
		return c, nil
	}
	c.start = events.Start{By: [...]events.By{events.ByOffset, events.BySequence, events.ByTime}[start.By], Value: start.Value, Inclusive: start.Inclusive}
	// A place that was never reached is that of another hub, or of an older life of
	// this one.
	sequence, offset := h.events.NextOf(partition)
	end := map[head.EventProperty]int64{head.EventSequence: sequence, head.EventOffset: offset}
	if end, bounded := end[start.By]; bounded && start.Value >= 0 && (start.Value > end || start.Value == end && !start.Inclusive) {
		return nil, fmt.Errorf("%w: the partition ends at sequence number %d, offset %d", head.ErrInvalid, sequence-1, offset)
	}
	var err error
	if c.next, err = h.events.Seek(partition, c.start); err != nil {
		return nil, fmt.Errorf("%w: %w", head.ErrUnavailable, err)
	}
	c.early = start.By == head.EventTime
	return c, nil
}

// eventCursor implements head.EventCursor.
type eventCursor struct {
	log       *events.Log
	partition int
	next      uint64
	start     events.Start
	early     bool // nothing of the time of start has come yet
}

// Read implements head.EventCursor.
func (c *eventCursor) Read(limit, bytes int) ([]head.Event, error) {
	list, next, err := c.log.ReadPartition(c.partition, c.next, limit, bytes)
	if err != nil {
		return nil, err
	}
	c.next = next
	out := make([]head.Event, 0, len(list))
	for i := range list {
		e := &list[i]
		if c.early = c.early && !c.start.Begins(e); c.early {
			continue
		}
		out = append(out, head.Event{Sequence: e.Sequence, Offset: e.Offset, Enqueued: e.Enqueued, Source: "Telemetry", Sender: e.Sender,
			Generation: e.Generation, AuthMethod: e.AuthMethod, ModelID: e.ModelID, Message: e.Message})
	}
	return out, nil
}

// More implements head.EventCursor.
func (c *eventCursor) More() <-chan struct{} { return c.log.More(c.next) }
