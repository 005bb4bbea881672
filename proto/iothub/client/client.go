package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Client is a device or module. Run must be running for anything to happen. All
// methods may be called from many goroutines.
type Client struct {
	o         Options
	transport transport
	inbox     inbox
	closers   []io.Closer   // closed when Run ends
	patching  chan struct{} // held by the one PatchReported under way
	wake      chan struct{} // tells Run that wanted has grown

	// mu guards what follows; changed is closed and replaced whenever any of it
	// changes. Nothing blocks and no user code runs under mu.
	mu       sync.Mutex
	changed  chan struct{}
	link     link // nil while there is none to use
	renewing bool // a new link comes at once
	running  bool
	closed   bool
	wanted   features
	paused   bool // handlers of messages rest
	busy     bool // a handler of messages runs
	handlers handlers
}

// handlers are the user's functions; nil while not set.
type handlers struct {
	input   func(ctx context.Context, input string, m *iothub.Message) error
	c2d     func(ctx context.Context, m *iothub.Message) error
	desired func(ctx context.Context, patch json.RawMessage, version int64)
	method  func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse
}

// New makes a client. Errors wrap ErrOptions.
func New(options Options) (*Client, error) {
	o, err := options.complete()
	if err != nil {
		return nil, err
	}
	c := &Client{
		o:        o,
		changed:  make(chan struct{}),
		patching: make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
	}
	c.inbox = inbox{
		messages: make(chan delivery, o.Queue),
		patches:  make(chan desiredPatch, maxPatches),
		calls:    make(chan methodCall, 2*maxMethods),
		open:     make(chan struct{}, 2*maxMethods),
	}
	switch {
	case o.Shared != nil:
		c.transport = &amqpTransport{o: &c.o, shared: o.Shared}
	case o.Protocol.isAMQP():
		c.transport = &amqpTransport{o: &c.o}
	default:
		c.transport = &mqttTransport{o: &c.o}
	}
	return c, nil
}

// Identity returns the device or module that the client is.
func (c *Client) Identity() iothub.Identity { return c.o.Identity }

// update changes the state under mu and wakes all who wait for a change.
func (c *Client) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.broadcastLocked()
}

func (c *Client) broadcastLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// acquire returns the link to use. Without one it waits if wait is set, the
// client is renewing its token or a link has just ended; else the error wraps
// ErrNotConnected. It also ends with ctx, and with ErrClosed.
func (c *Client) acquire(ctx context.Context, wait bool) (link, error) {
	for {
		c.mu.Lock()
		l, renewing, closed, changed := c.link, c.renewing, c.closed, c.changed
		c.mu.Unlock()
		if closed {
			return nil, ErrClosed
		}
		if l != nil {
			select {
			case <-l.ended(): // Run is about to take it away
			default:
				// Whoever ends ctx when the last link has lost something can so
				// be sure that nothing goes out on the next.
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				return l, nil
			}
		} else if !wait && !renewing {
			return nil, ErrNotConnected
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// WaitConnected waits until the client is connected. The error is that of ctx or
// ErrClosed.
func (c *Client) WaitConnected(ctx context.Context) error {
	_, err := c.acquire(ctx, true)
	return err
}

// again tells whether a request that failed with err should be tried again.
func (c *Client) again(err error) bool {
	switch {
	case errors.Is(err, errNotTaken), errors.Is(err, errGoodbye):
		return true // acquire knows whether a link is to come
	default:
		return c.o.Retry && errors.Is(err, ErrConnectionLost)
	}
}
