package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// session is one connected device or module.
type session struct {
	h          *Hub
	id         iothub.Identity
	client     head.Client
	generation string

	// life is held for reading over each call to client, so that none is made
	// after Close has returned; the client's methods only queue.
	life     sync.RWMutex
	closed   bool
	login    head.Login // with grant changed by Renew
	grant    access.Grant
	expiry   *time.Timer
	features [head.DesiredChanges + 1]bool
	messages *c2d.Subscription
	calls    map[*call]struct{} // guarded by h.mu
}

var _ head.Session = (*session)(nil)

// Telemetry implements head.Session.
func (s *session) Telemetry(ctx context.Context, m *iothub.Message, done func(error)) {
	s.h.presence.touch(s.id)
	if n := m.Size(); n > iothub.MaxMessageSize {
		s.h.events.After(func() {
			done(fmt.Errorf("%w: message of %d bytes", head.ErrTooLarge, n))
		})
		return
	}
	login, grant := s.credentials()
	e := events.Event{Sender: s.id, Generation: s.generation, AuthMethod: grant.Method, ModelID: login.ModelID, Message: m}
	s.h.events.Append(ctx, e, func(err error) {
		if err != nil {
			s.h.log.Error("message not stored", "identity", s.id, "error", err)
			err = fmt.Errorf("%w: %w", head.ErrUnavailable, err)
		}
		done(err)
	})
}

// Twin implements head.Session.
func (s *session) Twin(context.Context) (iothub.TwinProperties, error) {
	s.h.presence.touch(s.id)
	t, err := s.h.twins.Get(s.id)
	if err != nil {
		return iothub.TwinProperties{}, headError(err)
	}
	return t.Properties()
}

// PatchReported implements head.Session.
func (s *session) PatchReported(ctx context.Context, patch json.RawMessage, ifVersion int64) (int64, error) {
	s.h.presence.touch(s.id)
	t, err := s.h.twins.Update(ctx, s.id, func(t *twin.Twin) error {
		if ifVersion != 0 && ifVersion != t.Reported.Version {
			return fmt.Errorf("%w: reported properties have version %d", head.ErrPrecondition, t.Reported.Version)
		}
		return t.PatchReported(patch, s.h.o.Now())
	}, nil)
	if err != nil {
		return 0, headError(err)
	}
	if !s.id.IsModule() {
		s.h.deployments.changed() // conditions are on devices
	}
	return t.Reported.Version, nil
}

// headError translates errors of the twin store.
func headError(err error) error {
	var invalid *twin.InvalidError
	switch {
	case errors.Is(err, twin.ErrNotFound):
		return fmt.Errorf("%w: %w", head.ErrNotFound, err)
	case errors.Is(err, twin.ErrTooLarge):
		return fmt.Errorf("%w: %w", head.ErrTooLarge, err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%w: %w", head.ErrInvalid, err)
	}
	return err
}

// Subscribe implements head.Session.
func (s *session) Subscribe(f head.Feature) {
	s.setFeature(f, true)
	switch f {
	case head.Methods:
		s.h.mu.Lock()
		s.h.wakeLocked()
		s.h.mu.Unlock()
	case head.C2D:
		s.subscribeMessages()
	case head.Inputs, head.TwinResponses, head.DesiredChanges: // nothing is started
	}
}

// Unsubscribe implements head.Session.
func (s *session) Unsubscribe(f head.Feature) {
	if s.setFeature(f, false); f == head.C2D {
		s.unsubscribeMessages()
	}
}

func (s *session) setFeature(f head.Feature, on bool) {
	s.life.Lock()
	defer s.life.Unlock()
	if int(f) < len(s.features) {
		s.features[f] = on
	}
}

func (s *session) has(f head.Feature) bool {
	s.life.RLock()
	defer s.life.RUnlock()
	return !s.closed && s.features[f]
}

// Close implements head.Session.
func (s *session) Close(err error) {
	s.h.log.Debug("disconnected", "identity", s.id, "reason", err)
	s.end()
}

// end closes the session for good; it may be called more than once.
func (s *session) end() {
	s.life.Lock()
	s.closed = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.messages != nil {
		s.messages.Close()
	}
	s.life.Unlock()
	s.h.leave(s)
	s.h.mu.Lock()
	for c := range s.calls {
		c.lose()
	}
	clear(s.calls)
	s.h.mu.Unlock()
}

func (s *session) disconnect(reason error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if !s.closed {
		s.client.Disconnect(reason)
	}
}

// desiredChanged passes a desired patch on, if the client wants it.
func (s *session) desiredChanged(patch json.RawMessage, version int64) {
	s.life.RLock()
	defer s.life.RUnlock()
	if !s.closed && s.features[head.DesiredChanges] {
		s.client.DesiredChanged(patch, version)
	}
}
