package upstream

import (
	"cmp"
	"fmt"

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
	// Product returns what an identity calls itself.
	Product func(id iothub.Identity) string
}

// ByClient returns a Dialer on the project's own client: the hub's identity logs in
// as itself, every other with the hub's credentials and its auth chain. Over AMQP
// all share one connection, with a session each; over MQTT each has its own.
func ByClient(o ClientOptions) (Dialer, error) {
	if p := o.Base.Protocol; p == client.AMQP || p == client.AMQPWS {
		shared, err := client.NewShared(client.SharedOptions{
			Protocol: p, Host: cmp.Or(o.Base.Host, o.Base.HubName), Port: o.Base.Port, Fallback: o.Base.Fallback,
			RootCAs: o.Base.RootCAs, Dial: o.Base.Dial, KeepAlive: o.Base.KeepAlive,
			RequestTimeout: o.Base.RequestTimeout, MinBackoff: o.Base.MinBackoff, MaxBackoff: o.Base.MaxBackoff,
			Logger: o.Base.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("cloud connection: %w", err)
		}
		o.Base.Shared = shared
	}
	return func(id iothub.Identity, cb Callbacks) (Conn, error) {
		options := o.Base
		options.Identity = id
		options.ProductInfo = o.Product(id)
		if id != o.Self {
			chain, ok := o.Chain(id)
			if !ok {
				return nil, fmt.Errorf("%w: %s", ErrNoIdentity, id)
			}
			options.SASIdentity, options.AuthChain = o.Self, chain
		}
		return newClientConn(options, cb)
	}, nil
}
