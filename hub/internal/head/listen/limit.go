package listen

import (
	"context"
	"net"
	"sync"
)

// Limit is a listener for a server that is not ours (net/http): it counts the connections
// of ln as Conn does, by the same rules. The server has to use Guest.
func (l *Listener) Limit(ln net.Listener) net.Listener { return &limited{ln, l} }

type limited struct {
	net.Listener
	l *Listener
}

// Accept waits for a connection that is let in.
func (x *limited) Accept() (net.Conn, error) {
	for {
		nc, err := x.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g := x.l.admit(nc); g != nil {
			return &guestConn{Conn: nc, g: g, leave: sync.OnceFunc(func() { x.l.leave(g) })}, nil
		}
		_ = nc.Close()
	}
}

// guestConn is a connection that gives its place back.
type guestConn struct {
	net.Conn
	g     *guest
	leave func()
}

// Close closes the connection.
func (c *guestConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

// Guest returns a context for a connection that a Limit has let in, bare or in TLS: with it,
// Known lets the connection stay.
func Guest(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	if c, ok := nc.(*guestConn); ok {
		return context.WithValue(ctx, guestKey{}, c.g)
	}
	return ctx
}

// Within returns ctx for what runs inside the connection of another context, which Known then
// lets stay too.
func Within(ctx, connection context.Context) context.Context {
	if g := connection.Value(guestKey{}); g != nil {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}
