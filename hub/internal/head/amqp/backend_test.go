package amqp_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// backend is an in-memory head.Backend. Its function fields may be set before it
// is used; each has a harmless default.
type backend struct {
	auth      func(head.Login) error
	hang      func(context.Context) error // instead of Check
	telemetry func(m *iothub.Message, done func(error))
	twin      func() (iothub.TwinProperties, error)
	patch     func(patch json.RawMessage, ifVersion int64) (int64, error)

	sessions chan *session // every admitted session, in order

	mu      sync.Mutex
	current map[iothub.Identity]*session
}

func newBackend() *backend {
	return &backend{sessions: make(chan *session, 64), current: make(map[iothub.Identity]*session)}
}

type session struct {
	b        *backend
	login    head.Login
	client   head.Client
	messages chan *iothub.Message
	features chan string // "+c2d", "-c2d"
	renewed  chan head.Login
	closed   chan error
}

func (b *backend) Connect(_ context.Context, login head.Login, client head.Client) (head.Session, error) {
	if err := b.check(login); err != nil {
		return nil, err
	}
	s := &session{
		b: b, login: login, client: client,
		messages: make(chan *iothub.Message, 4096),
		features: make(chan string, 16),
		renewed:  make(chan head.Login, 16),
		closed:   make(chan error, 2),
	}
	b.mu.Lock()
	old := b.current[login.Identity]
	b.current[login.Identity] = s
	b.mu.Unlock()
	if old != nil {
		old.client.Disconnect(head.ErrReplaced)
	}
	b.sessions <- s
	return s, nil
}

func (s *session) Telemetry(_ context.Context, m *iothub.Message, done func(error)) {
	if s.b.telemetry != nil {
		s.messages <- m
		s.b.telemetry(m, done)
		return
	}
	done(nil)
	s.messages <- m
}

func (b *backend) Check(ctx context.Context, login head.Login) error {
	if b.hang != nil {
		return b.hang(ctx)
	}
	return b.check(login)
}

func (b *backend) check(login head.Login) error {
	b.mu.Lock()
	auth := b.auth
	b.mu.Unlock()
	if auth == nil {
		return nil
	}
	return auth(login)
}

func (b *backend) setAuth(auth func(head.Login) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.auth = auth
}

func (s *session) Renew(_ context.Context, login head.Login) error {
	if err := s.b.check(login); err != nil {
		return err
	}
	s.renewed <- login
	return nil
}

func (s *session) Twin(context.Context) (iothub.TwinProperties, error) {
	if s.b.twin != nil {
		return s.b.twin()
	}
	return iothub.TwinProperties{Desired: json.RawMessage(`{"k":1,"$version":12}`), Reported: json.RawMessage(`{"$version":3}`)}, nil
}

func (s *session) PatchReported(_ context.Context, patch json.RawMessage, ifVersion int64) (int64, error) {
	if s.b.patch != nil {
		return s.b.patch(patch, ifVersion)
	}
	return 4, nil
}

func (s *session) Subscribe(f head.Feature)   { s.features <- "+" + f.String() }
func (s *session) Unsubscribe(f head.Feature) { s.features <- "-" + f.String() }

func (s *session) Close(err error) {
	s.b.mu.Lock()
	if s.b.current[s.login.Identity] == s {
		delete(s.b.current, s.login.Identity)
	}
	s.b.mu.Unlock()
	s.closed <- err
}

const patience = 5 * time.Second

// receive takes a value that must come.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// nothing checks that no value comes for a moment.
func nothing[T any](t *testing.T, what string, c <-chan T) {
	t.Helper()
	select {
	case v := <-c:
		t.Fatalf("unexpected %s: %v", what, v)
	case <-time.After(50 * time.Millisecond):
	}
}
