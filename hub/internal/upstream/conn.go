package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

const (
	// pending is how many messages of one identity may wait for its connection,
	// and how many for the cloud's acknowledgement.
	pending = 1024
	// toDevice is how many cloud-to-device messages of one identity may wait for the
	// device. The cloud keeps 50 at most.
	toDevice = 64
	// connectWait is how long messages wait for a connection that is being made.
	connectWait = 20 * time.Second
)

// clientConn puts a queue before a client, so that SendAsync never blocks and the
// first messages can wait for the connection.
//
// Order after a failure: a message that fails is sent again by the caller, so what
// was sent after it must fail too instead of overtaking it. Each failure ends a
// generation. What belongs to it and has not reached the connection yet fails, and
// a lane gets into the next generation only with a message that is its first.
type clientConn struct {
	client *client.Client
	cb     Callbacks
	wake   chan struct{} // capacity 1: the queue is not empty

	mu         sync.Mutex
	queue      []outgoing
	generation *generation
	lanes      map[uint32]*generation // the generation that a lane is in
	ended      bool
	down       bool // there is no connection, and no attempt to make one under way
	wants      Wants
}

// generation is the time between two failures. Its context ends with it, before
// anybody is told of the failure and before the client has another connection.
type generation struct {
	ctx context.Context
	end context.CancelFunc
}

func newGeneration() *generation {
	ctx, end := context.WithCancel(context.Background())
	return &generation{ctx, end}
}

type outgoing struct {
	m          *iothub.Message
	done       func(error)
	generation *generation
}

var _ Conn = (*clientConn)(nil)

func newClientConn(o client.Options, cb Callbacks) (*clientConn, error) {
	c := &clientConn{
		cb: cb, wake: make(chan struct{}, 1),
		generation: newGeneration(), lanes: make(map[uint32]*generation),
	}
	o.OnConnection = c.connection
	o.Window = pending
	o.Queue = toDevice
	var err error
	if c.client, err = client.New(o); err != nil {
		return nil, fmt.Errorf("cloud client: %w", err)
	}
	return c, nil
}

func (c *clientConn) connection(s client.Connection) {
	switch s.State {
	case client.Connecting:
		c.setDown(false)
	case client.Connected:
		c.cb.State(true, nil)
	case client.Disconnected:
		c.setDown(true)
		err := s.Err
		if errors.Is(err, client.ErrUnauthorized) {
			err = fmt.Errorf("%w: %w", ErrNoIdentity, err)
		}
		c.cb.State(false, err)
	}
}

func (c *clientConn) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	if down {
		c.failLocked(c.generation)
	}
}

// fail ends a generation, if it has not ended yet.
func (c *clientConn) fail(g *generation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(g)
}

func (c *clientConn) failLocked(g *generation) {
	if g == c.generation {
		g.end()
		c.generation = newGeneration()
	}
}

// Run keeps the connection and sends what is queued.
func (c *clientConn) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What waits in the queue fails at once; what the client has taken has a moment
	// to be acknowledged.
	stop := context.AfterFunc(ctx, c.finish)
	defer stop()
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		c.send(ctx)
	}()
	err := c.client.Run(ctx)
	cancel()
	<-sender
	c.finish()
	for o, ok := c.next(); ok; o, ok = c.next() { // nobody adds any more
		o.done(ErrDown)
	}
	return err
}

// finish takes no more messages and fails those that wait.
func (c *clientConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.failLocked(c.generation)
}

// SendAsync queues the message.
func (c *clientConn) SendAsync(m *iothub.Message, lane Lane, done func(error)) {
	if err := c.enqueue(m, lane, done); err != nil {
		done(err)
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// enqueue looks at the generation and queues in one step, so that no failure comes
// in between.
func (c *clientConn) enqueue(m *iothub.Message, lane Lane, done func(error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return ErrDown
	case lane.First:
		c.lanes[lane.Priority] = c.generation
	case c.lanes[lane.Priority] != c.generation:
		return fmt.Errorf("%w: an earlier message waits to be sent again", ErrDown)
	}
	if len(c.queue) >= pending {
		delete(c.lanes, lane.Priority)
		return fmt.Errorf("%w: %d messages wait already", ErrDown, pending)
	}
	c.queue = append(c.queue, outgoing{m, done, c.generation})
	return nil
}

func (c *clientConn) next() (outgoing, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue = nil // its memory is for busy times
		return outgoing{}, false
	}
	o := c.queue[0]
	c.queue[0] = outgoing{}
	c.queue = c.queue[1:]
	return o, true
}

func (c *clientConn) send(ctx context.Context) {
	for {
		o, ok := c.next()
		if ok {
			c.sendOne(o)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
	}
}

func (c *clientConn) sendOne(o outgoing) {
	g := o.generation
	done := func(err error) {
		switch {
		case err == nil:
		case errors.Is(err, client.ErrTooLarge), errors.Is(err, client.ErrRejected):
			err = fmt.Errorf("%w: %w", ErrMessage, err)
		default:
			c.fail(g)
			err = fmt.Errorf("%w: %w", ErrDown, err)
		}
		o.done(err)
	}
	err := c.client.SendAsync(g.ctx, o.m, done)
	if errors.Is(err, client.ErrNotConnected) {
		wait, cancel := context.WithTimeout(g.ctx, connectWait)
		err = c.client.WaitConnected(wait)
		cancel()
		if err == nil {
			err = c.client.SendAsync(g.ctx, o.m, done)
		}
	}
	if err != nil {
		done(err)
	}
}

// connected waits for the connection, but not for another attempt after one that
// has failed.
func (c *clientConn) connected(ctx context.Context) error {
	c.mu.Lock()
	g, down := c.generation, c.down
	c.mu.Unlock()
	if down {
		return ErrDown
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel)
	defer stop()
	if err := c.client.WaitConnected(wait); err != nil {
		return fmt.Errorf("%w: %w", ErrDown, err)
	}
	return nil
}

// Twin fetches the twin.
func (c *clientConn) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	if err := c.connected(ctx); err != nil {
		return iothub.TwinProperties{}, err
	}
	return c.client.Twin(ctx)
}

// PatchReported sends a patch. A refusal that will not change wraps ErrMessage.
func (c *clientConn) PatchReported(ctx context.Context, patch json.RawMessage) error {
	if err := c.connected(ctx); err != nil {
		return err
	}
	_, err := c.client.PatchReported(ctx, patch)
	var refused *client.StatusError
	switch {
	case errors.Is(err, client.ErrTooLarge),
		errors.As(err, &refused) && (refused.Status == http.StatusBadRequest || refused.Status == http.StatusRequestEntityTooLarge):
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
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
