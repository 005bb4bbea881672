package client

import (
	"context"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Send sends a message and waits until the hub has acknowledged it. With
// Options.Retry it waits for a connection and sends again after a lost one until
// ctx ends; without, errors wrap ErrNotConnected or ErrConnectionLost. When ctx
// ends first the message may or may not have been sent. m must not be changed
// afterwards.
func (c *Client) Send(ctx context.Context, m *iothub.Message) error {
	for {
		result := make(chan error, 1)
		err := c.sendAsync(ctx, m, c.o.Retry, func(err error) { result <- err })
		if err != nil {
			return err
		}
		select {
		case err = <-result:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err == nil || !c.again(err) {
			return err
		}
	}
}

// SendOutput is Send to an output of the module, by which an edge hub routes it.
// m itself is not changed.
func (c *Client) SendOutput(ctx context.Context, output string, m *iothub.Message) error {
	m = m.Clone()
	m.System.Set(iothub.OutputName, output)
	return c.Send(ctx, m)
}

// SendAsync hands a message over for sending and returns. While Options.Window
// messages are unacknowledged it waits, until ctx ends. Messages go out in the
// order of the calls.
//
// When SendAsync returns nil, done is called exactly once: with nil when the hub
// has acknowledged the message, or with an error that wraps ErrConnectionLost when
// the connection ended before that. All done calls of a lost connection come in
// the order of sending and before the next connection is made, so whoever sends
// again from there keeps the order. done must not block and must not call
// SendAsync itself. When SendAsync returns an error the message was not sent and
// done is not called; without a connection the error wraps ErrNotConnected.
func (c *Client) SendAsync(ctx context.Context, m *iothub.Message, done func(error)) error {
	return c.sendAsync(ctx, m, false, done)
}

func (c *Client) sendAsync(ctx context.Context, m *iothub.Message, wait bool, done func(error)) error {
	if m.Size() > iothub.MaxMessageSize {
		return ErrTooLarge
	}
	for {
		l, err := c.acquire(ctx, wait)
		if err != nil {
			return err
		}
		if err = l.send(ctx, m, done); err == nil || !c.again(err) {
			return err
		}
	}
}
