// Package auth decides whether a client of the edge hub is who it says: SAS tokens
// against the keys of the scope, certificates against thumbprints or the trust
// bundle (spec edgehub-core 5). It asks nobody but the scope, unless it is told to ask the
// cloud about others.
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Scope is the part of scope.Cache that is used.
type Scope interface {
	Lookup(id iothub.Identity) (scope.Entry, bool)
	Refresh(ctx context.Context, id iothub.Identity) (bool, error)
	RefreshBelow(ctx context.Context, id iothub.Identity, chain string) (bool, error)
	RefreshSoon()
	Chain(target iothub.Identity, edge string) (string, bool)
	Len() int
}

// Options configure an Authenticator.
type Options struct {
	// Hosts are the names that a token may be for: the IoT hub and this gateway.
	Hosts []string
	// Device is the edge device; its modules need no certificate of their own.
	Device string
	// TrustBundle gives what anchors the certificates of CA-signed devices now; nil
	// accepts none.
	TrustBundle func() *x509.CertPool
	// NoCertificates refuses all certificates.
	NoCertificates bool
	// Cloud asks the cloud about a token of somebody whom the scope does not know, with
	// CloudOnly about every token. Errors as of Authenticate. nil: strangers are refused.
	Cloud     func(ctx context.Context, l head.Login) error
	CloudOnly bool
	Now       func() time.Time
	Logger    *slog.Logger
}

// Authenticator checks credentials. It may be used concurrently.
type Authenticator struct {
	scope Scope
	o     Options
}

// New returns an Authenticator.
func New(s Scope, o Options) *Authenticator {
	if o.TrustBundle == nil {
		o.TrustBundle = func() *x509.CertPool { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Authenticator{scope: s, o: o}
}

// Authenticate checks the credentials of a login. A failure refreshes the identity
// from the cloud, if that is due, and checks once more. Errors wrap
// head.ErrUnauthorized; while the scope was never loaded, or the cloud is asked and away,
// head.ErrUnavailable, so that clients come again.
func (a *Authenticator) Authenticate(ctx context.Context, l head.Login) error {
	if a.o.CloudOnly && a.Vouched(l) {
		return a.askCloud(ctx, l)
	}
	err := a.byScope(ctx, l)
	if err != nil && a.Vouched(l) {
		return a.askCloud(ctx, l)
	}
	return err
}

// Vouched tells whether it is the cloud that has to say whether a login is good.
func (a *Authenticator) Vouched(l head.Login) bool {
	if a.o.Cloud == nil || l.Token == "" || l.AuthChain != "" {
		return false
	}
	_, known := a.scope.Lookup(l.Identity)
	return a.o.CloudOnly || !known
}

// askCloud asks the cloud, if it may say yes.
func (a *Authenticator) askCloud(ctx context.Context, l head.Login) error {
	if err := a.Valid(l); err != nil {
		return err
	}
	return a.o.Cloud(ctx, l)
}

// Valid tells whether the token of a login is for its identity and has not expired. It says
// nothing of the signature.
func (a *Authenticator) Valid(l head.Login) error {
	if _, _, err := a.token(l); err != nil {
		return fmt.Errorf("%w: %s: %w", head.ErrUnauthorized, l.Identity, err)
	}
	return nil
}

// byScope is Authenticate for whom the scope knows.
func (a *Authenticator) byScope(ctx context.Context, l head.Login) error {
	first := a.Check(l)
	if first == nil {
		return nil
	}
	if l.AuthChain != "" {
		return a.afterRefreshOfChain(ctx, l, first)
	}
	asked, err := a.scope.Refresh(ctx, l.Identity)
	if err != nil {
		a.o.Logger.Debug("identity not refreshed", "id", l.Identity.String(), "error", err)
		if a.scope.Len() == 0 {
			return fmt.Errorf("%w: identities are not known yet", head.ErrUnavailable)
		}
		return first
	}
	if l.Identity.IsModule() && asked {
		// The module may log in with the key of its device.
		if _, err := a.scope.Refresh(ctx, l.Identity.Parent()); err != nil {
			a.o.Logger.Debug("identity not refreshed", "id", l.Identity.Device, "error", err)
		}
	}
	if !asked {
		return first
	}
	return a.Check(l)
}

// Check checks credentials against what is known now: at login, and again for
// clients that are connected.
func (a *Authenticator) Check(l head.Login) error {
	var err error
	switch {
	case l.AuthChain != "":
		err = a.checkOnBehalf(l)
	case l.Token != "": // a token wins over a certificate
		err = a.checkToken(l)
	case len(l.Peer) > 0 && a.o.NoCertificates:
		err = errors.New("certificates are switched off")
	case len(l.Peer) > 0:
		err = a.checkCertificate(l)
	default:
		err = errors.New("neither token nor certificate")
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", head.ErrUnauthorized, l.Identity, err)
	}
	return nil
}

func (a *Authenticator) entry(id iothub.Identity) (scope.Entry, error) {
	e, ok := a.scope.Lookup(id)
	if !ok {
		return e, errors.New("identity is not in the scope of this gateway")
	}
	device, ok := a.scope.Lookup(id.Parent())
	if !ok || !device.Enabled || !e.Enabled {
		return e, errors.New("identity is disabled")
	}
	return e, nil
}

// token reads the token of a login, which must be for its identity and valid now. owner is
// whose key it must be made with: a module may show a token of its device.
func (a *Authenticator) token(l head.Login) (token sas.Token, owner iothub.Identity, err error) {
	if token, err = sas.Parse(l.Token); err != nil {
		return token, owner, fmt.Errorf("token: %w", err)
	}
	if token.Expired(a.o.Now()) {
		return token, owner, errors.New("token has expired")
	}
	audience, err := token.Audience()
	if err != nil {
		return token, owner, fmt.Errorf("token: %w", err)
	}
	switch {
	case !a.knownHost(audience.Host):
		return token, owner, fmt.Errorf("token is for another host, %q", audience.Host)
	case !strings.EqualFold(audience.Device, l.Identity.Device):
		return token, owner, errors.New("token is for another device")
	case audience.Module == "":
		return token, l.Identity.Parent(), nil
	case !strings.EqualFold(audience.Module, l.Identity.Module):
		return token, owner, errors.New("token is for another module")
	}
	return token, l.Identity, nil
}

func (a *Authenticator) checkToken(l head.Login) error {
	e, err := a.entry(l.Identity)
	if err != nil {
		return err
	}
	token, owner, err := a.token(l)
	if err != nil {
		return err
	}
	if owner != l.Identity {
		if e, err = a.entry(owner); err != nil {
			return err
		}
	}
	if e.Auth != scope.SAS {
		return fmt.Errorf("identity does not authenticate by token but by %q", e.Auth)
	}
	// Both are computed always, so that time does not tell which key was right.
	primary, secondary := len(e.Primary) > 0 && token.Verify(e.Primary), len(e.Secondary) > 0 && token.Verify(e.Secondary)
	if !primary && !secondary {
		return errors.New("signature of the token is wrong")
	}
	return nil
}

func (a *Authenticator) knownHost(host string) bool {
	for _, h := range a.o.Hosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}
