// Package head declares what a protocol head (MQTT, AMQP, HTTP) and the hub behind
// it need of each other. The heads are written once and serve both edgehub and
// iothub; each of those is a Backend.
//
// Life of a connection: the head reads who wants to come in (Login), the Backend
// authenticates and answers with a Session, and from then on the head calls the
// Session for what the client sends while the Backend calls the Client for what
// goes to it. Either side may end it: the head by Session.Close, the Backend by
// Client.Disconnect. A Backend keeps at most one Session an identity, over all
// protocols: the newest wins.
package head

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Errors that a Backend gives to a head. The head translates them to its
// protocol; every other error is an internal one (MQTT 3, HTTP 500).
var (
	// ErrUnauthorized: the credentials do not authenticate the identity; final.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrUnavailable: it cannot be decided or done now; the client may try again.
	ErrUnavailable = errors.New("unavailable")
	// ErrInvalid: the request itself is wrong; the same request will fail again.
	ErrInvalid = errors.New("invalid request")
	// ErrTooLarge: a message, patch or payload is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrNotFound: the identity does not exist (any more).
	ErrNotFound = errors.New("not found")
	// ErrPrecondition: a version or etag does not match.
	ErrPrecondition = errors.New("precondition failed")
	// ErrThrottled: too much at once.
	ErrThrottled = errors.New("throttled")
	// ErrNotConnected: the target of a direct method is not connected to this hub
	// or takes no methods, did not come in time, or has gone without an answer.
	ErrNotConnected = errors.New("target is not connected")
	// ErrNoAnswer: the target of a direct method did not answer in time.
	ErrNoAnswer = errors.New("target did not answer")
)

// Reasons for Client.Disconnect and Session.Close.
var (
	// ErrReplaced: the same identity connected again.
	ErrReplaced = errors.New("replaced by a newer connection")
	// ErrExpired: the credentials have expired or are not valid any more.
	ErrExpired = errors.New("credentials expired")
	// ErrShutdown: the hub is going down.
	ErrShutdown = errors.New("hub is shutting down")
)

// Login is what a client says of itself when it connects.
type Login struct {
	Identity  iothub.Identity
	Protocol  string // "mqtt", "mqtt-ws", "amqp", "amqp-ws", "http"
	Remote    net.Addr
	Token     string              // SAS token; empty with a certificate
	Peer      []*x509.Certificate // chain that the client sent, leaf first; may be empty
	HubName   string              // host part of the user name; informative
	Product   string              // DeviceClientType
	ModelID   string
	AuthChain string // "target;...;actor" when an edge device speaks for the identity
	// CleanSession is false when subscriptions of an earlier connection shall hold.
	CleanSession bool
}

// What a client says of itself is kept with its session or stamped on its messages.
const (
	maxModelID = 2 << 10 // the longest identifier of a digital twin's model
	maxProduct = 1 << 10
	// MaxToken is the longest token that is looked at. Those of SDKs have a few hundred
	// bytes.
	MaxToken = 4 << 10
)

// Describe sets what a client says of its software and of its model. Too much of the
// one is cut, of the other left out.
func (l *Login) Describe(product, modelID string) {
	l.Product, l.ModelID = product[:min(len(product), maxProduct)], ""
	if len(modelID) <= maxModelID {
		l.ModelID = modelID
	}
}

// Feature is something that a client can subscribe to.
type Feature uint8

// Features, as spec iothub-mqtt.md 5.2 records them.
const (
	C2D Feature = iota
	Inputs
	Methods
	TwinResponses
	DesiredChanges
)

func (f Feature) String() string {
	switch f {
	case C2D:
		return "c2d"
	case Inputs:
		return "inputs"
	case Methods:
		return "methods"
	case TwinResponses:
		return "twinResponses"
	case DesiredChanges:
		return "desiredChanges"
	}
	return "unknown"
}

// Backend is the hub behind the heads.
type Backend interface {
	// Connect authenticates and admits a client, and disconnects (ErrReplaced) an
	// older one of the same identity after the new one is authenticated. Errors:
	// ErrUnauthorized, ErrUnavailable, ErrInvalid.
	Connect(ctx context.Context, login Login, client Client) (Session, error)
	// Check authenticates as Connect does and admits nobody: for protocols whose
	// clients show a token before they do anything with it. A login without
	// identity asks whether the token is that of a policy that may connect
	// devices. Errors as of Connect.
	Check(ctx context.Context, login Login) error
}

// Session is one admitted client, seen from the head. Methods may be called
// concurrently. After Close none may be called.
type Session interface {
	// Telemetry takes a message; done is called exactly once, possibly from
	// another goroutine and possibly before Telemetry returns, with nil when the
	// message is durably accepted. For messages of one session done is called in
	// the order of Telemetry. Telemetry blocks while too much waits. The Backend
	// stamps the sender; the head has removed sender properties of the client.
	Telemetry(ctx context.Context, m *iothub.Message, done func(error))
	// Twin returns the current twin.
	Twin(ctx context.Context) (iothub.TwinProperties, error)
	// PatchReported merges a patch (a JSON object). It returns the new version, or
	// 0 where the hub does not know it yet (edgehub). ifVersion is a precondition,
	// 0 for none. Errors: ErrInvalid (with text for the client), ErrTooLarge,
	// ErrPrecondition.
	PatchReported(ctx context.Context, patch json.RawMessage, ifVersion int64) (int64, error)
	// Subscribe and Unsubscribe tell what the client wants to receive from now
	// on. They only record and start; delivery follows through Client.
	Subscribe(f Feature)
	Unsubscribe(f Feature)
	// Renew replaces the credentials of the session by those of a login of the
	// same identity, if they hold; otherwise those it has stay. Errors as of
	// Backend.Connect.
	Renew(ctx context.Context, login Login) error
	// Close tells that the connection has ended; err is nil after an orderly
	// goodbye. The Backend makes no call to Client after Close returned.
	Close(err error)
}

// Storing is a Session that stores a single message sooner when the head lends it its
// goroutine.
type Storing interface {
	// TelemetryLater is Telemetry of a head that calls Store soon, in the same
	// goroutine. Before, the message is stored only if others are.
	TelemetryLater(ctx context.Context, m *iothub.Message, done func(error))
	// Store has what TelemetryLater was given stored. With a function, to be given
	// when the goroutine has nothing else to do, it may block for as long as the disk
	// takes; if it has done the work itself, it calls the function after done, which
	// may block on the network.
	Store(stored func())
}

// Outcome is how a client settled a delivery.
type Outcome uint8

// Outcomes.
const (
	// Complete: taken; forget it.
	Complete Outcome = iota
	// Abandon: not taken now; deliver again.
	Abandon
	// Reject: will never be taken; dead-letter or drop.
	Reject
	// Lost: the connection ended before the client settled.
	Lost
)

// Client is one connected client, seen from the Backend: implemented by heads.
// Methods may be called concurrently, do not block on the network for longer than
// it takes to queue a bounded amount, and after the connection ended do nothing
// (settle functions are then called with Lost).
type Client interface {
	// Deliver sends a message to a module input (input not empty) or a
	// cloud-to-device message (input empty). settled is called exactly once. It says
	// whether the outcome counts, which a client hears whose protocol has a word for it
	// (AMQP): it does not when it comes too late, when the message is another's by now,
	// or no more.
	Deliver(input string, m *iothub.Message, settled func(Outcome) (counts bool))
	// DesiredChanged sends a desired-properties patch; patch carries "$version".
	DesiredChanged(patch json.RawMessage, version int64)
	// InvokeMethod sends a direct-method request; answer is called at most once,
	// when the client answers. The Backend owns the time limit and must call
	// cancel when it stops waiting.
	InvokeMethod(name string, payload json.RawMessage, answer func(status int, payload json.RawMessage)) (cancel func())
	// Disconnect ends the connection. It returns at once; Session.Close follows.
	Disconnect(reason error)
}

// Windowed is implemented by a Client whose protocol lets the receiver say how
// many messages it takes (AMQP).
type Windowed interface {
	// Window is how many deliveries of a feature may be unsettled now. When it
	// grows, Session.Subscribe is called for the feature, also if it was before.
	// What is delivered beyond it waits.
	Window(f Feature) int
}

// Timeouts of direct methods (iothub-mqtt.md 11).
const (
	DefaultMethodTimeout = 30 * time.Second
	MaxMethodTimeout     = 300 * time.Second
)
