package client

import (
	"errors"
	"fmt"
)

// Errors of a Client. All are wrapped by what methods return and by
// Connection.Err.
var (
	// ErrNotConnected: there is no connection now and Options.Retry is off. The
	// request was not sent.
	ErrNotConnected = errors.New("not connected")
	// ErrConnectionLost: the connection ended before the hub answered. The request
	// may have been carried out.
	ErrConnectionLost = errors.New("connection lost")
	// ErrClosed: Run has ended or is ending. Permanent.
	ErrClosed = errors.New("client is closed")
	// ErrUnauthorized: the hub refused the credentials. The client goes on trying,
	// because a hub that starts may not know its devices yet.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrRefused: the hub refused the connection for another reason, or a
	// subscription.
	ErrRefused = errors.New("refused by the hub")
	// ErrRejected: the hub refused a message for what it is. Permanent for this
	// message. Over MQTT no hub can say so.
	ErrRejected = errors.New("rejected by the hub")
	// ErrTooLarge: the message or patch is larger than any hub accepts. Permanent
	// for this message.
	ErrTooLarge = errors.New("too large")
	// ErrTimeout: the hub did not answer a twin request in time.
	ErrTimeout = errors.New("no answer from the hub in time")
	// ErrOverflow ends a connection on which the hub sent more than the handlers
	// could take and the queue could hold. What was not acknowledged comes again.
	ErrOverflow = errors.New("too many undelivered messages")
	// ErrReject is wrapped by what a handler of messages returns to give a message
	// up: the hub does not deliver it again and may tell its sender so. MQTT has no
	// way to say that; there the message is acknowledged.
	ErrReject = errors.New("message is given up")
	// ErrKeep is wrapped by what a handler of messages returns to leave the message
	// unsettled: it comes again when the connection has ended or the hub's patience
	// with this delivery. Other errors give it back at once where the protocol can.
	ErrKeep = errors.New("message is left unsettled")
	// ErrOptions is wrapped by errors about unusable options or environment.
	ErrOptions = errors.New("invalid options")
)

// errGoodbye ends a link that the client itself gave up, to renew its token or
// because Run ends.
var errGoodbye = fmt.Errorf("%w: closed by this client", ErrConnectionLost)

// errNotTaken: the link ended before it took the request. The client looks for
// another link.
var errNotTaken = errors.New("link is closed")

// StatusError is a refusal of a twin request.
type StatusError struct {
	Status  int    // as HTTP
	Message string // the hub's own words, perhaps none
}

func (e *StatusError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("status %d from the hub", e.Status)
	}
	return fmt.Sprintf("status %d from the hub: %s", e.Status, e.Message)
}
