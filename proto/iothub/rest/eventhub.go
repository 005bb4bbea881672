package rest

import (
	"context"
	"net/http"
)

// EventHub says where clients of event hubs find the events of the local hub.
type EventHub struct {
	Name           string   `json:"name"` // the entity
	Host           string   `json:"host"`
	Port           int      `json:"port"` // AMQP over TLS
	Partitions     int      `json:"partitions"`
	ConsumerGroups []string `json:"consumerGroups"`
}

// EventHub asks the local hub for its event-hub-compatible endpoint; a real hub has no
// such path and refuses.
func (c *Client) EventHub(ctx context.Context) (EventHub, error) {
	var out EventHub
	err := c.do(ctx, request{method: http.MethodGet, path: "/admin/eventhub"}, &out)
	return out, err
}
