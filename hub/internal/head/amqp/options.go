package amqp

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Flavor chooses between the two hubs where they behave differently (spec
// iothub-amqp 16).
type Flavor uint8

// Flavors.
const (
	// Edge: an unknown address is refused with amqp:not-allowed; desired changes are
	// sent from when the twin is attached; a token that cannot be checked now is
	// taken and checked with the first link.
	Edge Flavor = iota
	// Cloud: an unknown address is refused with amqp:not-found; desired changes have
	// to be asked for; tokens are checked at once.
	Cloud
)

// Options configure a Server. Backend and Logger are required, the others have
// defaults.
type Options struct {
	Backend head.Backend
	// Services serves the links of back ends; nil refuses them.
	Services head.ServiceBackend
	// Events is the event-hub-compatible endpoint; nil if there is none. It needs
	// Services, which say who may read.
	Events head.EventHub
	Logger *slog.Logger
	Flavor Flavor

	// TLS wraps the connections that Serve accepts. A client certificate is asked
	// for but not required, whatever ClientAuth says. With nil the listener's
	// connections are used as they are.
	TLS *tls.Config

	// MaxConnections bounds open sockets, authenticated or not; more are closed at
	// once. 0 is no limit.
	MaxConnections int
	// MaxIdentities bounds the identities of one connection (2048).
	MaxIdentities int

	// ConnectTimeout is the time from the accepted socket to the open connection,
	// TLS and SASL included, and then once more until the first valid token or link
	// (60 s).
	ConnectTimeout time.Duration
	// AuthTimeout bounds Backend.Connect and Check (30 s).
	AuthTimeout time.Duration
	// WriteTimeout is how long a client may leave what is written unread (30 s).
	WriteTimeout time.Duration
	// IdleTimeout is how long a client may be silent (4 min).
	IdleTimeout time.Duration

	// Window bounds the messages of one link that the Backend has not accepted yet,
	// MaxUnackedBytes those of one connection; then it is not read (256, 4 MiB).
	Window          int
	MaxUnackedBytes int
	// MaxQueued bounds the messages on their way to one link without outcome or
	// credit (1024).
	MaxQueued int
	// MaxMessageSize is the limit for iothub.Message.Size (256 KiB).
	MaxMessageSize int
}

const (
	// maxTransfer is announced as the largest transfer; a batch may hold several
	// messages of MaxMessageSize.
	maxTransfer = 1 << 20
	// maxBatch is the largest batch (spec iothub-amqp 7.2).
	maxBatch = 600 << 10
	// maxServiceMessage is the largest message for a device (spec iothub-amqp 10.1).
	maxServiceMessage = 64 << 10
)

func (o *Options) setDefaults() error {
	if o.Backend == nil {
		return errors.New("amqp options: no backend")
	}
	if o.Events != nil && o.Services == nil {
		return errors.New("amqp options: events without services")
	}
	if o.Logger == nil {
		return errors.New("amqp options: no logger")
	}
	defaultTo(&o.MaxIdentities, 2048)
	defaultTo(&o.ConnectTimeout, 60*time.Second)
	defaultTo(&o.AuthTimeout, 30*time.Second)
	defaultTo(&o.WriteTimeout, 30*time.Second)
	defaultTo(&o.IdleTimeout, 4*time.Minute)
	defaultTo(&o.Window, 256)
	defaultTo(&o.MaxUnackedBytes, 4<<20)
	defaultTo(&o.MaxQueued, 1024)
	defaultTo(&o.MaxMessageSize, iothub.MaxMessageSize)
	return nil
}

func defaultTo[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}
