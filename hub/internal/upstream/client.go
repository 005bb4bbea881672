package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// ClientOptions say how the hub's identities connect.
type ClientOptions struct {
	// Base is the part of the options that all share: hub name, host, roots,
	// signer of the hub's own key, logger.
	Base client.Options
	// Self is the hub's own identity; it speaks for the others.
	Self iothub.Identity
	// Chain returns the auth chain of an identity below this gateway, or false.
	Chain func(id iothub.Identity) (string, bool)
	// Product returns what an identity calls itself.
	Product func(id iothub.Identity) string
}

// ByClient returns a Dialer on the project's own client: the hub's identity logs in
// as itself, every other with the hub's credentials and its auth chain.
func ByClient(o ClientOptions) Dialer {
	return func(id iothub.Identity, cb Callbacks) (Conn, error) {
		options := o.Base
		options.Identity = id
		options.ProductInfo = o.Product(id)
		options.Window = pending
		if id != o.Self {
			chain, ok := o.Chain(id)
			if !ok {
				return nil, fmt.Errorf("%w: %s", ErrNoIdentity, id)
			}
			options.SASIdentity, options.AuthChain = o.Self, chain
		}
		c := &clientConn{cb: cb, queue: make(chan outgoing, pending)}
		options.OnConnection = c.connection
		var err error
		if c.client, err = client.New(options); err != nil {
			return nil, fmt.Errorf("cloud client: %w", err)
		}
		return c, nil
	}
}

const (
	// pending is how many messages of one identity may wait for its connection.
	pending = 1024
	// connectWait is how long messages wait for a connection that is being made.
	connectWait = 20 * time.Second
)

// clientConn puts a queue before a client, so that SendAsync never blocks and the
// first message can wait for the connection.
//
// Order after a failure: a message that fails is sent again by the caller, so what
// was queued behind it must fail too instead of overtaking it. Each failure begins
// a new generation; what belongs to an earlier one is not sent any more.
type clientConn struct {
	client *client.Client
	cb     Callbacks
	queue  chan outgoing

	mu         sync.Mutex
	generation int
	ended      bool
	wants      Wants
}

type outgoing struct {
	m          *iothub.Message
	done       func(error)
	generation int
}

var _ Conn = (*clientConn)(nil)

func (c *clientConn) connection(s client.Connection) {
	switch s.State {
	case client.Connected:
		c.cb.State(true, nil)
	case client.Disconnected:
		c.fail()
		err := s.Err
		if errors.Is(err, client.ErrUnauthorized) {
			err = fmt.Errorf("%w: %w", ErrNoIdentity, err)
		}
		c.cb.State(false, err)
	}
}

// fail begins a new generation.
func (c *clientConn) fail() {
	c.mu.Lock()
	c.generation++
	c.mu.Unlock()
}

// Run keeps the connection and sends what is queued.
func (c *clientConn) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		c.send(ctx)
	}()
	err := c.client.Run(ctx)
	cancel()
	<-sender
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	for { // nobody adds any more
		select {
		case o := <-c.queue:
			o.done(ErrDown)
		default:
			return err
		}
	}
}

func (c *clientConn) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-c.queue:
			c.sendOne(ctx, o)
		}
	}
}

func (c *clientConn) sendOne(ctx context.Context, o outgoing) {
	if !c.current(o.generation) {
		o.done(ErrDown)
		return
	}
	wait, cancel := context.WithTimeout(ctx, connectWait)
	err := c.client.WaitConnected(wait)
	cancel()
	if err == nil && !c.current(o.generation) {
		err = ErrDown
	}
	if err == nil {
		err = c.client.SendAsync(ctx, o.m, func(err error) {
			if err != nil {
				c.fail()
				err = fmt.Errorf("%w: %w", ErrDown, err)
			}
			o.done(err)
		})
	}
	switch {
	case err == nil:
	case errors.Is(err, client.ErrTooLarge):
		o.done(fmt.Errorf("%w: %w", ErrMessage, err))
	default:
		c.fail()
		o.done(fmt.Errorf("%w: %w", ErrDown, err))
	}
}

func (c *clientConn) current(generation int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return generation == c.generation
}

// SendAsync queues the message.
func (c *clientConn) SendAsync(m *iothub.Message, done func(error)) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		done(ErrDown)
		return
	}
	select {
	case c.queue <- outgoing{m: m, done: done, generation: c.generation}:
		c.mu.Unlock()
	default:
		c.generation++ // what comes later must not overtake this one
		c.mu.Unlock()
		done(fmt.Errorf("%w: %d messages wait already", ErrDown, pending))
	}
}

// Twin fetches the twin.
func (c *clientConn) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	if err := c.client.WaitConnected(ctx); err != nil {
		return iothub.TwinProperties{}, fmt.Errorf("%w: %w", ErrDown, err)
	}
	return c.client.Twin(ctx)
}

// PatchReported sends a patch.
func (c *clientConn) PatchReported(ctx context.Context, patch json.RawMessage) error {
	if err := c.client.WaitConnected(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrDown, err)
	}
	_, err := c.client.PatchReported(ctx, patch)
	return err
}

// Subscribe adds what is newly wanted. The client cannot take a subscription back;
// the pool closes the connection for that.
func (c *clientConn) Subscribe(w Wants) {
	c.mu.Lock()
	had := c.wants
	c.wants = Wants{Desired: had.Desired || w.Desired, Methods: had.Methods || w.Methods, C2D: had.C2D || w.C2D}
	c.mu.Unlock()
	if w.Desired && !had.Desired {
		c.client.OnDesired(c.cb.Desired)
	}
	if w.Methods && !had.Methods {
		c.client.OnMethod(c.cb.Method)
	}
	if w.C2D && !had.C2D {
		c.client.OnC2D(c.cb.C2D)
	}
}
