package upstream

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// ClientOptions say how the hub's identities connect.
type ClientOptions struct {
	// Base is the part of the options that all share: hub name, host, roots,
	// signer of the hub's own key, logger.
	Base client.Options
	// Self is the hub's own identity; it speaks for the others.
	Self iothub.Identity
	// Chain returns the auth chain of an identity below this gateway, or false.
	Chain func(id iothub.Identity) (string, bool)
	// Connections is over how many network connections AMQP spreads the identities;
	// 0 means 1.
	Connections int
	// Product returns what an identity calls itself.
	Product func(id iothub.Identity) string
}

// ByClient returns a Dialer on the project's own client: the hub's identity logs in
// as itself, every other with the hub's credentials and its auth chain, or with its own
// token. That is not renewed on a connection: at its end the cloud closes that, and the
// next one begins with what the identity has shown since. Over AMQP
// all share one connection (or a few), with a session each; over MQTT each has its own.
func ByClient(o ClientOptions) (Dialer, error) {
	var shared []*client.Shared
	if p := o.Base.Protocol; p == client.AMQP || p == client.AMQPWS {
		for range max(o.Connections, 1) {
			one, err := client.NewShared(client.SharedOptions{
				Protocol: p, Host: cmp.Or(o.Base.Host, o.Base.HubName), Port: o.Base.Port, Fallback: o.Base.Fallback,
				RootCAs: o.Base.RootCAs, Roots: o.Base.Roots, Dial: o.Base.Dial, KeepAlive: o.Base.KeepAlive,
				RequestTimeout: o.Base.RequestTimeout, MinBackoff: o.Base.MinBackoff, MaxBackoff: o.Base.MaxBackoff,
				Logger: o.Base.Logger,
			})
			if err != nil {
				return nil, fmt.Errorf("cloud connection: %w", err)
			}
			shared = append(shared, one)
		}
	}
	return func(id iothub.Identity, token func() string, cb Callbacks) (Conn, error) {
		options := o.Base
		options.Identity = id
		if len(shared) > 0 {
			// By its name, so that an identity has the same connection every time.
			h := fnv.New32a()
			h.Write([]byte(id.String())) //nolint:errcheck // never fails (hash.Hash)
			options.Shared = shared[h.Sum32()%uint32(len(shared))]
		}
		options.ProductInfo = o.Product(id)
		switch {
		case token != nil:
			options.Signer = nil
			options.Tokens = client.TokenFunc(func(context.Context) (string, time.Time, error) {
				text := token()
				if text == "" {
					return "", time.Time{}, fmt.Errorf("%w: %s has no token now", client.ErrUnauthorized, id)
				}
				return text, time.Time{}, nil
			})
		case id != o.Self:
			chain, ok := o.Chain(id)
			if !ok {
				return nil, fmt.Errorf("%w: %s", ErrNoIdentity, id)
			}
			options.SASIdentity, options.AuthChain = o.Self, chain
		}
		return newClientConn(options, cb)
	}, nil
}
