package mqtt

import (
	"context"
	"slices"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Subscription is one granted filter.
type Subscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
}

// SessionStore keeps what MQTT calls a session between connections: the granted
// filters of an identity. Methods may be called concurrently; calls for one
// identity come one after the other, except while a newer connection displaces an
// older one. An error of any method ends the connection (the client comes back).
type SessionStore interface {
	// Load returns the session of id; found is false if there is none.
	Load(ctx context.Context, id iothub.Identity) (subs []Subscription, found bool, err error)
	// Save replaces the session of id; it may be without subscriptions. It has
	// happened durably when Save returns.
	Save(ctx context.Context, id iothub.Identity, subs []Subscription) error
	// Delete forgets the session of id, if there is one.
	Delete(ctx context.Context, id iothub.Identity) error
}

// MemorySessions is a SessionStore that forgets with the process. It grows with
// the number of identities that ever connected with clean session 0.
type MemorySessions struct {
	mu   sync.Mutex
	subs map[iothub.Identity][]Subscription
}

var _ SessionStore = (*MemorySessions)(nil)

// NewMemorySessions returns an empty store.
func NewMemorySessions() *MemorySessions {
	return &MemorySessions{subs: make(map[iothub.Identity][]Subscription)}
}

// Load implements SessionStore.
func (m *MemorySessions) Load(_ context.Context, id iothub.Identity) ([]Subscription, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	subs, ok := m.subs[id]
	return slices.Clone(subs), ok, nil
}

// Save implements SessionStore.
func (m *MemorySessions) Save(_ context.Context, id iothub.Identity, subs []Subscription) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs[id] = slices.Clone(subs)
	return nil
}

// Delete implements SessionStore.
func (m *MemorySessions) Delete(_ context.Context, id iothub.Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.subs, id)
	return nil
}
