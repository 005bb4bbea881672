package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/Azure/go-amqp"
)

// writeLimit is how long the hub may leave unread what is written to it.
const writeLimit = 20 * time.Second

// maxSessions bounds the sessions of a connection, one of them for tokens. A hub
// takes 1000 identities or more on a connection (iothub-amqp.md 3.2). It must not be
// exceeded: go-amqp closes the connection then, with all that is on it.
const maxSessions = 1000

// amqpConn is one AMQP connection with its node for tokens. It may be used
// concurrently.
type amqpConn struct {
	conn    *amqp.Conn
	stream  *stream
	timeout time.Duration // for the answer to a token
	tokens  tokenNode
	users   int // guarded by whoever shares the connection
	up      time.Time
}

// dialAMQP connects and logs in, in a WebSocket if it must be and may be.
func dialAMQP(ctx context.Context, at endpoint, keepAlive, timeout time.Duration) (*amqpConn, error) {
	if !at.fallback {
		return dialOne(ctx, at, keepAlive, timeout)
	}
	first := ctx
	if deadline, ok := ctx.Deadline(); ok { // a port that is closed by a firewall may say nothing
		var cancel context.CancelFunc
		first, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	c, err := dialOne(first, at, keepAlive, timeout)
	if err == nil || ctx.Err() != nil || errors.Is(err, errLogin) && first.Err() == nil {
		return c, err
	}
	at.protocol, at.port = AMQPWS, AMQPWS.Port()
	c, second := dialOne(ctx, at, keepAlive, timeout)
	if second != nil {
		return nil, fmt.Errorf("%w; in a WebSocket: %w", err, second)
	}
	return c, nil
}

// dialOne connects and logs in. With a token that is SASL ANONYMOUS, because the
// token follows on its own; with a client certificate EXTERNAL, or no SASL at all
// if the hub does not know that: then the certificate alone counts, as for most
// SDKs (iothub-amqp.md 2).
func dialOne(ctx context.Context, at endpoint, keepAlive, timeout time.Duration) (*amqpConn, error) {
	if at.certificate == nil {
		return loginAMQP(ctx, at, amqp.SASLTypeAnonymous(), keepAlive, timeout)
	}
	c, err := loginAMQP(ctx, at, amqp.SASLTypeExternal(""), keepAlive, timeout)
	if err == nil || ctx.Err() != nil || !errors.Is(err, errLogin) {
		return c, err
	}
	return loginAMQP(ctx, at, nil, keepAlive, timeout)
}

// errLogin: the network is there, and the hub does not open an AMQP connection.
var errLogin = errors.New("AMQP login")

func loginAMQP(ctx context.Context, at endpoint, sasl amqp.SASLType, keepAlive, timeout time.Duration) (*amqpConn, error) {
	s, err := at.open(ctx)
	if err != nil {
		return nil, err
	}
	var nc net.Conn = s
	if s.ws == nil { // in a WebSocket each frame is a message of its own
		nc = newGathered(s, writeLimit)
	}
	// go-amqp closes the connection when ctx ends, which waits for what is written.
	stop := context.AfterFunc(ctx, s.hangUp)
	conn, err := amqp.NewConn(ctx, nc, &amqp.ConnOptions{
		HostName:     at.host,
		IdleTimeout:  keepAlive,
		MaxSessions:  maxSessions - 1, // it is the highest channel
		SASLType:     sasl,
		WriteTimeout: writeLimit,
	})
	if !stop() {
		if err == nil {
			_ = conn.Close()
		}
		err = context.Cause(ctx)
	}
	if err != nil {
		s.hangUp()
		_ = nc.Close()
		return nil, fmt.Errorf("%w: %w", errLogin, amqpError(err))
	}
	c := &amqpConn{conn: conn, stream: s, timeout: timeout, up: time.Now()}
	c.tokens.init(c)
	return c, nil
}

// session begins a session.
func (c *amqpConn) session(ctx context.Context) (*amqp.Session, error) {
	s, err := c.conn.NewSession(patient{ctx}, nil)
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	return s, nil
}

// alive tells whether the connection is of use.
func (c *amqpConn) alive() bool {
	select {
	case <-c.conn.Done():
		return false
	default:
		return true
	}
}

// err returns why the connection has ended.
func (c *amqpConn) err() error {
	if err := c.conn.Err(); err != nil {
		return amqpError(err)
	}
	return errors.New("AMQP connection is closed")
}

// close says goodbye, for as long as ctx allows, and waits for all goroutines of
// the connection.
func (c *amqpConn) close(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.stream.hangUp)
	defer stop()
	_ = c.conn.Close() // why it ended is known to those who used it
	c.tokens.wait()
}

// patient is a context without its deadline, for go-amqp: that takes the deadline
// of a request for the deadline of writing to the network, and a write that misses
// it ends the connection, of which others have their sessions. The end of the
// context is still seen.
type patient struct{ context.Context }

func (patient) Deadline() (time.Time, bool) { return time.Time{}, false }

// Conditions beyond those that go-amqp names (iothub-amqp.md 9).
const (
	condNoHub           amqp.ErrCond = "com.microsoft:iot-hub-not-found-error"
	condArgument        amqp.ErrCond = "com.microsoft:argument-error"
	condArgumentOutside amqp.ErrCond = "com.microsoft:argument-out-of-range"
)

// condition returns the AMQP error condition inside an error, or "".
func condition(err error) amqp.ErrCond {
	var e *amqp.Error
	if errors.As(err, &e) && e != nil {
		return e.Condition
	}
	return ""
}

// amqpError makes the client's error of what ended or refused a link.
func amqpError(err error) error {
	switch condition(err) {
	case amqp.ErrCondUnauthorizedAccess, amqp.ErrCondNotFound, condNoHub:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return err
}

// rejection makes the error of a message that the hub rejected; nil if the reason
// may pass, so that the message is to be sent again.
func rejection(e *amqp.Error) error {
	if e == nil {
		return ErrRejected
	}
	switch e.Condition {
	case amqp.ErrCondMessageSizeExceeded:
		return fmt.Errorf("%w: %w", ErrTooLarge, e)
	case amqp.ErrCondNotImplemented, amqp.ErrCondNotAllowed, amqp.ErrCondInvalidField, amqp.ErrCondDecodeError,
		amqp.ErrCondPreconditionFailed, condArgument, condArgumentOutside:
		return fmt.Errorf("%w: %w", ErrRejected, e)
	}
	return nil
}

// over tells whether an error of go-amqp says that a link, its session or its
// connection has ended.
func over(err error) bool {
	var (
		link    *amqp.LinkError
		session *amqp.SessionError
		conn    *amqp.ConnError
	)
	return errors.As(err, &link) || errors.As(err, &session) || errors.As(err, &conn)
}
