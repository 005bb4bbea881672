package access

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Grant is the right of a client to act as an identity.
type Grant struct {
	// Actor speaks for the identity; zero if it speaks for itself.
	Actor iothub.Identity
	// Expires is when the connection must end; zero for never.
	Expires time.Time
	// Method is the JSON text that events carry as their auth method.
	Method string
}

// Connect checks what a client of a head says of itself. Refusals wrap
// ErrRefused.
func (c *Checker) Connect(l head.Login) (Grant, error) {
	if _, err := c.credential(l.Identity); err != nil {
		return Grant{}, err
	}
	if chain := splitChain(l.AuthChain); len(chain) >= 2 {
		return c.onBehalf(l, chain)
	}
	if l.Token == "" {
		if len(l.Peer) == 0 {
			return Grant{}, refused("neither a token nor a certificate")
		}
		until, err := c.certificate(l.Peer, l.Identity)
		if err != nil {
			return Grant{}, err
		}
		return Grant{Method: method(scopeOf(l.Identity), "x509"), Expires: until}, nil
	}
	t, err := c.token(l.Token)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Expires: t.Expiry.Add(sas.Skew)}
	if t.KeyName != "" {
		p, err := c.policy(t)
		if err != nil {
			return Grant{}, err
		}
		if !p.Rights.Has(DeviceConnect) {
			return Grant{}, refused("policy %s may not connect devices", p.Name)
		}
		if a, err := t.Audience(sas.AllowExtraPath); err != nil || a.Device != "" && !covers(t, l.Identity) {
			return Grant{}, refused("token of policy %s is not for %s", p.Name, l.Identity)
		}
		g.Method = method("hub", "sas")
		return g, nil
	}
	err = c.signedBy(t, l.Identity)
	g.Method = method(scopeOf(l.Identity), "sas")
	if err != nil && l.Identity.IsModule() && t.Covers(l.Identity.Parent()) {
		// The device's key speaks for its modules too.
		err = c.signedBy(t, l.Identity.Parent())
		g.Method = method("device", "sas")
	}
	if err != nil {
		return Grant{}, err
	}
	return g, nil
}

// ConnectPolicy checks the token of a policy that may connect devices of the whole
// hub. Refusals wrap ErrRefused.
func (c *Checker) ConnectPolicy(token string) error {
	t, err := c.token(token)
	if err != nil {
		return err
	}
	p, err := c.policy(t)
	if err != nil {
		return err
	}
	if a, err := t.Audience(sas.AllowExtraPath); err != nil || a.Device != "" || !p.Rights.Has(DeviceConnect) {
		return refused("policy %s may not connect all devices with this token", p.Name)
	}
	return nil
}

// covers tells whether a policy's token is for the identity or its device.
func covers(t sas.Token, id iothub.Identity) bool { return t.Covers(id) || t.Covers(id.Parent()) }

// onBehalf checks an edge device that speaks for an identity in its scope (spec
// iothub-mqtt 3.5): the chain that we know counts, not the one that is claimed.
func (c *Checker) onBehalf(l head.Login, chain []string) (Grant, error) {
	if chain[0] != l.Identity.String() {
		return Grant{}, refused("auth chain does not begin with %s", l.Identity)
	}
	if l.Token == "" {
		return Grant{}, refused("an auth chain needs a token")
	}
	actor := iothub.ModuleIdentity(chain[len(chain)-1], iothub.HubModule)
	if err := c.InScope(l.Identity, actor.Device); err != nil {
		return Grant{}, err
	}
	t, err := c.token(l.Token)
	if err != nil {
		return Grant{}, err
	}
	if t.KeyName != "" {
		return Grant{}, refused("a policy cannot speak for others")
	}
	if err := c.signedBy(t, actor); err != nil {
		return Grant{}, err
	}
	return Grant{Actor: actor, Expires: t.Expiry.Add(sas.Skew), Method: method("module", "sas")}, nil
}

// InScope tells whether actor, an edge device, may act for an identity: it stands
// over it in the registry, or is its device, and everybody between is enabled.
func (c *Checker) InScope(id iothub.Identity, actor string) error {
	known, err := c.registry.Chain(id)
	if err != nil {
		return refused("%s is not registered", id)
	}
	end := slices.Index(known, actor)
	if end < 0 {
		return refused("%s is not in the scope of %s", id, actor)
	}
	devices := known[:end+1]
	if id.IsModule() {
		devices = devices[1:]
	}
	for _, name := range devices {
		if _, err := c.credential(iothub.DeviceIdentity(name)); err != nil {
			return err
		}
	}
	d, err := c.registry.Device(actor)
	if err != nil || !d.IsEdge() {
		return refused("%s is not an edge device", actor)
	}
	return nil
}

func splitChain(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ";"), func(e string) bool { return e == "" })
}

func scopeOf(id iothub.Identity) string {
	if id.IsModule() {
		return "module"
	}
	return "device"
}

func method(scope, kind string) string {
	b, err := json.Marshal(struct {
		Scope  string  `json:"scope"`
		Type   string  `json:"type"`
		Issuer string  `json:"issuer"`
		Filter *string `json:"acceptingIpFilterRule"`
	}{Scope: scope, Type: kind, Issuer: "iothub"})
	if err != nil {
		panic(err) // four strings always encode
	}
	return string(b)
}
