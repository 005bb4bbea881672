// Package cloud adapts the IoT Hub client to what the agent needs of it.
package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// Cloud is a connection to the hub, or to the parent's edge hub.
type Cloud struct {
	client       *client.Client
	onConnection atomic.Pointer[func(up bool)]
	onRefused    atomic.Pointer[func()]
}

var _ agent.Cloud = (*Cloud)(nil)

// defaultProtocol is spoken unless UpstreamProtocol says otherwise; then also in
// WebSockets where its port is not let through.
const defaultProtocol = client.AMQP

// Connect returns the function that makes a Cloud from the environment: over the
// protocol of UpstreamProtocol (edgeagent.md 8), through the proxy of https_proxy.
func Connect(getenv func(string) string) agent.Connect {
	return func(ctx context.Context, product string, log *slog.Logger) (agent.Cloud, error) {
		chosen := getenv("UpstreamProtocol")
		protocol, err := client.ParseProtocol(cmp.Or(chosen, defaultProtocol.String()))
		if err != nil {
			return nil, fmt.Errorf("UpstreamProtocol: %w", err)
		}
		network, err := proxy.FromEnvironment(getenv)
		if err != nil {
			return nil, err
		}
		c := &Cloud{}
		c.client, err = client.FromEnvironment(ctx, getenv, client.Options{
			Protocol: protocol, Fallback: chosen == "", Dial: network.DialContext,
			ProductInfo: product, Logger: log, OnConnection: c.connection,
		})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

func (c *Cloud) connection(s client.Connection) {
	if f := c.onRefused.Load(); f != nil && errors.Is(s.Err, client.ErrUnauthorized) {
		(*f)()
	}
	f := c.onConnection.Load()
	// A renewal is no loss: calls made meanwhile wait, and Connected follows.
	if f == nil || s.State == client.Connecting || s.State == client.Renewing {
		return
	}
	(*f)(s.State == client.Connected)
}

// Run stays connected until ctx ends.
func (c *Cloud) Run(ctx context.Context) error { return c.client.Run(ctx) }

// Twin reads the twin.
func (c *Cloud) Twin(ctx context.Context) (iothub.TwinProperties, error) { return c.client.Twin(ctx) }

// PatchReported merges a patch into the reported section.
func (c *Cloud) PatchReported(ctx context.Context, patch json.RawMessage) error {
	_, err := c.client.PatchReported(ctx, patch)
	return err
}

// OnConnection sets the function that is told of gained and lost connections. Set
// it before Run.
func (c *Cloud) OnConnection(f func(up bool)) { c.onConnection.Store(&f) }

// OnRefused sets the function that is told when the hub does not accept the agent's
// credentials. Set it before Run; it must not wait.
func (c *Cloud) OnRefused(f func()) { c.onRefused.Store(&f) }

// OnDesired sets the function that takes changes of the desired section.
func (c *Cloud) OnDesired(f func(patch json.RawMessage)) {
	c.client.OnDesired(func(_ context.Context, patch json.RawMessage, _ int64) { f(patch) })
}

// OnMethod sets the function that answers direct methods.
func (c *Cloud) OnMethod(f func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse) {
	c.client.OnMethod(f)
}
