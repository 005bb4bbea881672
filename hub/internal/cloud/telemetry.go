package cloud

import (
	"context"
	"fmt"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Ingest takes messages of a device or module that has no session (HTTP), in their
// order; nil means that all are on disk. After an error some may be. Errors:
// *registry.Error, head.ErrTooLarge, and others that may pass.
func (h *Hub) Ingest(ctx context.Context, id iothub.Identity, grant access.Grant, list []*iothub.Message) error {
	generation, err := h.generation(id)
	if err != nil {
		return err
	}
	size := 0
	for _, m := range list {
		if size += m.Size(); size > iothub.MaxMessageSize {
			return fmt.Errorf("%w: %d messages of more than %d bytes", head.ErrTooLarge, len(list), iothub.MaxMessageSize)
		}
	}
	h.presence.touch(id)
	var stored sync.WaitGroup
	result := make(chan error, len(list))
	for _, m := range list {
		e := events.Event{Sender: id, Generation: generation, AuthMethod: grant.Method, Message: m}
		stored.Add(1)
		h.events.Append(ctx, e, func(err error) {
			result <- err
			stored.Done()
		})
	}
	stored.Wait() // done is called for each, soon
	close(result)
	for err := range result {
		if err != nil {
			return err
		}
	}
	return nil
}
