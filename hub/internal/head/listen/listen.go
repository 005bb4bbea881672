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
	// MaxConnections open at once; 0 for no limit.
	MaxConnections int
	Logger         *slog.Logger
}

// Listener accepts connections. Its methods may be called concurrently.
type Listener struct {
	opts Options
	tls  *tls.Config

	mu   sync.Mutex
	open int
}

// Handle serves a connection and returns when it has ended; peer is the chain of
// certificates whose key the client has proved to hold. The connection comes with
// the deadline that Options.Timeout has set, for Handle to change, and is closed
// after it.
type Handle func(ctx context.Context, nc net.Conn, peer []*x509.Certificate)

// New returns a Listener that does nothing yet.
func New(opts Options) *Listener {
	l := &Listener{opts: opts}
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
	if !l.enter() {
		l.opts.Logger.Warn(l.opts.Protocol+" connection refused: too many connections", "remote", nc.RemoteAddr())
		return
	}
	defer l.leave()
	handle(ctx, nc, nil)
}

// enter counts an open connection against MaxConnections.
func (l *Listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.MaxConnections > 0 && l.open >= l.opts.MaxConnections {
		return false
	}
	l.open++
	return true
}

func (l *Listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}
