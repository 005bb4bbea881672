package mqtt

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Flavor chooses between the two hubs where they behave differently (spec
// iothub-mqtt 17).
type Flavor uint8

// Flavors.
const (
	// Edge: user names by edgeHub's strict grammar, refused with code 3; all
	// filters but another identity's are granted; publishes to unknown topics are
	// dropped and acknowledged; mqtt-dup and mqtt-qos count.
	Edge Flavor = iota
	// Cloud: lenient user names, refused with code 5; unknown filters get 0x80;
	// publishes to unknown topics end the connection.
	Cloud
)

// Options configure a Server. Backend and Logger are required, the others have
// defaults.
type Options struct {
	Backend head.Backend
	Logger  *slog.Logger
	Flavor  Flavor

	// TLS wraps the connections that Serve accepts. A client certificate is asked
	// for but not required, whatever ClientAuth says. With nil the listener's
	// connections are used as they are.
	TLS *tls.Config

	// Other, if not nil, takes the connections that are its own.
	Other Other

	// Sessions keeps subscriptions of clients with clean session 0; in memory by
	// default.
	Sessions SessionStore

	// MaxClients is the number of identities that may be connected at once; 0 is
	// no limit. A client more is refused with code 3.
	MaxClients int
	// MaxConnections bounds open sockets, authenticated or not; more are closed at
	// once. By default twice MaxClients and 64, or no limit without MaxClients.
	MaxConnections int

	// ConnectTimeout is the time from the accepted socket to the end of the
	// CONNECT packet, the TLS handshake included (60 s).
	ConnectTimeout time.Duration
	// AuthTimeout bounds Backend.Connect (30 s).
	AuthTimeout time.Duration
	// WriteTimeout is how long one write may wait for a client that does not read
	// (30 s).
	WriteTimeout time.Duration
	// MaxKeepAlive caps the time without a packet after which a connection is
	// lost, which otherwise is 1.5 times the client's keep-alive; it also stands
	// for a keep-alive of 0 (600 s for Edge, 1767 s for Cloud).
	MaxKeepAlive time.Duration

	// MaxUnacked and MaxUnackedBytes bound the publishes of one client that the
	// Backend has not accepted yet; then its socket is not read (256, 4 MiB).
	MaxUnacked      int
	MaxUnackedBytes int
	// Window bounds the QoS 1 messages on their way to one client without PUBACK
	// (128 for Edge, 16 for Cloud); twin and method traffic is not counted.
	Window int
	// MaxQueued and MaxQueuedBytes bound what waits for the window; a client that
	// lets it overflow is disconnected (1024, 64 MiB). The bodies are shared with
	// the Backend, whose own windows decide how much there is: these bounds must be
	// above them, or a client is cut off that is merely behind.
	MaxQueued      int
	MaxQueuedBytes int
	// MaxMessageSize is the limit for iothub.Message.Size (256 KiB).
	MaxMessageSize int
	// MaxSubscriptions bounds the filters of one client; more get 0x80 (100 for
	// Edge, 5 for Cloud).
	MaxSubscriptions int

	Events Events
}

// Events are called as things happen, concurrently and from the connection's own
// goroutines: they must be quick. Each may be nil. id is zero where it is unknown.
type Events struct {
	ConnectSucceeded func(id iothub.Identity)
	// ConnectFailed: reason is one of the Reason constants.
	ConnectFailed func(id iothub.Identity, reason string)
	// Disconnected is called for connections that had been accepted; err is nil
	// after an orderly goodbye.
	Disconnected func(id iothub.Identity, err error)
	// MessageReceived counts telemetry handed to the Backend, MessageSent
	// deliveries written to the client. size is that of the body.
	MessageReceived func(id iothub.Identity, size int)
	MessageSent     func(id iothub.Identity, size int)
}

// Reasons for ConnectFailed.
const (
	ReasonProtocol         = "protocol"
	ReasonUsername         = "username"
	ReasonClientID         = "client_id"
	ReasonWill             = "will"
	ReasonNotAuthenticated = "not_authenticated"
	ReasonUnavailable      = "unavailable"
	ReasonTooManyClients   = "too_many_clients"
	ReasonSessionStore     = "session_store"
	ReasonReplaced         = "replaced"
)

// topicRoom is what a packet may hold beyond MaxMessageSize: topic and header.
const topicRoom = 64<<10 + 16

func (o *Options) setDefaults() error {
	if o.Backend == nil {
		return errors.New("mqtt options: no backend")
	}
	if o.Logger == nil {
		return errors.New("mqtt options: no logger")
	}
	if o.Sessions == nil {
		o.Sessions = NewMemorySessions()
	}
	keepAlive, window, subscriptions := 600*time.Second, 128, 100
	if o.Flavor == Cloud {
		keepAlive, window, subscriptions = 1767*time.Second, 16, 5
	}
	defaultTo(&o.MaxKeepAlive, keepAlive)
	defaultTo(&o.Window, window)
	defaultTo(&o.MaxSubscriptions, subscriptions)
	defaultTo(&o.ConnectTimeout, 60*time.Second)
	defaultTo(&o.AuthTimeout, 30*time.Second)
	defaultTo(&o.WriteTimeout, 30*time.Second)
	defaultTo(&o.MaxUnacked, 256)
	defaultTo(&o.MaxUnackedBytes, 4<<20)
	defaultTo(&o.MaxQueued, 1024)
	defaultTo(&o.MaxQueuedBytes, 64<<20)
	defaultTo(&o.MaxMessageSize, iothub.MaxMessageSize)
	if o.MaxConnections == 0 && o.MaxClients > 0 {
		o.MaxConnections = 2*o.MaxClients + 64
	}
	return nil
}

func defaultTo[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}
