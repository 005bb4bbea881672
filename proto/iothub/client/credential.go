package client

import (
	"context"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Signer signs with the symmetric key of an identity: HMAC-SHA256.
type Signer interface {
	Sign(ctx context.Context, data []byte) ([]byte, error)
}

// SignerFunc is a function that is a Signer.
type SignerFunc func(ctx context.Context, data []byte) ([]byte, error)

// Sign calls f.
func (f SignerFunc) Sign(ctx context.Context, data []byte) ([]byte, error) { return f(ctx, data) }

// KeySigner signs with a key that the program has.
func KeySigner(key sas.Key) Signer {
	return SignerFunc(func(_ context.Context, data []byte) ([]byte, error) { return key.Sign(data) })
}

// TokenSource makes SAS tokens. It is asked before each connection. The zero
// expiry means that renewing is of no use.
type TokenSource interface {
	Token(ctx context.Context) (token string, expiry time.Time, err error)
}

// TokenFunc is a function that is a TokenSource.
type TokenFunc func(ctx context.Context) (token string, expiry time.Time, err error)

// Token calls f.
func (f TokenFunc) Token(ctx context.Context) (string, time.Time, error) { return f(ctx) }

// StaticToken always gives the same token, which nobody renews.
func StaticToken(token string) TokenSource {
	return TokenFunc(func(context.Context) (string, time.Time, error) { return token, time.Time{}, nil })
}

// signed makes tokens with o.Signer.
func (o Options) signed() TokenSource {
	id := o.SASIdentity
	if id.IsZero() {
		id = o.Identity
	}
	signer, lifetime, resource := o.Signer, o.TokenLifetime, sas.DeviceResource(o.HubName, id)
	return TokenFunc(func(ctx context.Context) (string, time.Time, error) {
		expiry := time.Now().Add(lifetime)
		token, err := sas.New(resource, expiry, "", func(data []byte) ([]byte, error) { return signer.Sign(ctx, data) })
		return token, expiry, err
	})
}

// credential is what one connection logs in with.
type credential struct {
	token   string    // empty with a client certificate
	renewAt time.Time // zero: never
}

// credential gets a token, if the client uses any.
func (o *Options) credential(ctx context.Context) (credential, error) {
	if o.Tokens == nil {
		return credential{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	token, expiry, err := o.Tokens.Token(ctx)
	if err != nil {
		return credential{}, err
	}
	c := credential{token: token}
	if !expiry.IsZero() {
		now := time.Now()
		c.renewAt = now.Add(expiry.Sub(now) * 85 / 100)
	}
	return c, nil
}
