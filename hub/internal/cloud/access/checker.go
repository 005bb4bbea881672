package access

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
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
	// EventHub is the name of the event-hub-compatible endpoint, "" if there is none,
	// and EventHosts are the names of hosts that tokens for it may have besides Hosts.
	EventHub   string
	EventHosts []string
	// Authorities returns those whose signature lets devices in that are registered
	// for it; nil means there are none.
	Authorities func() *x509.CertPool
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
	if o.Authorities == nil {
		o.Authorities = x509.NewCertPool
	}
	return &Checker{registry: r, o: o}
}

// token reads a token and checks all that needs no key.
func (c *Checker) token(text string) (sas.Token, error) {
	t, err := c.parse(text)
	if err != nil {
		return t, err
	}
	a, err := t.Audience(sas.AllowExtraPath)
	if err != nil {
		return t, refused("%v", err)
	}
	if !oneOf(a.Host, c.o.Hosts) {
		return t, refused("token is for host %.255q", a.Host)
	}
	if _, ok := c.eventPath(t); ok {
		return t, refused("token is for reading events")
	}
	return t, nil
}

// parse reads a token that has not expired.
func (c *Checker) parse(text string) (sas.Token, error) {
	t, err := sas.Parse(text)
	if err != nil {
		return t, refused("%v", err)
	}
	if t.Expired(c.o.Now()) {
		return t, refused("token expired at %s", t.Expiry.UTC().Format(time.RFC3339))
	}
	return t, nil
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

// certificate checks the certificates that a client has sent, its own first, against
// what is registered for an identity. The result is when they end. That the client
// holds the key TLS has proved.
func (c *Checker) certificate(chain []*x509.Certificate, id iothub.Identity) (time.Time, error) {
	auth, err := c.credential(id)
	if err != nil {
		return time.Time{}, err
	}
	now := c.o.Now()
	switch auth.Type {
	case rest.AuthSelfSigned:
		if err := devicecert.CheckTime(chain[0], now); err != nil {
			return time.Time{}, refused("%s: %v", id, err)
		}
		known := auth.X509Thumbprint
		if !devicecert.HasThumbprint(chain[0], string(known.PrimaryThumbprint), string(known.SecondaryThumbprint)) {
			return time.Time{}, refused("certificate does not have a thumbprint of %s", id)
		}
		return chain[0].NotAfter, nil
	case rest.AuthCertificate:
		until, err := devicecert.CheckSigned(chain, id.String(), c.o.Authorities(), now)
		if err != nil {
			return time.Time{}, refused("%s: %v", id, err)
		}
		return until, nil
	}
	return time.Time{}, refused("%s does not authenticate with a certificate but %q", id, auth.Type)
}
