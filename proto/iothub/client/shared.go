package client

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// SharedOptions configure NewShared. Zero values but that of Host mean those of
// Options.
type SharedOptions struct {
	// Protocol is AMQP or AMQPWS.
	Protocol Protocol
	// Host is what to dial and whose certificate to check.
	Host string
	// Port is that of the protocol if 0.
	Port int
	// Fallback is as in Options.
	Fallback bool
	// RootCAs are trusted in place of the system's roots, if not nil; Roots as in
	// Options.
	RootCAs *x509.CertPool
	Roots   func() *x509.CertPool
	// Dial opens the network connection, as in Options.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepAlive is the idle timeout, as in Options.
	KeepAlive time.Duration
	// RequestTimeout bounds the wait for the answer to a token.
	RequestTimeout time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts to connect.
	MinBackoff, MaxBackoff time.Duration
	// MaxIdentities is how many clients use one connection; 995 if 0, at most that.
	// For more another connection is opened.
	MaxIdentities int
	// Logger gets details; nil discards them.
	Logger *slog.Logger
}

// maxIdentities leaves sessions of a connection for tokens and for what ends late.
const maxIdentities = maxSessions - 5

// Shared is an AMQP connection for many clients, each of which has a session and a
// token of its own on it: when the hub refuses or drops one, the others do not
// notice. When the connection is lost all clients notice at once, and the first
// that comes back connects for all.
//
// The connection is there while clients need it. There is nothing to close: the
// last client takes it down. A Shared may be used concurrently.
type Shared struct {
	o  SharedOptions
	at endpoint

	mu       sync.Mutex
	conns    []*amqpConn   // that have not been seen to end
	dialing  chan struct{} // closed when the attempt under way has ended; nil without
	failures int           // in a row
	after    time.Time     // no attempt before
	lastErr  error         // of the last attempt
}

// NewShared makes a shared connection. Errors wrap ErrOptions.
func NewShared(o SharedOptions) (*Shared, error) {
	switch {
	case !o.Protocol.isAMQP():
		return nil, fmt.Errorf("%w: connections are shared with AMQP only", ErrOptions)
	case o.Fallback && o.Protocol != AMQP:
		return nil, fmt.Errorf("%w: fallback of another protocol than AMQP", ErrOptions)
	case o.Host == "":
		return nil, fmt.Errorf("%w: no host", ErrOptions)
	case o.MaxIdentities < 0 || o.MaxIdentities > maxIdentities:
		return nil, fmt.Errorf("%w: identities of a connection", ErrOptions)
	case o.Port < 0 || o.Port > 65535 || o.KeepAlive < 0 || o.RequestTimeout < 0 || o.MinBackoff < 0 || o.MaxBackoff < 0:
		return nil, fmt.Errorf("%w: negative value or port", ErrOptions)
	}
	setDefault(&o.Port, o.Protocol.Port())
	setDefault(&o.KeepAlive, time.Minute)
	setDefault(&o.RequestTimeout, 30*time.Second)
	setDefault(&o.MinBackoff, 2*time.Second)
	setDefault(&o.MaxBackoff, time.Minute)
	setDefault(&o.MaxIdentities, maxIdentities)
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Shared{o: o, at: endpoint{
		protocol: o.Protocol, host: o.Host, port: o.Port, rootCAs: o.RootCAs, roots: o.Roots, dial: o.Dial, fallback: o.Fallback,
	}}, nil
}

// hold returns a connection with room for one more client, made if need be. It is
// there until release is called.
func (s *Shared) hold(ctx context.Context) (*amqpConn, error) {
	for {
		s.mu.Lock()
		if c := s.findLocked(); c != nil {
			c.users++
			s.mu.Unlock()
			return c, nil
		}
		if dialing := s.dialing; dialing != nil {
			s.mu.Unlock()
			select {
			case <-dialing:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			continue
		}
		if wait := time.Until(s.after); wait > 0 {
			err := s.lastErr
			s.mu.Unlock()
			return nil, fmt.Errorf("no attempt to connect for %s: %w", wait.Round(time.Millisecond), err)
		}
		dialing := make(chan struct{})
		s.dialing = dialing
		s.mu.Unlock()
		c, err := dialAMQP(ctx, s.at, s.o.KeepAlive, s.o.RequestTimeout)
		s.dialed(ctx, c, err)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// findLocked returns a connection with room, or nil, and forgets those that have
// ended.
func (s *Shared) findLocked() *amqpConn {
	var found *amqpConn
	alive := s.conns[:0]
	for _, c := range s.conns {
		if !c.alive() {
			s.lostLocked(c)
			continue
		}
		alive = append(alive, c)
		if found == nil && c.users < s.o.MaxIdentities {
			found = c
		}
	}
	clear(s.conns[len(alive):])
	s.conns = alive
	return found
}

// dialed ends an attempt. When its own client gave it up, that says nothing of the
// hub, and the next client tries at once.
func (s *Shared) dialed(ctx context.Context, c *amqpConn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.dialing)
	s.dialing = nil
	switch {
	case err == nil:
		c.users = 1
		s.conns = append(s.conns, c)
		s.o.Logger.Debug("shared connection is up", "host", s.at.host, "protocol", s.at.protocol.String())
	case ctx.Err() == nil:
		s.pauseLocked(err)
	}
}

// lostLocked notes the end of a connection. One that did not last counts as a
// failed attempt.
func (s *Shared) lostLocked(c *amqpConn) {
	err := c.err()
	s.o.Logger.Warn("shared connection is lost", "host", s.at.host, "identities", c.users, "err", err)
	if time.Since(c.up) >= stableAfter {
		s.failures = 0
		return
	}
	s.pauseLocked(err)
}

// pauseLocked sets when to try again: not later than any client does that has seen
// as many failures. Theirs are spread by chance, and the first connects for all.
func (s *Shared) pauseLocked(err error) {
	s.lastErr = err
	s.after = time.Now().Add(leastBackoff(s.o.MinBackoff, s.o.MaxBackoff, s.failures))
	s.failures++
}

// release gives a connection back. The last client closes it, for as long as ctx
// allows.
func (s *Shared) release(ctx context.Context, c *amqpConn) {
	s.mu.Lock()
	c.users--
	last := c.users == 0
	if last {
		for i, other := range s.conns {
			if other != c {
				continue
			}
			if !c.alive() {
				s.lostLocked(c)
			}
			s.conns = append(s.conns[:i], s.conns[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if last {
		c.close(ctx)
	}
}
