package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// sessionStore keeps MQTT subscriptions over a restart of the hub.
type sessionStore struct {
	s      *store.Store
	bucket store.Bucket
	log    *slog.Logger
}

var _ mqtt.SessionStore = (*sessionStore)(nil)

func newSessions(s *store.Store, log *slog.Logger) *sessionStore {
	return &sessionStore{s: s, bucket: s.Bucket("cloud.mqtt-sessions"), log: log}
}

// Load implements mqtt.SessionStore.
func (m *sessionStore) Load(_ context.Context, id iothub.Identity) ([]mqtt.Subscription, bool, error) {
	raw, err := m.bucket.Get(id.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("subscriptions of %s: %w", id, err)
	}
	var subs []mqtt.Subscription
	if err := json.Unmarshal(raw, &subs); err != nil {
		return nil, false, fmt.Errorf("subscriptions of %s: %w", id, err)
	}
	return subs, true, nil
}

// Save implements mqtt.SessionStore.
func (m *sessionStore) Save(ctx context.Context, id iothub.Identity, subs []mqtt.Subscription) error {
	raw, err := json.Marshal(subs)
	if err != nil {
		return fmt.Errorf("subscriptions of %s: %w", id, err)
	}
	return m.bucket.Put(ctx, id.String(), raw)
}

// Delete implements mqtt.SessionStore.
func (m *sessionStore) Delete(ctx context.Context, id iothub.Identity) error {
	return m.bucket.Delete(ctx, id.String())
}

// deleted forgets the subscriptions of an identity that is no more; nobody waits.
func (m *sessionStore) deleted(id iothub.Identity) {
	var b store.Batch
	b.Delete(m.bucket.Key(id.String()), 0)
	m.s.Commit(&b, func(err error) {
		if err != nil {
			m.log.Warn("subscriptions not removed", "identity", id, "error", err)
		}
	})
}
