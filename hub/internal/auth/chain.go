package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// onBehalf reads the claim of a login for somebody else: the hub of the edge device
// that ends the chain speaks for the identity that begins it. What stands between is
// not believed, nor looked at.
func onBehalf(l head.Login) (actor iothub.Identity, err error) {
	target, rest, ok := strings.Cut(l.AuthChain, ";")
	if !ok || target != l.Identity.String() {
		return actor, errors.New("auth chain does not begin with the identity and end with another one")
	}
	actor = iothub.ModuleIdentity(rest[strings.LastIndexByte(rest, ';')+1:], iothub.HubModule)
	if iothub.CheckID(actor.Device) != nil {
		return actor, errors.New("auth chain does not end with a device id")
	}
	return actor, nil
}

// checkOnBehalf admits the hub of an edge device below this one for an identity in
// its scope (spec edgehub-core 4): the chain that the cloud's registry knows counts.
func (a *Authenticator) checkOnBehalf(l head.Login) error {
	actor, err := onBehalf(l)
	if err != nil {
		return err
	}
	if l.Token == "" {
		return errors.New("an auth chain needs a token")
	}
	if _, err := a.Below(l.Identity, actor.Device); err != nil {
		return err
	}
	if err := a.checkToken(head.Login{Identity: actor, Token: l.Token}); err != nil {
		return fmt.Errorf("in the name of %s: %w", actor, err)
	}
	return nil
}

// Below tells whether an edge device below this one may act for a target: the
// target is it, its module or below it, and all between are enabled. It returns the
// auth chain from the target up to this device.
func (a *Authenticator) Below(target iothub.Identity, actor string) (chain string, err error) {
	chain, ok := a.scope.Chain(target, a.o.Device)
	if !ok {
		return "", fmt.Errorf("%s is not below this gateway, or somebody between is disabled", target)
	}
	if d, ok := a.scope.Lookup(iothub.DeviceIdentity(actor)); !ok || !d.Edge || actor == a.o.Device {
		return "", fmt.Errorf("%q is no edge device below this one", actor)
	}
	if !strings.Contains(";"+chain+";", ";"+actor+";") {
		return "", fmt.Errorf("%s is not in the scope of %s", target, actor)
	}
	return chain, nil
}

// afterRefreshOfChain asks for all that a login on behalf depends on, the upper ones
// first, and checks it once more. Those between are found by the listing of the
// whole scope, for a later attempt.
func (a *Authenticator) afterRefreshOfChain(ctx context.Context, l head.Login, first error) error {
	actor, err := onBehalf(l)
	if err != nil {
		return first
	}
	asked := false
	refresh := func(id iothub.Identity) {
		chain, _ := a.scope.Chain(actor.Parent(), a.o.Device)
		did, err := a.scope.RefreshBelow(ctx, id, chain)
		if err != nil {
			a.o.Logger.Debug("identity not refreshed", "id", id.String(), "error", err)
		}
		asked = asked || did && err == nil
	}
	for _, id := range []iothub.Identity{actor.Parent(), actor, l.Identity.Parent(), l.Identity} {
		refresh(id)
	}
	if !asked {
		if a.scope.Len() == 0 {
			return fmt.Errorf("%w: identities are not known yet", head.ErrUnavailable)
		}
		return first
	}
	err = a.Check(l)
	if err != nil {
		a.scope.RefreshSoon()
	}
	return err
}
