package amqp

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// client is one identity on a connection, from its first link to its last, and the
// head.Client that the Backend sees.
type client struct {
	conn   *conn
	id     iothub.Identity
	owner  iothub.Identity // of the token that it came in with
	cert   bool            // it came in with a certificate
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	telemetry, twin lane
	methods         methods
	busy            sync.WaitGroup // links, and calls of session: it is closed after them

	renewing sync.Mutex // held over a renewal

	mu      sync.Mutex
	login   head.Login
	known   head.Login   // what the session knows of it
	session head.Session // nil until admitted
	ended   bool
	waiting []*attach // until admitted
	links   [kinds]*link
}

var (
	_ head.Client   = (*client)(nil)
	_ head.Windowed = (*client)(nil)
)

func newClient(c *conn, id iothub.Identity, cr credential, properties wire.Map) *client {
	cl := &client{conn: c, id: id, owner: cr.owner, cert: cr.cert, log: c.log.With("identity", id.String()), login: c.login(id, cr)}
	cl.login.Describe(properties.Text(propVersion), properties.Text(propModelID))
	cl.ctx, cl.cancel = context.WithCancel(c.ctx)
	cl.telemetry.spawn, cl.twin.spawn = c.spawn, c.spawn
	return cl
}

// connect asks the Backend, and then accepts the links that have waited.
func (c *client) connect() {
	ctx, cancel := context.WithTimeout(c.ctx, c.conn.srv.opts.AuthTimeout)
	defer cancel()
	c.mu.Lock()
	login := c.login
	c.mu.Unlock()
	session, err := c.conn.srv.opts.Backend.Connect(ctx, login, c)
	if err != nil {
		c.conn.complain(c.log, "amqp client refused", "err", err)
		c.end(err, wireError(err))
		return
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		session.Close(head.ErrReplaced)
		return
	}
	c.session, c.known = session, login
	waiting := c.waiting
	c.waiting = nil
	for _, a := range waiting {
		c.accept(a)
	}
	c.mu.Unlock()
	c.conn.known()
	c.log.Info("amqp client connected", "protocol", login.Protocol, "product", head.Clip(login.Product))
	token := c.conn.token(c.owner)
	if login.Token == "" || token == "" {
		token = login.Token
	}
	c.renew(token) // if there is more than what the Backend was asked with
}

// attach takes a link; false when the client has ended. On the goroutine of the
// connection, as every link's handler.
func (c *client) attach(a *attach) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if model := a.Client().Properties.Text(propModelID); model != "" && c.login.ModelID == "" && !c.ended {
		// Only links for sending carry it, and another one may have come first.
		c.login.Describe(c.login.Product, model)
		if token := c.login.Token; c.session != nil {
			c.conn.spawn(func() { c.renew(token) })
		}
	}
	switch {
	case c.ended:
		return false
	case c.session == nil && len(c.waiting) >= maxWaiting:
		a.Refuse(wire.Errorf(wire.CondResourceLimitExceeded, "too many links"))
	case c.session == nil:
		c.waiting = append(c.waiting, a)
	default:
		c.accept(a)
	}
	return true
}

// maxWaiting bounds the links of a client that is not admitted yet.
const maxWaiting = 4 * int(kinds)

// enter returns the session for a call, after which leave must be called; nil when
// the client has ended.
func (c *client) enter() head.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.session == nil {
		return nil
	}
	c.busy.Add(1)
	return c.session
}

func (c *client) leave() { c.busy.Done() }

// renew gives the session another token, and what else it does not know yet.
func (c *client) renew(token string) {
	s := c.enter()
	if s == nil {
		return
	}
	defer c.leave()
	c.renewing.Lock()
	defer c.renewing.Unlock()
	c.mu.Lock()
	login := c.login
	login.Token = token
	known := login.Token == c.known.Token && login.ModelID == c.known.ModelID
	c.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.conn.srv.opts.AuthTimeout)
	defer cancel()
	if err := s.Renew(ctx, login); err != nil {
		c.log.Warn("amqp token not renewed; the one before still counts", "err", err)
		return
	}
	c.mu.Lock()
	c.login.Token, c.known = token, login
	c.mu.Unlock()
}

// end ends the client for a reason, nil after an orderly goodbye, and detaches its
// links. The session is closed when they are gone. It returns at once; only the first
// call counts.
func (c *client) end(reason error, why *wire.Error) {
	links, _ := c.finish(reason, why)
	detach(links, why)
}

func detach(links [kinds]*link, why *wire.Error) {
	for _, l := range links {
		if l != nil {
			l.detach(why)
		}
	}
}

// finish is end without the detaching of the links, which it returns: they are left to
// end with the connection, or to the caller.
func (c *client) finish(reason error, why *wire.Error) (links [kinds]*link, first bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return links, false
	}
	c.ended = true
	session, waiting := c.session, c.waiting
	links, c.waiting = c.links, nil
	c.conn.spawn(func() {
		c.busy.Wait()
		c.methods.close()
		if session != nil {
			session.Close(reason)
			c.log.Info("amqp client disconnected", "reason", errText(reason))
		}
	})
	c.mu.Unlock()
	c.cancel()
	c.conn.forget(c)
	for _, a := range waiting {
		if why == nil {
			why = wire.Errorf(wire.CondDetachForced, "the client has ended")
		}
		a.Refuse(why)
	}
	return links, true
}

func errText(err error) string {
	if err == nil {
		return "goodbye"
	}
	return err.Error()
}

// Disconnect implements head.Client. Other identities on the connection stay. Without
// others the connection is closed, and not first the links: the Node SDK, told of them,
// closes the others and waits for answers that do not come any more.
func (c *client) Disconnect(reason error) {
	why := wireError(reason)
	links, first := c.finish(reason, why)
	switch {
	case !first:
		return
	case errors.Is(reason, head.ErrExpired):
		defer c.conn.expired(c)
	case !c.conn.alone(c.owner):
	case errors.Is(reason, head.ErrShutdown):
		c.conn.stop()
		return
	default:
		c.conn.amqp.Close(wire.Errorf(wire.CondConnectionForced, "%s", why.Description))
		return
	}
	detach(links, why)
}

// Window implements head.Windowed.
func (c *client) Window(f head.Feature) int {
	k := kindOfFeature(f)
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.links[k]
	if l == nil || l.sender == nil {
		return 0
	}
	return min(l.credit()+int(l.unsettled.Load()), c.conn.srv.opts.MaxQueued)
}

// receiver finds the link on which the client receives; nil if there is none.
func (c *client) receiver(k kind) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	return c.links[k]
}

// errLockLost answers a client that waits for it when its outcome has come too late.
var errLockLost = wire.Errorf(wire.CondNotFound, "the lock of the message was lost")

// confirm answers a client that settles in two steps; its outcome counts, or has come too
// late. The answer to one that counts is accepted whatever it has said: the .NET SDK takes
// all else for a failure (spec iothub-amqp 6.1).
func confirm(o *amqp.Outcome, counts bool) {
	answer := wire.Accepted()
	if !counts {
		answer = wire.Rejected(errLockLost)
	}
	o.Confirm(answer)
}

// Deliver implements head.Client. A message without a link for it is lost, one that is
// larger than the client takes is rejected, and one more than may wait is lost.
func (c *client) Deliver(input string, m *iothub.Message, settled func(head.Outcome) bool) {
	k, to := kindDeviceBound, path(c.id)
	if input != "" {
		k = kindInputs
	} else if c.conn.srv.opts.Flavor == Cloud {
		to += "/messages/devicebound"
	}
	l := c.receiver(k)
	if l == nil {
		settled(head.Lost) // the link has just gone, which is no word of the client's
		return
	}
	lock, ok := parseGUID(m.System.Get(iothub.LockToken))
	if !ok {
		lock = newGUID()
	}
	l.unsettled.Add(1)
	err := l.sender.Send(encode(m, to, input, lock.String()), amqp.SendOptions{Tag: lock.tag()}, func(o amqp.Outcome) {
		l.unsettled.Add(-1)
		confirm(&o, settled(outcome(&o)))
	})
	if err == nil {
		l.credit()
		return
	}
	l.unsettled.Add(-1)
	if errors.Is(err, amqp.ErrTooLarge) {
		settled(head.Reject)
		return
	}
	settled(head.Lost)
}

// path is where an identity is addressed.
func path(id iothub.Identity) string {
	if id.IsModule() {
		return "/devices/" + escapeID(id.Device) + "/modules/" + escapeID(id.Module)
	}
	return "/devices/" + escapeID(id.Device)
}

// outcome is what the client's outcome means (spec iothub-amqp 6.2).
func outcome(o *amqp.Outcome) head.Outcome {
	switch {
	case o.Lost:
		return head.Lost
	case o.State.Code == wire.StateAccepted:
		return head.Complete
	case o.State.Code == wire.StateRejected, o.State.Code == wire.StateModified && o.State.UndeliverableHere:
		return head.Reject
	}
	return head.Abandon
}

// DesiredChanged implements head.Client. Clients know a change from an answer by
// its lack of a correlation id.
func (c *client) DesiredChanged(patch json.RawMessage, version int64) {
	l := c.receiver(kindTwinReceive)
	if l == nil {
		return
	}
	m := wire.NewMessage(patch)
	m.Annotations = m.Annotations.WithSymbol(keyResource, wire.String("/properties/desired")).
		WithSymbol(keyVersion, wire.Long(version))
	c.control(l, m)
}

// control sends a twin or method message. A client that lets too many of them
// wait loses the link.
func (c *client) control(l *link, m *wire.Message) {
	o := amqp.SendOptions{Tag: newGUID().tag(), Settled: l.sender.SettledOnly()}
	if err := l.sender.Send(m, o, nil); errors.Is(err, amqp.ErrQueueFull) {
		c.log.Warn("amqp client takes twin or method messages too slowly", "link", l.kind.String())
		l.detach(wire.Errorf(wire.CondResourceLimitExceeded, "too many messages wait"))
	}
}
