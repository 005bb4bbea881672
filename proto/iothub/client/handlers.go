package client

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// OnInput sets the handler of messages to the inputs of a module and subscribes
// to them. A message is acknowledged when the handler returned nil. After an error
// it is not; the hub delivers it again, at the latest after the next connect.
//
// Messages are handled one at a time, inputs and cloud-to-device messages
// together, in the order of arrival. The context of a handler ends when Run ends.
// The connection may change while a handler runs; then its message comes again.
func (c *Client) OnInput(handler func(ctx context.Context, input string, m *iothub.Message) error) {
	c.subscribe(featInputs, func(h *handlers) { h.input = handler })
}

// OnC2D sets the handler of cloud-to-device messages, which works as that of
// OnInput, and subscribes to them.
func (c *Client) OnC2D(handler func(ctx context.Context, m *iothub.Message) error) {
	c.subscribe(featC2D, func(h *handlers) { h.c2d = handler })
}

// OnDesired sets the handler of changes of desired properties and subscribes to
// them. patch holds "$version" too. Changes are handled one at a time, in order.
// A version that skips numbers tells that changes were missed and the twin must
// be read anew; changes made while the client is not connected are always missed.
func (c *Client) OnDesired(handler func(ctx context.Context, patch json.RawMessage, version int64)) {
	c.subscribe(featDesired, func(h *handlers) { h.desired = handler })
}

// OnMethod sets the handler of direct methods and subscribes to them. Up to 16
// methods run at a time and as many wait; further calls are answered with 429.
func (c *Client) OnMethod(handler func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse) {
	c.subscribe(featMethods, func(h *handlers) { h.method = handler })
}

// subscribe sets a handler and has the connection subscribe, now or when there is
// one.
func (c *Client) subscribe(f features, set func(*handlers)) {
	c.mu.Lock()
	set(&c.handlers)
	c.wanted |= f
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // Run has yet to see an earlier one
	}
}

const (
	maxPatches = 256 // desired patches that wait for their handler
	maxMethods = 16  // methods that run at a time
)

type desiredPatch struct {
	patch   json.RawMessage
	version int64
}

type methodCall struct {
	link    link
	id      string
	request iothub.MethodRequest
}

// inbox is the receiver of all links of a client: bounded queues between the
// links' readers and the goroutines that run handlers.
type inbox struct {
	messages chan delivery
	patches  chan desiredPatch
	calls    chan methodCall
	open     chan struct{} // has an element for each call that waits or runs
}

var _ receiver = (*inbox)(nil)

func (b *inbox) message(d delivery) bool {
	select {
	case b.messages <- d:
		return true
	default:
		return false
	}
}

func (b *inbox) messageWait(ctx context.Context, d delivery) bool {
	select {
	case b.messages <- d:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *inbox) desired(patch json.RawMessage, version int64) bool {
	select {
	case b.patches <- desiredPatch{patch, version}:
		return true
	default:
		return false
	}
}

func (b *inbox) method(l link, id string, r iothub.MethodRequest) bool {
	select {
	case b.open <- struct{}{}:
		b.calls <- methodCall{l, id, r} // has room for all that are open
		return true
	default:
		return false
	}
}

// handle runs the handlers until ctx ends, and waits for them.
func (c *Client) handle(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.handleMessages(ctx) })
	wg.Go(func() { c.handlePatches(ctx) })
	wg.Go(func() { c.handleMethods(ctx) })
	wg.Wait()
}

func (c *Client) handleMessages(ctx context.Context) {
	for {
		select {
		case d := <-c.inbox.messages:
			if !c.beginMessage(ctx) {
				return
			}
			d.done(c.handleMessage(ctx, d))
			c.endMessage()
		case <-ctx.Done():
			return
		}
	}
}

// beginMessage waits while handlers are paused.
func (c *Client) beginMessage(ctx context.Context) bool {
	for {
		c.mu.Lock()
		paused, changed := c.paused, c.changed
		if !paused {
			c.busy = true
		}
		c.mu.Unlock()
		if !paused {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// endMessage wakes whoever paused the handlers.
func (c *Client) endMessage() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if c.paused {
		c.broadcastLocked()
	}
}

// handleMessage runs the handler of a message.
func (c *Client) handleMessage(ctx context.Context, d delivery) outcome {
	if !d.current() {
		return kept
	}
	c.mu.Lock()
	h := c.handlers
	c.mu.Unlock()
	var err error
	switch {
	case d.input != "" && h.input != nil:
		err = h.input(ctx, d.input, d.m)
	case d.input == "" && h.c2d != nil:
		err = h.c2d(ctx, d.m)
	default:
		// A stored session delivers before this program has set its handler.
		c.o.Logger.Warn("message without a handler is not acknowledged", "input", d.input)
		return kept
	}
	switch {
	case err == nil:
		return handled
	case errors.Is(err, ErrReject):
		c.o.Logger.Warn("message is refused", "input", d.input, "err", err)
		return refused
	case errors.Is(err, ErrKeep):
		return kept
	}
	c.o.Logger.Warn("message is not acknowledged", "input", d.input, "err", err)
	return returned
}

func (c *Client) handlePatches(ctx context.Context) {
	for {
		select {
		case p := <-c.inbox.patches:
			c.mu.Lock()
			h := c.handlers.desired
			c.mu.Unlock()
			if h != nil {
				h(ctx, p.patch, p.version)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) handleMethods(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxMethods)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case call := <-c.inbox.calls:
			running.Go(func() {
				defer func() { <-slots; <-c.inbox.open }()
				c.handleMethod(ctx, call)
			})
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) handleMethod(ctx context.Context, call methodCall) {
	c.mu.Lock()
	h := c.handlers.method
	c.mu.Unlock()
	response := iothub.MethodResponse{Status: 501}
	if h != nil {
		response = h(ctx, call.request)
	}
	if len(response.Payload) > iothub.MaxMethodPayload {
		c.o.Logger.Warn("response of a method is too large", "method", call.request.Name, "size", len(response.Payload))
		response = iothub.MethodResponse{Status: 500}
	}
	if err := call.link.respond(ctx, call.id, response); err != nil {
		c.o.Logger.Warn("response of a method is lost", "method", call.request.Name, "err", err)
	}
}
