package client

import (
	"context"
	"encoding/json"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// features is a set of things that a client wants to receive.
type features uint8

const (
	featInputs features = 1 << iota
	featC2D
	featDesired
	featMethods
	featTwin // answers to twin requests
)

// transport makes links: connections that are logged in, over MQTT or AMQP.
type transport interface {
	// connect logs in and starts to receive into in. ctx bounds the attempt.
	connect(ctx context.Context, cred credential, in receiver) (link, error)
}

// link is one connection, from login to its end. All methods but close may be
// called from many goroutines. Errors that wrap errNotTaken say that the link was
// closed before it took the request; ErrConnectionLost that it ended after.
type link interface {
	// enable subscribes to what is not subscribed yet and waits for the hub.
	enable(ctx context.Context, f features) error
	// send takes a message, waiting while the window is full, until ctx ends. When
	// it returns nil, done is called exactly once, from the link's reader or from
	// close, and must not block.
	send(ctx context.Context, m *iothub.Message, done func(error)) error
	twin(ctx context.Context) (iothub.TwinProperties, error)
	patchReported(ctx context.Context, patch json.RawMessage) (version int64, err error)
	// respond queues the answer to a method request of this link.
	respond(ctx context.Context, id string, r iothub.MethodResponse) error
	// renew presents a new token and leaves everything else as it is. The error is
	// errors.ErrUnsupported if only a new link can do that; after any other the
	// old token still holds.
	renew(ctx context.Context, cred credential) error
	// idle is closed when nothing that was taken waits for the hub's answer.
	idle() <-chan struct{}
	// ended is closed when the connection is of no more use; err then says why.
	ended() <-chan struct{}
	err() error
	// fail ends the connection at once.
	fail(err error)
	// close says goodbye if it can, waits for the link's goroutines and calls all
	// outstanding done functions, in the order of sending. ctx bounds the goodbye.
	close(ctx context.Context)
}

// receiver takes what a link receives. Its methods do not block, except for
// messageWait.
type receiver interface {
	// message reports false when the queue of messages is full.
	message(delivery) bool
	// messageWait waits for room in the queue of messages. It reports false when ctx
	// ended first.
	messageWait(ctx context.Context, d delivery) bool
	// desired reports false when the queue of patches is full.
	desired(patch json.RawMessage, version int64) bool
	// method reports false when too many methods run already.
	method(l link, id string, r iothub.MethodRequest) bool
}

// delivery is one received message.
type delivery struct {
	input string // empty for cloud-to-device messages
	m     *iothub.Message
	// done is called once, when nothing more happens to the message, and tells the
	// hub, unless the link has ended.
	done func(outcome)
	// current tells whether the message may still be handled: its link is up, or it
	// will not be delivered again.
	current func() bool
}

// outcome is what became of a received message.
type outcome uint8

const (
	handled  outcome = iota // never again
	returned                // again, now or later
	refused                 // never again, and it was not taken
	kept                    // again when the hub thinks that this client has lost it
)
