// Package listen accepts the connections of a protocol head: it counts them, does the
// TLS handshake and hands them on.
package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Options configure New.
type Options struct {
	// Protocol begins what is logged.
	Protocol string
	// TLS is copied; nil serves what the listener gives. Whoever comes with a
	// certificate is judged by the Backend, which knows thumbprints and authorities;
	// clients with tokens share the port.
	TLS *tls.Config
	// Timeout bounds what comes before the client is known.
	Timeout time.Duration
	// MaxConnections open at once; 0 for no limit. See Known for who gives way.
	MaxConnections int
	Logger         *slog.Logger
}

// Listener accepts connections. Its methods may be called concurrently.
type Listener struct {
	opts Options
	tls  *tls.Config

	mu        sync.Mutex
	open      int
	last      uint64              // number of the newest guest
	strangers map[*guest]struct{} // open, and not known
}

// guest is an open connection. Its fields are guarded by Listener.mu, but for outer.
type guest struct {
	l      *Listener
	outer  *guest // the connection that this one runs in, as a WebSocket does; nil for none
	nc     net.Conn
	source string // where it comes from, without the port
	number uint64
	gone   bool // had to give way, and counts no more
}

// guestKey is that of a guest in the context of its Handle.
type guestKey struct{}

// Known tells that the client of a connection has shown who it is: it does not have to
// give way to others any more. ctx is that of Handle or of Guest, or made of it.
func Known(ctx context.Context) {
	g, _ := ctx.Value(guestKey{}).(*guest)
	for ; g != nil; g = g.outer {
		g.l.mu.Lock()
		delete(g.l.strangers, g)
		g.l.mu.Unlock()
	}
}

// Handle serves a connection and returns when it has ended; peer is the chain of
// certificates whose key the client has proved to hold. The connection comes with
// the deadline that Options.Timeout has set, for Handle to change, and is closed
// after it.
type Handle func(ctx context.Context, nc net.Conn, peer []*x509.Certificate)

// New returns a Listener that does nothing yet.
func New(opts Options) *Listener {
	l := &Listener{opts: opts, strangers: make(map[*guest]struct{})}
	if opts.TLS != nil {
		l.tls = opts.TLS.Clone()
		l.tls.ClientAuth = tls.RequestClientCert
	}
	return l
}

// Serve accepts connections until the context ends or the listener fails, then
// ends all of them and waits. It closes ln. It returns nil when the context ended
// it. A temporary failure to accept (no file descriptors) is waited out.
func (l *Listener) Serve(ctx context.Context, ln net.Listener, handle Handle) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			l.opts.Logger.Warn(l.opts.Protocol+" listener close", "err", err)
		}
	})
	delay := time.Duration(0)
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			wg.Go(func() { l.accepted(ctx, nc, handle) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("%s accept: %w", l.opts.Protocol, err)
		default:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			l.opts.Logger.Warn(l.opts.Protocol+" accept", "err", err, "retryIn", delay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
		}
	}
}

// accepted does the TLS handshake and serves one connection.
func (l *Listener) accepted(ctx context.Context, nc net.Conn, handle Handle) {
	raw := nc
	if l.tls != nil {
		nc = tls.Server(nc, l.tls)
	}
	l.Conn(ctx, raw, func(ctx context.Context, _ net.Conn, peer []*x509.Certificate) {
		if tc, ok := nc.(*tls.Conn); ok {
			if err := tc.HandshakeContext(ctx); err != nil {
				l.opts.Logger.Debug(l.opts.Protocol+" TLS handshake", "remote", nc.RemoteAddr(), "err", err)
				return
			}
			peer = tc.ConnectionState().PeerCertificates
		}
		handle(ctx, nc, peer)
	})
}

// Conn serves one connection that something else has accepted, such as a WebSocket,
// and counts it like the others. handle gets no certificates.
func (l *Listener) Conn(ctx context.Context, nc net.Conn, handle Handle) {
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(l.opts.Timeout)); err != nil {
		return // it has ended already
	}
	g := l.admit(nc)
	if g == nil {
		return
	}
	defer l.leave(g)
	g.outer, _ = ctx.Value(guestKey{}).(*guest)
	handle(context.WithValue(ctx, guestKey{}, g), nc, nil)
}

// admit gives a connection a place, which another may have to leave for it; nil if it gets
// none.
func (l *Listener) admit(nc net.Conn) *guest {
	g, victim := l.enter(nc)
	if victim != nil {
		l.opts.Logger.Warn(l.opts.Protocol+" connection gives way: too many connections", "remote", victim.RemoteAddr())
		_ = victim.Close() // which ends its Handle
	}
	if g == nil {
		l.opts.Logger.Warn(l.opts.Protocol+" connection refused: too many connections", "remote", nc.RemoteAddr())
	}
	return g
}

// enter counts an open connection against MaxConnections. When there are as many, the
// oldest of those gives way that are not known and come from where most of these come
// from: so nobody keeps others out by connections from one place that say nothing. The
// connection is nil when it comes from there itself, or all are known.
func (l *Listener) enter(nc net.Conn) (g *guest, victim net.Conn) {
	g = &guest{l: l, nc: nc, source: source(nc)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.MaxConnections > 0 && l.open >= l.opts.MaxConnections {
		old := l.crowd(g.source)
		if old == nil {
			return nil, nil
		}
		old.gone, victim = true, old.nc
		delete(l.strangers, old)
		l.open--
	}
	l.open++
	l.last++
	g.number = l.last
	l.strangers[g] = struct{}{}
	return g, victim
}

// crowd is the oldest stranger from where most come from; nil if that is where a
// newcomer comes from, or if there is none.
func (l *Listener) crowd(newcomer string) *guest {
	count := make(map[string]int)
	for g := range l.strangers {
		count[g.source]++
	}
	most := newcomer // of equal crowds its own has to yield nothing
	for s, n := range count {
		if n > count[most] || n == count[most] && most != newcomer && s < most {
			most = s
		}
	}
	if most == newcomer {
		return nil
	}
	var oldest *guest
	for g := range l.strangers {
		if g.source == most && (oldest == nil || g.number < oldest.number) {
			oldest = g
		}
	}
	return oldest
}

func source(nc net.Conn) string {
	a := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(a); err == nil {
		return host
	}
	return a
}

func (l *Listener) leave(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !g.gone {
		l.open--
	}
	delete(l.strangers, g)
}
