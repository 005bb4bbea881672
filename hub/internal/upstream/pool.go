package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Pool holds the connections. It may be used concurrently.
type Pool struct {
	dial    Dialer
	handler Handler
	o       Options
	wg      sync.WaitGroup

	// telling keeps the order in which the Handler hears of states: who has put
	// something in tells. Capacity 1; before mu.
	telling chan struct{}

	mu     sync.Mutex
	ctx    context.Context // of Run; nil before
	closed bool
	conns  map[iothub.Identity]*link
	ending map[iothub.Identity]*link // closed, and about to end: the latest of each identity
	wishes map[iothub.Identity]Wants // as stated last, if any
}

// link is a connection in the pool. Its mutable fields are guarded by Pool.mu.
type link struct {
	id     iothub.Identity
	conn   Conn
	cancel context.CancelFunc // nil before it is started
	ended  chan struct{}      // closed when it has ended
	before *link              // of the same identity; must have ended first

	used  time.Time
	busy  int       // calls and messages under way
	moved time.Time // when one of them has ended, the first of them begun, or the connection come up
	wants Wants
	up    bool
	left  bool // whose it is has left
}

// New returns a pool. Connections are made when Run runs.
func New(dial Dialer, h Handler, o Options) *Pool {
	if o.Idle == 0 {
		o.Idle = time.Hour
	}
	if o.Max == 0 {
		o.Max = 1000
	}
	return &Pool{dial: dial, handler: h, o: o, telling: make(chan struct{}, 1),
		conns: make(map[iothub.Identity]*link), ending: make(map[iothub.Identity]*link),
		wishes: make(map[iothub.Identity]Wants)}
}

// Run owns the connections until ctx ends, and returns when all have ended. It may
// be called once.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	for _, l := range p.conns {
		p.startLocked(l)
	}
	p.mu.Unlock()
	idle, stopIdle := every(p.o.Idle)
	defer stopIdle()
	hung, stopHung := every(p.o.Hanging)
	defer stopHung()
	for ctx.Err() == nil {
		select {
		case now := <-idle:
			p.sweep(now)
		case now := <-hung:
			p.breakHung(now)
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// every ticks ten times in a limit, never if there is none.
func every(limit time.Duration) (ticks <-chan time.Time, stop func()) {
	if limit <= 0 {
		return nil, func() {}
	}
	tick := time.NewTicker(max(limit/10, time.Second))
	return tick.C, tick.Stop
}

// breakHung makes connections anew of which nothing has come for too long.
func (p *Pool) breakHung(now time.Time) {
	var hung []iothub.Identity
	p.mu.Lock()
	for id, l := range p.conns {
		if l.up && l.busy > 0 && now.Sub(l.moved) >= p.o.Hanging {
			hung = append(hung, id)
		}
	}
	p.mu.Unlock()
	for _, id := range hung {
		p.Break(id, ErrHanging)
	}
}

// Break takes the connection of an identity for broken: the Handler hears that it is
// down, what was under way fails, and it is made anew with the same wishes. It must
// not be called by the Handler's CloudState.
func (p *Pool) Break(id iothub.Identity, reason error) {
	if !p.breakOff(id, reason) {
		return
	}
	p.mu.Lock()
	wants := p.wishes[id] // which may have changed meanwhile
	if wants == (Wants{}) || p.conns[id] != nil {
		p.mu.Unlock()
		return
	}
	l, err := p.openLocked(id)
	if err == nil {
		l.wants = wants
	}
	p.mu.Unlock()
	if err != nil {
		p.o.Logger.Warn("cloud connection not made anew", "id", id.String(), "error", err)
		return
	}
	l.conn.Subscribe(wants)
}

// breakOff closes a connection and tells the Handler that it is down; false if there
// is none.
func (p *Pool) breakOff(id iothub.Identity, reason error) bool {
	p.telling <- struct{}{}
	defer func() { <-p.telling }()
	p.mu.Lock()
	l := p.conns[id]
	if l == nil || p.ctx == nil || p.ctx.Err() != nil {
		p.mu.Unlock()
		return false
	}
	p.closeLocked(l)
	p.mu.Unlock()
	p.o.Logger.Warn("cloud connection is made anew", "id", id.String(), "error", reason)
	p.handler.CloudState(id, false, reason)
	return true
}

// sweep closes what nobody has used for long and nobody waits on.
func (p *Pool) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.conns {
		if l.wants == (Wants{}) && l.busy == 0 && now.Sub(l.used) >= p.o.Idle {
			p.o.Logger.Debug("cloud connection was idle", "id", l.id.String())
			p.closeLocked(l)
		}
	}
}

// hold returns the connection of an identity, opening it if need be. It is not
// idle before release is called.
func (p *Pool) hold(id iothub.Identity) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.conns[id]
	if l == nil {
		var err error
		if l, err = p.openLocked(id); err != nil {
			return nil, err
		}
	}
	if l.busy++; l.busy == 1 {
		l.moved = time.Now()
	}
	return l, nil
}

func (p *Pool) release(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.busy--
	l.used = time.Now()
	l.moved = l.used
	p.letGoLocked(l)
}

// Leave says that whose connection this is has left: it ends when nothing is under
// way, if nothing is wanted. The next use makes another.
func (p *Pool) Leave(id iothub.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.conns[id]; l != nil {
		l.left = true
		p.letGoLocked(l)
	}
}

// letGoLocked closes the connection of one who has left.
func (p *Pool) letGoLocked(l *link) {
	if l.left && l.busy == 0 && l.wants == (Wants{}) && p.conns[l.id] == l {
		p.closeLocked(l)
	}
}

func (p *Pool) openLocked(id iothub.Identity) (*link, error) {
	if p.closed {
		return nil, fmt.Errorf("%w: hub is shutting down", ErrDown)
	}
	if len(p.conns) >= p.o.Max && !p.makeRoomLocked() {
		return nil, fmt.Errorf("%w: %d connections are the limit", ErrDown, p.o.Max)
	}
	l := &link{id: id, ended: make(chan struct{}), before: p.ending[id], used: time.Now()}
	var token func() string
	if p.o.Token != nil {
		token = p.o.Token(id)
	}
	conn, err := p.dial(id, token, Callbacks{
		State: func(up bool, err error) { p.state(l, up, err) },
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
	l.conn = conn
	p.conns[id] = l
	if p.ctx != nil {
		p.startLocked(l)
	}
	return l, nil
}

// makeRoomLocked closes the connection that has not been used for longest, if there is
// one that nobody uses or waits on.
func (p *Pool) makeRoomLocked() bool {
	var oldest *link
	for _, l := range p.conns {
		if l.wants == (Wants{}) && l.busy == 0 && (oldest == nil || l.used.Before(oldest.used)) {
			oldest = l
		}
	}
	if oldest == nil {
		return false
	}
	p.closeLocked(oldest)
	return true
}

// startLocked runs a connection. One of the same identity that has been closed ends
// first: the cloud would cut one of the two, and messages of both would mix.
func (p *Pool) startLocked(l *link) {
	ctx, cancel := context.WithCancel(p.ctx)
	l.cancel = cancel
	p.wg.Go(func() {
		defer cancel()
		if l.before != nil {
			<-l.before.ended
			l.before = nil
		}
		p.forget(l, l.conn.Run(ctx))
	})
}

// forget is the end of a connection.
func (p *Pool) forget(l *link, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[l.id] == l {
		if p.ctx.Err() == nil {
			p.o.Logger.Warn("cloud connection ended by itself", "id", l.id.String(), "error", err)
		}
		delete(p.conns, l.id)
	}
	if p.ending[l.id] == l {
		delete(p.ending, l.id)
	}
	l.up = false
	close(l.ended)
}

// state passes on what a connection says of itself. Nobody is interested in one
// that was closed.
func (p *Pool) state(l *link, up bool, err error) {
	p.telling <- struct{}{}
	defer func() { <-p.telling }()
	p.mu.Lock()
	if up && !l.up {
		l.moved = time.Now() // what was asked before could not be answered
	}
	l.up = up
	current := p.conns[l.id] == l && p.ctx.Err() == nil
	p.mu.Unlock()
	if current {
		p.handler.CloudState(l.id, up, err)
	}
}

func (p *Pool) closeLocked(l *link) {
	delete(p.conns, l.id)
	if l.cancel == nil {
		close(l.ended) // was never started
		return
	}
	p.ending[l.id] = l
	l.cancel()
}

// CloseOthers ends all connections but that of one identity. It does not wait for
// their end. Messages that were sent have a moment to be acknowledged.
func (p *Pool) CloseOthers(keep iothub.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, l := range p.conns {
		if id != keep {
			p.closeLocked(l)
		}
	}
}

// CloseBelow ends the connection of an identity and those of its modules, but not
// that of keep.
func (p *Pool) CloseBelow(id, keep iothub.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, l := range p.conns {
		if (other == id || other.Parent() == id) && other != keep {
			p.closeLocked(l)
		}
	}
}

// Subscribe states what an identity wants to hear. A connection is opened if it
// wants anything. When it wants less than before its connection is closed, and
// opened again if there is still a wish. It must not be called concurrently for
// one identity.
func (p *Pool) Subscribe(id iothub.Identity, w Wants) error {
	p.mu.Lock()
	if l := p.conns[id]; l != nil && l.wants.moreThan(w) {
		p.closeLocked(l)
	}
	if p.wishes[id] = w; w == (Wants{}) {
		delete(p.wishes, id)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	l, err := p.hold(id)
	if err != nil {
		return err
	}
	defer p.release(l)
	p.mu.Lock()
	l.wants, l.left = w, false
	p.mu.Unlock()
	l.conn.Subscribe(w)
	return nil
}

// Wants is what an identity hears on the connection that it has now.
func (p *Pool) Wants(id iothub.Identity) Wants {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.conns[id]; l != nil {
		return l.wants
	}
	return Wants{}
}

// Used is when something of an identity's connection was last answered, or it came
// up; zero if it has none.
func (p *Pool) Used(id iothub.Identity) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.conns[id]; l != nil {
		return l.moved
	}
	return time.Time{}
}

// Up tells whether the identity's connection is up.
func (p *Pool) Up(id iothub.Identity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.conns[id]
	return l != nil && l.up
}

// Send sends a message over its sender's connection; done is called once, as Conn
// says.
func (p *Pool) Send(m *iothub.Message, lane Lane, done func(error)) {
	told := func(err error) {
		if p.o.KeepForUnknown && errors.Is(err, ErrNoIdentity) {
			err = fmt.Errorf("%w: %s", ErrDown, err.Error())
		}
		done(err)
	}
	l, err := p.hold(m.Sender())
	if err != nil {
		told(err)
		return
	}
	l.conn.SendAsync(m, lane, func(err error) {
		p.release(l)
		told(err)
	})
}

// Twin fetches the twin of an identity.
func (p *Pool) Twin(ctx context.Context, id iothub.Identity) (iothub.TwinProperties, error) {
	l, err := p.hold(id)
	if err != nil {
		return iothub.TwinProperties{}, err
	}
	defer p.release(l)
	return l.conn.Twin(ctx)
}

// PatchReported sends a patch of an identity's reported properties.
func (p *Pool) PatchReported(ctx context.Context, id iothub.Identity, patch json.RawMessage) error {
	l, err := p.hold(id)
	if err != nil {
		return err
	}
	defer p.release(l)
	return l.conn.PatchReported(ctx, patch)
}
