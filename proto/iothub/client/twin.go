package client

import (
	"context"
	"encoding/json"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Twin reads the twin. With Options.Retry it waits for a connection and asks
// again after a lost one until ctx ends. Errors wrap ErrNotConnected,
// ErrConnectionLost, ErrTimeout or a *StatusError.
func (c *Client) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	var twin iothub.TwinProperties
	err := c.request(ctx, func(l link) (err error) {
		twin, err = l.twin(ctx)
		return err
	})
	return twin, err
}

// PatchReported merges a patch into the reported properties and returns their new
// version; 0 if the hub did not tell it, as an edge hub does not. Concurrent
// calls go one after the other. Retries and errors are those of Twin.
func (c *Client) PatchReported(ctx context.Context, patch json.RawMessage) (version int64, err error) {
	if len(patch) > iothub.MaxMessageSize {
		return 0, ErrTooLarge
	}
	// A patch that is sent again must not overtake a later one.
	select {
	case c.patching <- struct{}{}:
		defer func() { <-c.patching }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	err = c.request(ctx, func(l link) (err error) {
		version, err = l.patchReported(ctx, patch)
		return err
	})
	return version, err
}

// request runs a twin request on a link, with its subscription in place.
func (c *Client) request(ctx context.Context, do func(link) error) error {
	c.mu.Lock()
	c.wanted |= featTwin // for later connections; this one is asked below
	c.mu.Unlock()
	for {
		l, err := c.acquire(ctx, c.o.Retry)
		if err != nil {
			return err
		}
		if err = l.enable(ctx, featTwin); err == nil {
			err = do(l)
		}
		if err == nil || !c.again(err) {
			return err
		}
	}
}
