package edge

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// Identities that the cloud vouches for (spec edgehub-core 5.1, AuthenticationMode): those
// that the scope does not know, or all, log in to the cloud with the token that they have
// shown, which says whether it is good. Their connection upstream is made with it too.

// maxVouching bounds the logins that the cloud is asked about at a time.
const maxVouching = 16

// askCloud logs in to the cloud with the token of a login.
func (h *Hub) askCloud(ctx context.Context, l head.Login) error {
	if !h.online.Load() {
		return fmt.Errorf("%w: the cloud must vouch for %s, and is away", head.ErrUnavailable, l.Identity)
	}
	select {
	case h.vouching <- struct{}{}:
		defer func() { <-h.vouching }()
	default:
		return fmt.Errorf("%w: the cloud is asked about too many logins", head.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, h.o.CallTimeout)
	told := make(chan error, 1)
	conn, err := h.o.Dial(l.Identity, func() string { return l.Token }, upstream.Callbacks{
		State: func(up bool, err error) {
			if !up && err == nil {
				err = upstream.ErrDown
			}
			select {
			case told <- err:
			default: // only the first word counts
			}
		},
	})
	if err != nil {
		cancel()
		return fmt.Errorf("%w: ask the cloud about %s: %w", head.ErrUnavailable, l.Identity, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := conn.Run(ctx); err != nil {
			h.log.Debug("login at the cloud ended", "id", l.Identity.String(), "error", err)
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	select {
	case err = <-told:
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, upstream.ErrNoIdentity):
		return fmt.Errorf("%w: %s: the cloud refuses the token: %w", head.ErrUnauthorized, l.Identity, err)
	}
	return fmt.Errorf("%w: ask the cloud about %s: %w", head.ErrUnavailable, l.Identity, err)
}

// errSpokenFor is why a connection is made anew that an identity has had by its own token.
var errSpokenFor = errors.New("the scope knows the identity: the hub speaks for it")

// ownToken gives the function for the connection of an identity that the cloud vouches for,
// nil for others.
func (h *Hub) ownToken(id iothub.Identity) func() string {
	if s := h.session(id); s == nil || !s.vouched() {
		return nil
	}
	return func() string {
		if s := h.session(id); s != nil && s.vouched() {
			return s.credentials().Token
		}
		// It has left, or the scope is enough for what it has shown since.
		if _, known := h.scope.Lookup(id); known {
			h.jobs.add("speak for "+id.String(), func(context.Context) { h.pool.Break(id, errSpokenFor) })
		}
		return ""
	}
}

// refusedByCloud ends the session of one whom the cloud has vouched for, when it does not any
// more.
func (h *Hub) refusedByCloud(id iothub.Identity, err error) {
	if s := h.session(id); s != nil && s.vouched() && errors.Is(err, client.ErrUnauthorized) {
		s.client.Disconnect(fmt.Errorf("%w: %w", head.ErrExpired, err))
	}
}
