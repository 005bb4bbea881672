package access

import (
	"crypto/subtle"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// ServiceGrant is the right of a client to act as a service.
type ServiceGrant struct {
	// Expires is when the connection must end; zero for never.
	Expires time.Time
	// EventPath bounds the right to reading events at this path or below; "" means
	// everything.
	EventPath string
}

// Service checks what a service says of itself: a token, or the key of a policy.
// Refusals wrap ErrRefused.
func (c *Checker) Service(l head.ServiceLogin) (ServiceGrant, error) {
	if l.Token == "" {
		return ServiceGrant{}, c.serviceKey(l.Policy, l.Key)
	}
	t, err := c.parse(l.Token)
	if err != nil {
		return ServiceGrant{}, err
	}
	p, ok := c.o.Policies[t.KeyName]
	if !ok {
		return ServiceGrant{}, refused("policy %.64q is unknown", t.KeyName)
	}
	g := ServiceGrant{Expires: t.Expiry.Add(sas.Skew)}
	a, err := t.Audience(sas.AllowExtraPath)
	if err != nil {
		return ServiceGrant{}, refused("%v", err)
	}
	path, forEvents := c.eventPath(t)
	switch {
	case forEvents && (oneOf(a.Host, c.o.EventHosts) || oneOf(a.Host, c.o.Hosts)):
		g.EventPath = path
	case !oneOf(a.Host, c.o.Hosts):
		return ServiceGrant{}, refused("token is for host %.255q", a.Host)
	}
	switch {
	case t.Verify(p.Primary), t.Verify(p.Secondary):
	// Clients of event hubs sign with the text of the key and not with what it encodes.
	case forEvents && (t.Verify([]byte(p.Primary.Base64())) || t.Verify([]byte(p.Secondary.Base64()))):
	default:
		return ServiceGrant{}, refused("signature does not match the keys of policy %s", p.Name)
	}
	if !p.Rights.Has(ServiceConnect) {
		return ServiceGrant{}, refused("policy %s may not connect services", p.Name)
	}
	return g, nil
}

// eventPath tells whether a token is for the event endpoint, and for what there.
func (c *Checker) eventPath(t sas.Token) (path string, ok bool) {
	path = strings.TrimRight(strings.Join(t.Path()[1:], "/"), "/")
	entity, _, _ := strings.Cut(path, "/")
	return path, c.o.EventHub != "" && strings.EqualFold(entity, c.o.EventHub)
}

// serviceKey checks the key of a policy.
func (c *Checker) serviceKey(name, key string) error {
	p, ok := c.o.Policies[name]
	if !ok {
		return refused("policy %.64q is unknown", name)
	}
	primary := subtle.ConstantTimeCompare([]byte(key), []byte(p.Primary.Base64()))
	secondary := subtle.ConstantTimeCompare([]byte(key), []byte(p.Secondary.Base64()))
	if primary|secondary != 1 {
		return refused("key is not that of policy %s", p.Name)
	}
	if !p.Rights.Has(ServiceConnect) {
		return refused("policy %s may not connect services", p.Name)
	}
	return nil
}

func oneOf(host string, hosts []string) bool {
	for _, h := range hosts {
		if strings.EqualFold(host, h) {
			return true
		}
	}
	return false
}
