package cloud

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Connect implements head.Backend.
func (h *Hub) Connect(_ context.Context, login head.Login, client head.Client) (head.Session, error) {
	s, err := h.admit(login, client)
	if err != nil {
		h.log.Info("connection refused", "identity", login.Identity, "protocol", login.Protocol,
			"remote", remote(login), "error", err)
		return nil, err
	}
	h.log.Debug("connected", "identity", login.Identity, "protocol", login.Protocol, "remote", remote(login), "actor", s.grant.Actor)
	return s, nil
}

// Check implements head.Backend.
func (h *Hub) Check(_ context.Context, login head.Login) error {
	var err error
	if login.Identity.IsZero() {
		err = h.access.ConnectPolicy(login.Token)
	} else {
		_, err = h.access.Connect(login)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	return nil
}

// Renew implements head.Session.
func (s *session) Renew(_ context.Context, login head.Login) error {
	if login.Identity != s.id {
		return fmt.Errorf("%w: credentials are of another identity", head.ErrInvalid)
	}
	grant, err := s.h.access.Connect(login)
	if err != nil {
		return fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	s.life.Lock()
	s.login, s.grant = login, grant
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	s.life.Unlock()
	s.armExpiry()
	return nil
}

// credentials is how the client has come in, or what it has shown since.
func (s *session) credentials() (head.Login, access.Grant) {
	s.life.RLock()
	defer s.life.RUnlock()
	return s.login, s.grant
}

func remote(l head.Login) string {
	if l.Remote == nil {
		return ""
	}
	return l.Remote.String()
}

func (h *Hub) admit(login head.Login, client head.Client) (*session, error) {
	grant, err := h.access.Connect(login)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	generation, err := h.generation(login.Identity)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	s := &session{h: h, id: login.Identity, login: login, grant: grant, client: client, generation: generation,
		calls: map[*call]struct{}{}}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", head.ErrUnavailable, head.ErrShutdown)
	}
	old := h.sessions[s.id]
	h.sessions[s.id] = s
	save := h.presence.set(s.id, true, login.ModelID)
	h.wakeLocked()
	h.mu.Unlock()
	save()
	if !s.id.IsModule() {
		h.deployments.changed()
	}
	if old != nil {
		old.disconnect(head.ErrReplaced)
	}
	// Who was disabled or deleted since the first look has not been found among
	// the sessions: look again.
	if err := h.recheck(s); err != nil {
		s.end()
		return nil, fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	s.armExpiry()
	return s, nil
}

// wakeLocked wakes those who wait for a session to be ready. h.mu is held.
func (h *Hub) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Hub) generation(id iothub.Identity) (string, error) {
	if id.IsModule() {
		m, err := h.registry.Module(id)
		return m.GenerationID, err
	}
	d, err := h.registry.Device(id.Device)
	return d.GenerationID, err
}

// recheck tells whether a session would still be admitted.
func (h *Hub) recheck(s *session) error {
	generation, err := h.generation(s.id)
	if err != nil {
		return err
	}
	if generation != s.generation {
		return fmt.Errorf("%s was deleted and made again", s.id)
	}
	login, _ := s.credentials()
	_, err = h.access.Connect(login)
	return err
}

// leave takes a session out of the table.
func (h *Hub) leave(s *session) {
	h.mu.Lock()
	if h.sessions[s.id] != s {
		h.mu.Unlock()
		return
	}
	delete(h.sessions, s.id)
	save := h.presence.set(s.id, false, "")
	last := h.closed && len(h.sessions) == 0
	h.mu.Unlock()
	save()
	if !s.id.IsModule() {
		h.deployments.changed()
	}
	if last {
		close(h.idle) // nobody comes in any more, so this happens once
	}
}

func (h *Hub) session(id iothub.Identity) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// identitiesChanged ends the sessions whose identity, or whose right to act for
// it, is gone, and tells the edge devices concerned.
func (h *Hub) identitiesChanged(changes []registry.Change) {
	touched := map[string]bool{}
	for _, c := range changes {
		touched[c.ID.Device] = true
	}
	h.mu.Lock()
	var check []*session
	for _, s := range h.sessions {
		// A session for another's sake depends on the chain between, too.
		_, grant := s.credentials()
		if touched[s.id.Device] || !grant.Actor.IsZero() {
			check = append(check, s)
		}
	}
	h.mu.Unlock()
	h.endUnlessAdmitted(check)
	for _, c := range changes {
		if c.Deleted {
			h.presence.forget(c.ID)
			h.messages.Forget(c.ID)
			if h.o.Deleted != nil {
				h.o.Deleted(c.ID)
			}
		}
		for _, edge := range c.Scopes {
			h.refresh.add(edge, c.ID)
		}
	}
	h.deployments.changed()
}

// endUnlessAdmitted ends those sessions that would not be admitted now.
func (h *Hub) endUnlessAdmitted(check []*session) {
	for _, s := range check {
		if err := h.recheck(s); err != nil {
			h.log.Info("connection ended, since it would not be admitted now", "identity", s.id, "error", err)
			s.disconnect(head.ErrExpired)
		}
	}
}

// recheckAll is endUnlessAdmitted for everybody.
func (h *Hub) recheckAll() {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.sessions))
	h.mu.Unlock()
	h.endUnlessAdmitted(all)
}

// recheckEvery is the pause between two checks of everybody. Credentials that run
// out end their session by a timer; this is for a clock that was set forward, which
// timers do not see.
const recheckEvery = 5 * time.Minute

func (h *Hub) reauthenticate(ctx context.Context) error {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.recheckAll()
		}
	}
}

// armExpiry ends the session when its credentials run out.
func (s *session) armExpiry() {
	s.life.Lock()
	defer s.life.Unlock()
	if s.grant.Expires.IsZero() {
		return
	}
	expires := s.grant.Expires
	left := expires.Sub(s.h.o.Now())
	// Longer timers than this overflow; no connection lives that long.
	left = min(left, 100*365*24*time.Hour)
	if !s.closed {
		s.expiry = time.AfterFunc(left, func() {
			if _, grant := s.credentials(); grant.Expires != expires {
				return // renewed at the last moment
			}
			s.h.log.Info("connection ended by expiry of its credentials", "identity", s.id)
			s.disconnect(head.ErrExpired)
		})
	}
}
