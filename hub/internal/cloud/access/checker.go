package access

import (
	"crypto/sha1" //nolint:gosec // registries hold SHA-1 thumbprints too
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// ErrRefused is wrapped by every refusal of credentials.
var ErrRefused = errors.New("credentials refused")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Registry is what the checker needs of the registry.
type Registry interface {
	Device(id string) (rest.Device, error)
	Module(id iothub.Identity) (rest.Module, error)
	Chain(id iothub.Identity) ([]string, error)
}

// Options configure New.
type Options struct {
	// Hosts are the names of the hub that tokens may be for.
	Hosts    []string
	Policies Policies
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Checker checks credentials. It may be used concurrently.
type Checker struct {
	registry Registry
	o        Options
}

// New returns a Checker.
func New(r Registry, o Options) *Checker {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Checker{registry: r, o: o}
}

// token reads a token and checks all that needs no key.
func (c *Checker) token(text string) (sas.Token, error) {
	t, err := sas.Parse(text)
	if err != nil {
		return t, refused("%v", err)
	}
	if t.Expired(c.o.Now()) {
		return t, refused("token expired at %s", t.Expiry.UTC().Format(time.RFC3339))
	}
	a, err := t.Audience(sas.AllowExtraPath)
	if err != nil {
		return t, refused("%v", err)
	}
	for _, h := range c.o.Hosts {
		if strings.EqualFold(a.Host, h) {
			return t, nil
		}
	}
	return t, refused("token is for host %.255q", a.Host)
}

// policy checks a token that names a policy.
func (c *Checker) policy(t sas.Token) (Policy, error) {
	p, ok := c.o.Policies[t.KeyName]
	if !ok {
		return p, refused("policy %.64q is unknown", t.KeyName)
	}
	if !t.Verify(p.Primary) && !t.Verify(p.Secondary) {
		return p, refused("signature does not match the keys of policy %s", p.Name)
	}
	return p, nil
}

// credential is how one identity authenticates and whether it may.
func (c *Checker) credential(id iothub.Identity) (*rest.Authentication, error) {
	d, err := c.registry.Device(id.Device)
	if err != nil {
		return nil, refused("device %s is not registered", id.Device)
	}
	if d.Status != rest.Enabled {
		return nil, refused("device %s is disabled", id.Device)
	}
	if !id.IsModule() {
		return d.Authentication, nil
	}
	m, err := c.registry.Module(id)
	if err != nil {
		return nil, refused("module %s is not registered", id)
	}
	return m.Authentication, nil
}

// signedBy checks a token against the keys of an identity whose name it must hold.
func (c *Checker) signedBy(t sas.Token, id iothub.Identity) error {
	auth, err := c.credential(id)
	switch {
	case err != nil:
		return err
	case !t.Covers(id):
		return refused("token is not for %s", id)
	case auth.Type != rest.AuthSAS:
		return refused("%s does not authenticate with keys but %q", id, auth.Type)
	}
	for _, s := range []rest.Secret{auth.SymmetricKey.PrimaryKey, auth.SymmetricKey.SecondaryKey} {
		if key, err := sas.ParseKey(s.Reveal()); err == nil && t.Verify(key) {
			return nil
		}
	}
	return refused("signature does not match the keys of %s", id)
}

// certificate checks a client certificate against the thumbprints of an identity.
// That the client holds the certificate's key TLS has proved.
func (c *Checker) certificate(leaf *x509.Certificate, id iothub.Identity) error {
	auth, err := c.credential(id)
	switch {
	case err != nil:
		return err
	case auth.Type == rest.AuthCertificate:
		return refused("%s authenticates by certificate authority, which this hub does not support", id)
	case auth.Type != rest.AuthSelfSigned:
		return refused("%s does not authenticate with a certificate but %q", id, auth.Type)
	}
	if now := c.o.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return refused("certificate of %s is outside its time", id)
	}
	s1, s256 := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw) //nolint:gosec // as above
	for _, want := range []rest.Text{auth.X509Thumbprint.PrimaryThumbprint, auth.X509Thumbprint.SecondaryThumbprint} {
		for _, have := range [][]byte{s1[:], s256[:]} {
			if raw, err := hex.DecodeString(string(want)); err == nil && subtle.ConstantTimeCompare(raw, have) == 1 {
				return nil
			}
		}
	}
	return refused("certificate does not have a thumbprint of %s", id)
}
