package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// sessions keeps the subscriptions of persistent MQTT sessions in the store.
type sessions struct{ bucket store.Bucket }

// Sessions returns a session store on a bucket.
func Sessions(b store.Bucket) mqtt.SessionStore { return sessions{b} }

// Load returns what was saved.
func (s sessions) Load(_ context.Context, id iothub.Identity) ([]mqtt.Subscription, bool, error) {
	raw, err := s.bucket.Get(id.String())
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("session of %s: %w", id, err)
	}
	var subs []mqtt.Subscription
	if err := json.Unmarshal(raw, &subs); err != nil {
		// As good as none: the client subscribes anew.
		return nil, false, nil //nolint:nilerr // see above
	}
	return subs, true, nil
}

// Save replaces what is saved.
func (s sessions) Save(ctx context.Context, id iothub.Identity, subs []mqtt.Subscription) error {
	raw, err := json.Marshal(subs)
	if err != nil {
		return fmt.Errorf("session of %s: %w", id, err)
	}
	if err := s.bucket.Put(ctx, id.String(), raw); err != nil {
		return fmt.Errorf("session of %s: %w", id, err)
	}
	return nil
}

// Delete forgets.
func (s sessions) Delete(ctx context.Context, id iothub.Identity) error {
	if err := s.bucket.Delete(ctx, id.String()); err != nil {
		return fmt.Errorf("session of %s: %w", id, err)
	}
	return nil
}
