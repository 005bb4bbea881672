package amqp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// SASL mechanisms on offer.
const (
	mechanismCBS       = "MSSBCBS" // a token follows by CBS
	mechanismPlain     = "PLAIN"
	mechanismAnonymous = "ANONYMOUS"
	mechanismExternal  = "EXTERNAL" // the certificate of TLS; only if there is one
)

// Properties of attach that count.
const (
	propAuthChain   = "com.microsoft:auth-chain"
	propVersion     = "com.microsoft:client-version"
	propModelID     = "com.microsoft:model-id"
	propCorrelation = "com.microsoft:channel-correlation-id"
)

// maxChecks bounds the tokens of one connection that are checked at once.
const maxChecks = 128

// credential is how an identity comes in: with a token, which may be another's, or
// with the certificate of TLS.
type credential struct {
	owner iothub.Identity // for whom the token is; zero: a policy
	token string
	chain string // "target;...;actor"
	cert  bool
}

// login makes the login of an identity.
func (c *conn) login(id iothub.Identity, cr credential) head.Login {
	l := head.Login{
		Identity: id, Protocol: c.t.Protocol, Remote: c.net.RemoteAddr(),
		Token: cr.token, AuthChain: cr.chain, CleanSession: true,
	}
	if cr.cert {
		l.Peer = c.t.Peer
	}
	return l
}

// credentials finds with what an identity can come in: as somebody in whose name an
// edge device speaks (chain), with its own token, that of its device, that of a
// policy, or with a certificate. Whether it holds the Backend decides. c.mu is
// held.
func (c *conn) credentials(id iothub.Identity, chain string) (credential, bool) {
	if _, actor, ok := cutLast(chain, ";"); ok {
		owner := iothub.ModuleIdentity(actor, iothub.HubModule)
		if token, ok := c.tokens[owner]; ok {
			return credential{owner: owner, token: token, chain: chain}, true
		}
	}
	owners := []iothub.Identity{id, id.Parent(), {}}
	if c.plain {
		owners = []iothub.Identity{id, {}} // PLAIN binds the connection
	}
	for _, owner := range owners {
		if token, ok := c.tokens[owner]; ok {
			return credential{owner: owner, token: token}, true
		}
	}
	return credential{cert: true}, len(c.t.Peer) > 0 && !c.plain
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// OnSASL implements amqp.ConnHandler.
func (c *conn) OnSASL(s *amqp.SASL) {
	switch s.Mechanism() {
	case mechanismAnonymous, mechanismCBS:
		s.Accept()
	case mechanismExternal:
		if len(c.t.Peer) == 0 {
			s.Refuse(wire.SASLAuth)
			return
		}
		s.Accept()
	case mechanismPlain:
		_, name, password, ok := amqp.Plain(s.Response)
		user, known := parseUser(name)
		if !ok || !known || password == "" || len(password) > head.MaxToken {
			s.Refuse(wire.SASLAuth)
			return
		}
		c.spawn(func() {
			code := c.presentPlain(user, password)
			switch {
			case code == cbs.OK:
				c.mu.Lock()
				c.plain = true
				c.mu.Unlock()
				s.Accept()
			case code >= cbs.Internal:
				s.Refuse(wire.SASLSysTemp)
			default:
				s.Refuse(wire.SASLAuth)
			}
		})
	default:
		s.Refuse(wire.SASLAuth)
	}
}

// user is who a client of PLAIN says it is: an identity, or a policy.
type user struct {
	id     iothub.Identity
	policy string
}

// parseUser reads the user name of PLAIN (spec iothub-amqp 2.1); one without a host is
// a policy, as clients of event hubs write it. Names of the hub are not compared: its
// name is in the token.
func parseUser(text string) (user, bool) {
	name, hub, ok := cutLast(text, "@")
	if name == "" {
		return user{}, false
	}
	if !ok {
		return user{policy: name}, true
	}
	parts := strings.Split(hub, ".")
	if strings.EqualFold(parts[0], "sas") {
		parts = parts[1:]
	}
	if len(parts) > 0 && strings.EqualFold(parts[0], "root") {
		return user{policy: name}, true
	}
	device, module, isModule := strings.Cut(name, "/modules/")
	id := iothub.Identity{Device: decodeID(device), Module: decodeID(module)}
	if iothub.CheckID(id.Device) != nil || isModule && iothub.CheckID(id.Module) != nil {
		return user{}, false
	}
	return user{id: id}, true
}

// presentPlain is present for the password of PLAIN, which is a token or, of a policy,
// its key. A key opens the service side only.
func (c *conn) presentPlain(u user, password string) int {
	if u.policy == "" || strings.HasPrefix(password, "SharedAccessSignature ") {
		return c.present(u.id, password)
	}
	if c.srv.opts.Services == nil {
		return cbs.Unauthorized
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.AuthTimeout)
	defer cancel()
	if _, err := c.connectService(ctx, head.ServiceLogin{Policy: u.policy, Key: password}); err != nil {
		c.complain(c.log, "amqp key refused", "policy", head.Clip(u.policy), "err", err)
		return code(err)
	}
	c.known()
	return cbs.OK
}

// putToken takes a token by CBS. For whom it is says the token, not the name of the
// request, which some clients get wrong.
func (c *conn) putToken(r *cbs.Request) {
	switch strings.ToLower(r.Type) {
	case "servicebus.windows.net:sastoken", "azure-devices.net:sastoken":
	default:
		r.Respond(cbs.BadRequest, "the type of token is not known")
		return
	}
	id, err := audience(string(r.Token))
	if err != nil {
		r.Respond(cbs.BadRequest, err.Error())
		return
	}
	c.mu.Lock()
	full := c.checks >= maxChecks
	if !full {
		c.checks++
	}
	c.mu.Unlock()
	if full {
		r.Respond(cbs.Unavailable, "too many tokens at once")
		return
	}
	c.spawn(func() {
		code := c.present(id, string(r.Token))
		c.mu.Lock()
		c.checks--
		c.mu.Unlock()
		r.Respond(code, describe(code))
	})
}

func audience(token string) (iothub.Identity, error) {
	if len(token) > head.MaxToken {
		return iothub.Identity{}, fmt.Errorf("token of more than %d bytes", head.MaxToken)
	}
	t, err := sas.Parse(token)
	if err != nil {
		return iothub.Identity{}, err
	}
	a, err := t.Audience(sas.AllowExtraPath)
	return a.Identity(), err
}

func describe(code int) string {
	switch code {
	case cbs.OK:
		return "OK"
	case cbs.Unauthorized:
		return "the token does not hold"
	case cbs.NotFound:
		return "the identity does not exist"
	case cbs.Forbidden:
		return "too many tokens"
	case cbs.Unavailable:
		return "the token cannot be checked now"
	}
	return "internal error"
}

// present checks a token and keeps it if it holds; those who came in with the one
// before get it. It returns a status code of CBS.
func (c *conn) present(id iothub.Identity, token string) int {
	eventsOnly, err := c.check(id, token)
	if err == nil {
		c.known()
	}
	switch {
	case eventsOnly && err == nil:
		return cbs.OK
	case err == nil:
	case errors.Is(err, head.ErrUnavailable) && c.srv.opts.Flavor == Edge:
		// Not known yet, perhaps offline: the first link decides.
	default:
		c.complain(c.log, "amqp token refused", "identity", head.Clip(id.String()), "err", err)
		return code(err)
	}
	c.mu.Lock()
	if _, have := c.tokens[id]; c.closed || !have && len(c.tokens) >= c.srv.opts.MaxIdentities {
		c.mu.Unlock()
		return cbs.Forbidden
	}
	c.tokens[id] = token
	var renew []*client
	for _, client := range c.clients {
		if client.owner == id && !client.cert {
			renew = append(renew, client)
		}
	}
	c.mu.Unlock()
	for _, client := range renew {
		client.renew(token)
	}
	return cbs.OK
}

// check asks whether a token holds. That of a policy may be a service's, which
// begins the service side of the connection, or it is for reading events only.
func (c *conn) check(id iothub.Identity, token string) (eventsOnly bool, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.AuthTimeout)
	defer cancel()
	if id.IsZero() && c.srv.opts.Services != nil {
		eventsOnly, err := c.connectService(ctx, head.ServiceLogin{Token: token})
		if !errors.Is(err, head.ErrUnauthorized) {
			return eventsOnly, err
		}
	}
	return false, c.srv.opts.Backend.Check(ctx, c.login(id, credential{owner: id, token: token}))
}

func code(err error) int {
	switch {
	case errors.Is(err, head.ErrUnauthorized):
		return cbs.Unauthorized
	case errors.Is(err, head.ErrNotFound):
		return cbs.NotFound
	case errors.Is(err, head.ErrInvalid):
		return cbs.BadRequest
	case errors.Is(err, errManyGrants):
		return cbs.Forbidden
	case errors.Is(err, head.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return cbs.Unavailable
	}
	return cbs.Internal
}

// expired forgets the token that a client had, unless another one came. The next
// link needs a new one.
func (c *conn) expired(client *client) {
	client.mu.Lock()
	token := client.login.Token
	client.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens[client.owner] == token {
		delete(c.tokens, client.owner)
	}
}
