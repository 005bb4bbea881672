package amqp

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
	"github.com/breakwater-iot/breakwater/hub/amqp/rpc"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// conn is one connection: what its clients have shown of themselves, and who of
// them is admitted.
type conn struct {
	srv        *Server
	net        net.Conn
	amqp       *amqp.Conn // set before the first call of a handler method
	t          Transport
	log        *slog.Logger
	ctx        context.Context // ends with the connection; the engine's handlers carry none
	cancel     context.CancelFunc
	complaints head.Complaints
	cbs        *cbs.Node
	management *rpc.Node
	managing   lane           // answers of management
	wg         sync.WaitGroup // goroutines of the connection and its clients

	mu      sync.Mutex
	closed  bool
	plain   bool                       // PLAIN has said who this is
	checks  int                        // tokens that are being checked
	tokens  map[iothub.Identity]string // by who they are for; the zero identity: a policy
	clients map[iothub.Identity]*client
	service *service               // nil until the token of a service was shown
	grants  map[string]*eventGrant // rights to read events, by their path in lower case
	readers map[*eventReader]struct{}
	patient *time.Timer // ends a connection that shows nothing
}

var _ amqp.ConnHandler = (*conn)(nil)

func newConn(ctx context.Context, s *Server, nc net.Conn, t Transport) *conn {
	c := &conn{
		srv: s, net: nc, t: t, log: s.log.With("remote", nc.RemoteAddr().String()),
		tokens: make(map[iothub.Identity]string), clients: make(map[iothub.Identity]*client),
		grants: make(map[string]*eventGrant), readers: make(map[*eventReader]struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.cbs = cbs.New(c.putToken)
	c.management = rpc.New(c.onManagement)
	c.managing.spawn = c.spawn
	return c
}

// spawn starts a goroutine that finish waits for. A panic of the Backend below
// costs this connection only.
func (c *conn) spawn(f func()) {
	c.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				c.log.Error("amqp connection panicked", "panic", p, "stack", string(debug.Stack()))
				c.amqp.Close(wire.Errorf(wire.CondInternalError, "internal error"))
			}
		}()
		f()
	})
}

// complain logs something that a client does wrong.
func (c *conn) complain(log *slog.Logger, text string, args ...any) {
	c.complaints.Log(c.ctx, log, text, args...)
}

// known is called when somebody on the connection has shown who he is.
func (c *conn) known() {
	c.amqp.Trust()
	listen.Known(c.ctx)
}

// OnOpen implements amqp.ConnHandler.
func (c *conn) OnOpen(o *amqp.Open) {
	c.mu.Lock()
	if !c.plain {
		c.patient = time.AfterFunc(c.srv.opts.ConnectTimeout, c.outOfPatience)
	}
	c.mu.Unlock()
	o.Accept()
}

// outOfPatience ends a connection that nobody has authenticated on.
func (c *conn) outOfPatience() {
	c.mu.Lock()
	idle := len(c.tokens) == 0 && len(c.clients) == 0 && c.service == nil && len(c.grants) == 0
	c.mu.Unlock()
	if idle {
		c.amqp.Close(wire.Errorf(wire.CondUnauthorizedAccess, "no token in time"))
	}
}

// OnAttach implements amqp.ConnHandler.
func (c *conn) OnAttach(a *amqp.Attach) {
	if cbs.Is(a.Address()) {
		c.mu.Lock()
		plain := c.plain
		c.mu.Unlock()
		if plain {
			a.Refuse(wire.Errorf(wire.CondNotAllowed, "the connection is authenticated already"))
			return
		}
		c.cbs.Attach(a)
		return
	}
	addr := parseAddress(a.Address())
	switch {
	case addr.node == nodeUnknown, addr.node >= nodeRedirect && c.srv.opts.Events == nil:
		condition := wire.CondNotFound
		if c.srv.opts.Flavor == Edge {
			condition = wire.CondNotAllowed
		}
		a.Refuse(wire.Errorf(condition, "no node has this address"))
	case addr.node >= nodeRedirect:
		c.attachEvents(a, addr)
	case addr.node.forService():
		c.attachService(a, addr.node)
	default:
		c.attachClient(a, addr)
	}
}

// attachClient gives a link to the client that its address names, who has to be
// admitted first.
func (c *conn) attachClient(a *amqp.Attach, addr address) {
	k, ok := kindOf(addr, a.ClientSends())
	if !ok {
		a.Refuse(wire.Errorf(wire.CondNotAllowed, "the node is not for this direction"))
		return
	}
	for {
		client, refusal := c.clientOf(a, addr.id)
		if refusal != nil {
			c.complain(c.log, "amqp link refused", "identity", addr.id.String(), "err", refusal)
			a.Refuse(refusal)
			return
		}
		if client.attach(&attach{Attach: a, kind: k}) {
			return
		}
		c.forget(client) // it has ended meanwhile
	}
}

// clientOf finds the client of an identity or begins to admit it.
func (c *conn) clientOf(a *amqp.Attach, id iothub.Identity) (*client, *wire.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.clients[id]; have != nil {
		return have, nil
	}
	if c.closed {
		return nil, wire.Errorf(wire.CondDetachForced, "the connection is ending")
	}
	if len(c.clients) >= c.srv.opts.MaxIdentities {
		return nil, wire.Errorf(wire.CondResourceLimitExceeded, "too many identities on one connection")
	}
	cr, ok := c.credentials(id, a.Client().Properties.Text(propAuthChain))
	if !ok {
		return nil, wire.Errorf(wire.CondUnauthorizedAccess, "no token for this identity")
	}
	client := newClient(c, id, cr, a.Client().Properties)
	c.clients[id] = client
	c.spawn(client.connect)
	return client, nil
}

// forget takes a client out of the table.
func (c *conn) forget(client *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[client.id] == client {
		delete(c.clients, client.id)
	}
}

// alone tells whether nobody but the owner of a token may still use the
// connection.
func (c *conn) alone(owner iothub.Identity) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := len(c.tokens)
	if _, ok := c.tokens[owner]; ok {
		others--
	}
	return len(c.clients) == 0 && others == 0 && c.service == nil && len(c.grants) == 0
}

// token returns the newest token of an owner, or "".
func (c *conn) token(owner iothub.Identity) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens[owner]
}

// OnClose implements amqp.ConnHandler. finish does the rest.
func (c *conn) OnClose(error) {}

// stop closes the connection because the hub is going down. The Node SDK goes by the
// reason of its session, and comes again by itself after this one.
func (c *conn) stop() {
	c.amqp.EndSessions(wireError(head.ErrShutdown))
	c.amqp.Close(wire.Errorf(wire.CondConnectionForced, "the hub is going down"))
}

// finish runs once when the connection has ended, by the client's orderly close
// (nil) or for another reason.
func (c *conn) finish(reason error) {
	c.mu.Lock()
	c.closed = true
	clients := make([]*client, 0, len(c.clients))
	for _, client := range c.clients {
		clients = append(clients, client)
	}
	service := c.service
	if c.patient != nil {
		c.patient.Stop()
	}
	clear(c.tokens)
	for path := range c.grants {
		c.dropGrant(path)
	}
	c.mu.Unlock()
	c.cancel()
	for _, client := range clients {
		client.end(reason, nil)
	}
	if service != nil {
		service.end(nil)
	}
	c.wg.Wait()
}
