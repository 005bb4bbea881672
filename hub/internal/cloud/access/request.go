package access

import (
	"crypto/x509"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Caller is who made an HTTPS request: a policy with rights, or one identity.
type Caller struct {
	Rights   Right
	Identity iothub.Identity
}

// Request checks the credentials of an HTTPS request: the Authorization header or,
// without one, the client certificate. path is the identity that the path is
// about; it helps with tokens in lower case and says whose certificate it must be.
// Refusals wrap ErrRefused. What the caller may do is not decided here.
func (c *Checker) Request(authorization string, peer []*x509.Certificate, path iothub.Identity) (Caller, error) {
	switch {
	case authorization == "" && len(peer) > 0 && path.Device != "":
		id := path.Parent()
		if _, err := c.certificate(peer, id); err != nil {
			return Caller{}, err
		}
		return Caller{Identity: id}, nil
	case authorization == "":
		return Caller{}, refused("no Authorization header")
	case len(authorization) > 7 && strings.EqualFold(authorization[:7], "bearer "):
		return Caller{}, refused("bearer tokens are not supported")
	}
	t, err := c.token(authorization)
	if err != nil {
		return Caller{}, err
	}
	if t.KeyName != "" {
		p, err := c.policy(t)
		if err != nil {
			return Caller{}, err
		}
		return Caller{Rights: p.Rights}, nil
	}
	a, err := t.Audience(sas.AllowExtraPath)
	if err != nil || a.Device == "" {
		return Caller{}, refused("token names neither a policy nor a device")
	}
	id := a.Identity()
	if strings.EqualFold(id.Device, path.Device) {
		id.Device = path.Device
	}
	if strings.EqualFold(id.Module, iothub.HubModule) {
		id.Module = iothub.HubModule
	}
	if err := c.signedBy(t, id); err != nil {
		return Caller{}, err
	}
	return Caller{Identity: id}, nil
}
