// Package upstream is edge hub's side to the cloud: one connection for each
// identity that has something to say, opened when it is first needed and closed
// when it was idle for long. Over AMQP these are sessions of one network
// connection. Messages are pipelined, in order for each sender.
//
// The pool does not know the protocol: a Dialer makes connections.
package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Conn is the connection of one identity. It reconnects by itself for as long as
// Run runs. All methods may be called concurrently, and before Run.
type Conn interface {
	// Run keeps the connection until ctx ends.
	Run(ctx context.Context) error
	// SendAsync sends a message; done is called once, with nil when the cloud has
	// acknowledged it, possibly before SendAsync returns. It does not block. After
	// a message has failed those of its lane fail too, until one is First.
	SendAsync(m *iothub.Message, lane Lane, done func(error))
	Twin(ctx context.Context) (iothub.TwinProperties, error)
	PatchReported(ctx context.Context, patch json.RawMessage) error
	// Subscribe adds callbacks that are wanted from now on.
	Subscribe(want Wants)
}

// Lane is where a message stands: those of one sender and priority keep their
// order.
type Lane struct {
	Priority uint32
	// First: nothing else of the lane is under way, and whoever sends knows of all
	// that failed. A lane begins with such a message on each connection.
	First bool
}

// Wants says what an identity wants to hear from the cloud.
type Wants struct{ Desired, Methods, C2D bool }

// moreThan tells whether there is something in w that is not in o.
func (w Wants) moreThan(o Wants) bool {
	return w.Desired && !o.Desired || w.Methods && !o.Methods || w.C2D && !o.C2D
}

// Callbacks are what a connection calls. Their contexts end with the connection.
type Callbacks struct {
	// State tells that the connection is up, or why it is not (err not nil).
	State   func(up bool, err error)
	Desired func(ctx context.Context, patch json.RawMessage, version int64)
	Method  func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse
	// C2D returns nil when the device has completed the message.
	C2D func(ctx context.Context, m *iothub.Message) error
}

// Dialer makes a connection for an identity, without waiting for anything. An
// error that wraps ErrNoIdentity says that it may not speak for it. With a function the
// identity logs in by its own token, the one that the function gives at the time.
type Dialer func(id iothub.Identity, token func() string, c Callbacks) (Conn, error)

// Errors of the package.
var (
	// ErrNoIdentity: the identity is disabled, gone or not below this gateway.
	ErrNoIdentity = errors.New("no such identity below this gateway")
	// ErrDown: there is no connection to the cloud now.
	ErrDown = errors.New("cloud is not connected")
	// ErrMessage: the cloud will never take this message or patch.
	ErrMessage = errors.New("message cannot be sent")
	// ErrHanging: the connection was up, and nothing came of it.
	ErrHanging = errors.New("cloud does not answer")
)

// Handler is who hears what the cloud says to an identity. CloudState must not
// block, nor call the Pool for anything but CloseOthers and CloseBelow.
type Handler interface {
	CloudState(id iothub.Identity, up bool, err error)
	CloudDesired(ctx context.Context, id iothub.Identity, patch json.RawMessage, version int64)
	CloudMethod(ctx context.Context, id iothub.Identity, r iothub.MethodRequest) iothub.MethodResponse
	CloudMessage(ctx context.Context, id iothub.Identity, m *iothub.Message) error
}

// Options configure a Pool. Zero values mean the defaults.
type Options struct {
	Idle time.Duration // close after this time without use: 1 h; negative: never
	Max  int           // connections at a time: 1000
	// Hanging is how long calls and messages of a connection that is up may wait
	// without any of them being answered. Then it is taken for broken and made anew.
	// 0: for ever.
	Hanging time.Duration
	// KeepForUnknown makes messages of an identity that may not log in fail as those
	// of one that is not connected.
	KeepForUnknown bool
	// Token gives the function for the Dialer of an identity that logs in by its own
	// token; nil, as its result may be: the hub speaks for it.
	Token  func(id iothub.Identity) func() string
	Logger *slog.Logger
}
