package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// session is one connected client.
type session struct {
	hub      *Hub
	identity iothub.Identity
	client   head.Client
	gone     chan struct{} // closed with the session
	places   places        // for messages to the client's inputs

	mu       sync.Mutex
	login    head.Login // changed by Renew
	byCloud  bool       // the cloud has vouched for it; changed by Renew
	features map[head.Feature]bool
	locks    map[string]bool // of cloud-to-device messages that the client has
	closed   bool
}

var (
	_ head.Session = (*session)(nil)
	_ head.Storing = (*session)(nil)
)

func (s *session) id() iothub.Identity { return s.identity }

// credentials is how the client has come in, or what it has shown since.
func (s *session) credentials() head.Login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.login
}

// Renew replaces the credentials.
func (s *session) Renew(ctx context.Context, l head.Login) error {
	if l.Identity != s.identity {
		return fmt.Errorf("%w: credentials are of another identity", head.ErrInvalid)
	}
	if err := s.hub.Check(ctx, l); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.login, s.byCloud = l, s.hub.auth.Vouched(l)
	return nil
}

// vouched tells whether the cloud has vouched for the client.
func (s *session) vouched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byCloud
}

// Telemetry stamps the message with who sent it and hands it to the router.
func (s *session) Telemetry(_ context.Context, m *iothub.Message, done func(error)) {
	s.telemetry(m, s.hub.queue.Append, done)
}

// TelemetryLater is Telemetry of a head that calls Store.
func (s *session) TelemetryLater(_ context.Context, m *iothub.Message, done func(error)) {
	s.telemetry(m, s.hub.queue.AppendLater, done)
}

// Store has messages stored; see head.Storing.
func (s *session) Store(stored func()) { s.hub.queue.Commit(stored) }

func (s *session) telemetry(m *iothub.Message, store storer, done func(error)) {
	id := s.id().String()
	output := m.System.Get(iothub.OutputName)
	s.hub.metrics.Received(id, output)
	s.hub.metrics.Size(id, len(m.Body))
	if n := m.Size(); n > iothub.MaxMessageSize {
		// In its turn, as every answer.
		s.hub.settleInOrder(fmt.Errorf("%w: message has %d bytes, at most %d", head.ErrTooLarge, n, iothub.MaxMessageSize), done)
		return
	}
	dropHubOwned(m)
	s.hub.stamp(m, s.id(), s.credentials().ModelID)
	s.hub.accept(m, store, done)
}

// Twin answers from the cloud or from disk.
func (s *session) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	start := time.Now()
	t, err := s.hub.twins.Get(ctx, s.id())
	if err != nil {
		return t, err
	}
	source := "edge_hub"
	if s.hub.pool.Up(s.id()) {
		source = "upstream"
	}
	s.hub.metrics.TwinRead(source, s.id().String(), time.Since(start))
	return t, nil
}

// PatchReported keeps the patch and tells the routes. The version is not known
// here: the cloud gives it later.
func (s *session) PatchReported(ctx context.Context, patch json.RawMessage, _ int64) (int64, error) {
	start := time.Now()
	err := s.hub.twins.PatchReported(ctx, s.id(), patch)
	var invalid *iothub.ValidationError
	if errors.As(err, &invalid) {
		return 0, fmt.Errorf("%w: %w", head.ErrInvalid, err)
	}
	if err != nil {
		return 0, err
	}
	s.hub.metrics.Reported("edge_hub", s.id().String(), time.Since(start))
	s.hub.accept(s.hub.twinChange(s.id(), patch), s.hub.queue.Append, func(err error) {
		if err != nil {
			s.hub.log.Warn("twin change notification not stored", "id", s.id().String(), "error", err)
		}
	})
	return 0, nil
}

// Subscribe notes what the client wants and starts what that needs.
func (s *session) Subscribe(f head.Feature) { s.want(f, true) }

// Unsubscribe takes it back.
func (s *session) Unsubscribe(f head.Feature) { s.want(f, false) }

func (s *session) want(f head.Feature, on bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	changed := s.features[f] != on
	s.features[f] = on
	s.mu.Unlock()
	if f == head.Inputs && on {
		s.hub.wakeInputs(s.id()) // also when it is another filter
		return
	}
	if !changed {
		return
	}
	switch f {
	case head.Methods:
		if on {
			s.hub.announceMethods()
		}
		s.hub.subscribeUpstream(s.id())
	case head.C2D, head.DesiredChanges:
		s.hub.subscribeUpstream(s.id())
	case head.Inputs, head.TwinResponses: // nobody else need know
	}
}

// wants tells whether the client is there and wants it.
func (s *session) wants(f head.Feature) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features[f] && !s.closed
}

func (s *session) upstreamWants() upstream.Wants {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return upstream.Wants{}
	}
	return upstream.Wants{
		Desired: s.features[head.DesiredChanges],
		Methods: s.features[head.Methods],
		C2D:     s.features[head.C2D] && !s.id().IsModule(), // modules get none through a gateway
	}
}

// hold notes a cloud-to-device message that the client gets by its lock token; false
// if it has that one (spec edgehub-core 11). Over MQTT the cloud gives no tokens.
func (s *session) hold(lock string) bool {
	if lock == "" {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[lock] {
		return false
	}
	if s.locks == nil {
		s.locks = make(map[string]bool)
	}
	s.locks[lock] = true
	return true
}

func (s *session) letGo(lock string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, lock)
}

// Close is called by the head when the connection has ended; the head logs why.
func (s *session) Close(error) {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return
	}
	close(s.gone)
	s.hub.leave(s)
}
