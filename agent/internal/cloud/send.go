package cloud

import (
	"context"

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

var _ agent.Sender = (*Cloud)(nil)

// Send sends telemetry of the agent.
func (c *Cloud) Send(ctx context.Context, m *iothub.Message) error { return c.client.Send(ctx, m) }
