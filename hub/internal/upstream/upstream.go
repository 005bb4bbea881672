// Package upstream is edge hub's side to the cloud: one connection for each
// identity that has something to say, opened when it is first needed and closed
// when it was idle for long. Messages are pipelined, in order for each sender.
//
// The pool does not know the protocol: a Dialer makes connections.
package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Conn is the connection of one identity. It reconnects by itself for as long as
// Run runs. All methods may be called concurrently, and before Run.
type Conn interface {
	// Run keeps the connection until ctx ends.
	Run(ctx context.Context) error
	// SendAsync sends a message; done is called once, with nil when the cloud has
	// acknowledged it. Order is kept: after a failure, everything that was sent
	// before the failure was told fails too. It does not block.
	SendAsync(m *iothub.Message, done func(error))
	Twin(ctx context.Context) (iothub.TwinProperties, error)
	PatchReported(ctx context.Context, patch json.RawMessage) error
	// Subscribe adds callbacks that are wanted from now on.
	Subscribe(want Wants)
}

// Wants says what an identity wants to hear from the cloud.
type Wants struct{ Desired, Methods, C2D bool }

// Callbacks are what a connection calls.
type Callbacks struct {
	// State tells that the connection is up, or why it is not (err not nil).
	State   func(up bool, err error)
	Desired func(ctx context.Context, patch json.RawMessage, version int64)
	Method  func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse
	// C2D returns nil when the device has completed the message.
	C2D func(ctx context.Context, m *iothub.Message) error
}

// Dialer makes a connection for an identity. An error that wraps ErrNoIdentity says
// that it may not speak for it.
type Dialer func(id iothub.Identity, c Callbacks) (Conn, error)

// Errors of the package.
var (
	// ErrNoIdentity: the identity is disabled, gone or not below this gateway.
	ErrNoIdentity = errors.New("no such identity below this gateway")
	// ErrDown: there is no connection to the cloud now.
	ErrDown = errors.New("cloud is not connected")
	// ErrMessage: no cloud will take this message.
	ErrMessage = errors.New("message cannot be sent")
)

// Handler is who hears what the cloud says to an identity.
type Handler interface {
	CloudState(id iothub.Identity, up bool, err error)
	CloudDesired(ctx context.Context, id iothub.Identity, patch json.RawMessage, version int64)
	CloudMethod(ctx context.Context, id iothub.Identity, r iothub.MethodRequest) iothub.MethodResponse
	CloudMessage(ctx context.Context, id iothub.Identity, m *iothub.Message) error
}

// Options configure a Pool. Zero values mean the defaults.
type Options struct {
	Idle   time.Duration // close after this time without use: 1 h
	Max    int           // connections at a time: 1000
	Logger *slog.Logger
}

// Pool holds the connections. It may be used concurrently.
type Pool struct {
	dial    Dialer
	handler Handler
	o       Options

	mu     sync.Mutex
	ctx    context.Context // of Run; nil before and after
	conns  map[iothub.Identity]*link
	wg     sync.WaitGroup
	closed bool
}

// link is a connection in the pool. Its fields are guarded by Pool.mu.
type link struct {
	conn   Conn
	cancel context.CancelFunc
	used   time.Time
	wants  Wants
	up     bool
}

// New returns a pool. Connections can be had once Run runs.
func New(dial Dialer, h Handler, o Options) *Pool {
	if o.Idle == 0 {
		o.Idle = time.Hour
	}
	if o.Max == 0 {
		o.Max = 1000
	}
	return &Pool{dial: dial, handler: h, o: o, conns: make(map[iothub.Identity]*link)}
}

// Run owns the connections until ctx ends, and returns when all have ended.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	tick := time.NewTicker(max(p.o.Idle/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.sweep(time.Now())
			continue
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.wg.Wait()
		return nil
	}
}

// sweep closes what nobody has used for long and nobody waits on.
func (p *Pool) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, l := range p.conns {
		if l.wants == (Wants{}) && now.Sub(l.used) >= p.o.Idle {
			p.o.Logger.Debug("cloud connection was idle", "id", id.String())
			l.cancel()
			delete(p.conns, id)
		}
	}
}

// get returns the connection of an identity, opening it if need be.
func (p *Pool) get(id iothub.Identity) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.conns[id]; l != nil {
		l.used = time.Now()
		return l, nil
	}
	if p.ctx == nil || p.closed {
		return nil, fmt.Errorf("%w: not running", ErrDown)
	}
	if len(p.conns) >= p.o.Max {
		return nil, fmt.Errorf("%w: %d connections are the limit", ErrDown, p.o.Max)
	}
	l := &link{used: time.Now()}
	conn, err := p.dial(id, Callbacks{
		State: func(up bool, err error) {
			p.mu.Lock()
			l.up = up
			p.mu.Unlock()
			p.handler.CloudState(id, up, err)
		},
		Desired: func(ctx context.Context, patch json.RawMessage, version int64) {
			p.handler.CloudDesired(ctx, id, patch, version)
		},
		Method: func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse {
			return p.handler.CloudMethod(ctx, id, r)
		},
		C2D: func(ctx context.Context, m *iothub.Message) error { return p.handler.CloudMessage(ctx, id, m) },
	})
	if err != nil {
		return nil, fmt.Errorf("cloud connection of %s: %w", id, err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	l.conn, l.cancel = conn, cancel
	p.conns[id] = l
	p.wg.Go(func() {
		defer cancel()
		if err := conn.Run(ctx); err != nil && ctx.Err() == nil {
			p.o.Logger.Warn("cloud connection ended", "id", id.String(), "error", err)
			p.drop(id, l)
		}
	})
	return l, nil
}

func (p *Pool) drop(id iothub.Identity, l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[id] == l {
		delete(p.conns, id)
	}
	l.cancel()
}

// Close ends the connection of an identity, if it has one.
func (p *Pool) Close(id iothub.Identity) {
	p.mu.Lock()
	l := p.conns[id]
	delete(p.conns, id)
	p.mu.Unlock()
	if l != nil {
		l.cancel()
	}
}

// Subscribe states what an identity wants to hear. A connection is opened if it
// wants anything. When it wants less than before its connection is closed, and
// opened again if there is still a wish; messages on their way fail then and are
// sent again by whoever sent them.
func (p *Pool) Subscribe(id iothub.Identity, w Wants) error {
	p.mu.Lock()
	l := p.conns[id]
	less := l != nil && (l.wants.Desired && !w.Desired || l.wants.Methods && !w.Methods || l.wants.C2D && !w.C2D)
	p.mu.Unlock()
	if less {
		p.Close(id)
	}
	if w == (Wants{}) {
		return nil
	}
	l, err := p.get(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	l.wants = w
	p.mu.Unlock()
	l.conn.Subscribe(w)
	return nil
}

// Up tells whether the identity's connection is up.
func (p *Pool) Up(id iothub.Identity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.conns[id]
	return l != nil && l.up
}

// Send sends a message over its sender's connection; done is called once.
func (p *Pool) Send(m *iothub.Message, done func(error)) {
	l, err := p.get(m.Sender())
	if err != nil {
		done(err)
		return
	}
	l.conn.SendAsync(m, done)
}

// Twin fetches the twin of an identity.
func (p *Pool) Twin(ctx context.Context, id iothub.Identity) (iothub.TwinProperties, error) {
	l, err := p.get(id)
	if err != nil {
		return iothub.TwinProperties{}, err
	}
	return l.conn.Twin(ctx)
}

// PatchReported sends a patch of an identity's reported properties.
func (p *Pool) PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error {
	l, err := p.get(id)
	if err != nil {
		return err
	}
	return l.conn.PatchReported(ctx, patch)
}
