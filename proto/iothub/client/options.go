package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Options say who a client is and how it connects. Identity, HubName and one
// credential (Signer, Tokens or ClientCertificate) are needed; the zero value of
// everything else is usable.
type Options struct {
	// Identity is the device or module that the client is.
	Identity iothub.Identity
	// HubName is the name of the IoT Hub, also behind a gateway: the user name and
	// the token name it.
	HubName string
	// Host is what to dial and whose certificate to check; HubName if empty.
	Host string
	// Protocol is what the client speaks; MQTT if 0.
	Protocol Protocol
	// Port is that of the protocol if 0.
	Port int
	// Fallback makes a client of AMQP try AMQPWS on port 443 in each attempt in which
	// the port of AMQP cannot be reached within half of the time.
	Fallback bool
	// Shared is the connection to use, with protocol, host and port of its own, in
	// place of one that is the client's alone.
	Shared *Shared

	// Signer makes signatures for tokens with the key of Identity (or SASIdentity).
	Signer Signer
	// Tokens makes whole tokens, in place of Signer.
	Tokens TokenSource
	// ClientCertificate authenticates in the TLS handshake, in place of a token.
	ClientCertificate *tls.Certificate
	// SASIdentity is whom the token is for, if not Identity: "{edge}/$edgeHub" when
	// an edge hub connects on behalf of Identity. AuthChain must be set then.
	SASIdentity iothub.Identity
	// AuthChain is "target;parent;...;actor" of a connection on behalf of Identity.
	AuthChain string
	// TokenLifetime is how long tokens made with Signer are valid; 1 h if 0. They
	// are renewed after 85 % of it.
	TokenLifetime time.Duration

	// RootCAs are trusted in place of the system's roots, if not nil.
	RootCAs *x509.CertPool
	// Roots, if not nil, gives what is trusted in place of RootCAs, anew for each
	// connection.
	Roots func() *x509.CertPool
	// Dial opens the network connection; TLS comes on top. Nil dials TCP, and knows
	// no proxy; that of package proxy does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// ProductInfo names program and version to the hub.
	ProductInfo string
	// ModelID is the DTDL model of the device.
	ModelID string

	// Retry makes Send, Twin and PatchReported wait for a connection and try again
	// after a lost one until their context ends. SendAsync never sends again by
	// itself.
	Retry bool
	// Window is how many sent messages may be unacknowledged; 256 if 0, at most
	// 32768.
	Window int
	// Queue is how many messages may wait for their handler; 1024 if 0. If the hub
	// sends more, the connection ends when those are handled (ErrOverflow), and the
	// hub delivers the others again.
	Queue int
	// KeepAlive is the MQTT keep-alive or AMQP idle timeout, in whole seconds; 60 s
	// if 0. A hub that is silent for longer is taken for dead.
	KeepAlive time.Duration
	// ConnectTimeout bounds one attempt to connect; 30 s if 0.
	ConnectTimeout time.Duration
	// RequestTimeout bounds the wait for the answer to a twin request or
	// subscription; 30 s if 0.
	RequestTimeout time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts to connect, which
	// doubles and has jitter; 2 s and 60 s if 0.
	MinBackoff, MaxBackoff time.Duration

	// OnConnection is told of each change, in order, from one goroutine that must
	// not be held up: it may send and start work, but not wait for the connection.
	// After each Connected the twin should be read anew, because changes of desired
	// properties are not kept for a client that is away.
	OnConnection func(Connection)
	// Logger gets details; nil discards them.
	Logger *slog.Logger
}

// State is the state of a client's connection.
type State uint8

// States of a connection.
const (
	Connecting   State = iota // an attempt begins
	Connected                 // logged in, all subscriptions made
	Renewing                  // about to connect anew with a new token
	Disconnected              // no connection; Connection.Err says why
)

func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Renewing:
		return "renewing"
	case Disconnected:
		return "disconnected"
	}
	return "unknown"
}

// Connection is what Options.OnConnection is told.
type Connection struct {
	State State
	// Err is why a connection ended or was not made (ErrUnauthorized,
	// ErrConnectionLost, ...); nil when Run ends.
	Err error
	// RetryIn is when the next attempt begins, when State is Disconnected.
	RetryIn time.Duration
}

// maxWindow leaves enough packet identifiers free.
const maxWindow = 1 << 15

// complete checks o and fills in defaults.
func (o Options) complete() (Options, error) {
	if err := iothub.CheckID(o.Identity.Device); err != nil {
		return o, fmt.Errorf("%w: device: %w", ErrOptions, err)
	}
	if o.Identity.IsModule() {
		if err := iothub.CheckID(o.Identity.Module); err != nil {
			return o, fmt.Errorf("%w: module: %w", ErrOptions, err)
		}
	}
	if o.HubName == "" {
		return o, fmt.Errorf("%w: no hub name", ErrOptions)
	}
	credentials := 0
	for _, has := range [...]bool{o.Signer != nil, o.Tokens != nil, o.ClientCertificate != nil} {
		if has {
			credentials++
		}
	}
	switch {
	case credentials != 1:
		return o, fmt.Errorf("%w: want one of signer, token source and client certificate", ErrOptions)
	case !o.SASIdentity.IsZero() && o.AuthChain == "":
		return o, fmt.Errorf("%w: token of another identity without an auth chain", ErrOptions)
	case o.ClientCertificate != nil && o.AuthChain != "":
		return o, fmt.Errorf("%w: auth chain with a client certificate", ErrOptions)
	case o.Window < 0 || o.Window > maxWindow:
		return o, fmt.Errorf("%w: window is not between 1 and %d", ErrOptions, maxWindow)
	case !o.Protocol.valid():
		return o, fmt.Errorf("%w: protocol", ErrOptions)
	case o.Fallback && o.Protocol != AMQP:
		return o, fmt.Errorf("%w: fallback of another protocol than AMQP", ErrOptions)
	case o.Shared != nil && o.ClientCertificate != nil:
		return o, fmt.Errorf("%w: client certificate on a shared connection", ErrOptions)
	case o.Port < 0 || o.Port > 65535:
		return o, fmt.Errorf("%w: port", ErrOptions)
	case o.KeepAlive < 0 || o.KeepAlive > 65535*time.Second:
		return o, fmt.Errorf("%w: keep-alive", ErrOptions)
	case o.Queue < 0 || o.MinBackoff < 0 || o.MaxBackoff < 0 || o.TokenLifetime < 0 || o.ConnectTimeout < 0 || o.RequestTimeout < 0:
		return o, fmt.Errorf("%w: negative value", ErrOptions)
	}
	setDefault(&o.Host, o.HubName)
	setDefault(&o.Port, o.Protocol.Port())
	setDefault(&o.TokenLifetime, time.Hour)
	setDefault(&o.Window, 256)
	setDefault(&o.Queue, 1024)
	setDefault(&o.KeepAlive, time.Minute)
	setDefault(&o.ConnectTimeout, 30*time.Second)
	setDefault(&o.RequestTimeout, 30*time.Second)
	setDefault(&o.MinBackoff, 2*time.Second)
	setDefault(&o.MaxBackoff, time.Minute)
	o.KeepAlive = max(o.KeepAlive.Truncate(time.Second), time.Second)
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Signer != nil {
		o.Tokens = o.signed()
		o.Signer = nil
	}
	return o, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
