// Package headtest is what the tests of the protocol heads share: a backend in memory,
// and a server on the loopback.
package headtest

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Backend is a head.Backend in memory. Its function fields may be set before it is used;
// each has a harmless default.
type Backend struct {
	Auth        func(head.Login) error
	Hang        func(context.Context) error // instead of Check
	OnTelemetry func(m *iothub.Message, done func(error))
	OnTwin      func() (iothub.TwinProperties, error)
	OnPatch     func(patch json.RawMessage, ifVersion int64) (int64, error)

	Sessions chan *Session // every admitted session, in order

	mu      sync.Mutex
	current map[iothub.Identity]*Session
}

// NewBackend makes a backend that admits everybody.
func NewBackend() *Backend {
	return &Backend{Sessions: make(chan *Session, 64), current: make(map[iothub.Identity]*Session)}
}

// Session is what a client was given. What it does is to be received from the channels.
type Session struct {
	b        *Backend
	Login    head.Login
	Client   head.Client
	Messages chan *iothub.Message
	Features chan string // "+c2d", "-c2d"
	Renewed  chan head.Login
	Closed   chan error
}

// Connect implements head.Backend. The newest session of an identity ends the one before.
func (b *Backend) Connect(_ context.Context, login head.Login, client head.Client) (head.Session, error) {
	if err := b.check(login); err != nil {
		return nil, err
	}
	s := &Session{
		b: b, Login: login, Client: client,
		Messages: make(chan *iothub.Message, 4096),
		Features: make(chan string, 16),
		Renewed:  make(chan head.Login, 16),
		Closed:   make(chan error, 2),
	}
	b.mu.Lock()
	old := b.current[login.Identity]
	b.current[login.Identity] = s
	b.mu.Unlock()
	if old != nil {
		old.Client.Disconnect(head.ErrReplaced)
	}
	b.Sessions <- s
	return s, nil
}

// Telemetry implements head.Session.
func (s *Session) Telemetry(_ context.Context, m *iothub.Message, done func(error)) {
	if s.b.OnTelemetry != nil {
		s.Messages <- m
		s.b.OnTelemetry(m, done)
		return
	}
	done(nil)
	s.Messages <- m
}

// Check implements head.Backend.
func (b *Backend) Check(ctx context.Context, login head.Login) error {
	if b.Hang != nil {
		return b.Hang(ctx)
	}
	return b.check(login)
}

func (b *Backend) check(login head.Login) error {
	b.mu.Lock()
	auth := b.Auth
	b.mu.Unlock()
	if auth == nil {
		return nil
	}
	return auth(login)
}

// SetAuth changes Auth while the backend is in use.
func (b *Backend) SetAuth(auth func(head.Login) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Auth = auth
}

// Renew implements head.Session.
func (s *Session) Renew(_ context.Context, login head.Login) error {
	if err := s.b.check(login); err != nil {
		return err
	}
	s.Renewed <- login
	return nil
}

// Twin implements head.Session.
func (s *Session) Twin(context.Context) (iothub.TwinProperties, error) {
	if s.b.OnTwin != nil {
		return s.b.OnTwin()
	}
	return iothub.TwinProperties{Desired: json.RawMessage(`{"k":1,"$version":12}`), Reported: json.RawMessage(`{"$version":3}`)}, nil
}

// PatchReported implements head.Session.
func (s *Session) PatchReported(_ context.Context, patch json.RawMessage, ifVersion int64) (int64, error) {
	if s.b.OnPatch != nil {
		return s.b.OnPatch(patch, ifVersion)
	}
	return 4, nil
}

// Subscribe implements head.Session.
func (s *Session) Subscribe(f head.Feature) { s.Features <- "+" + f.String() }

// Unsubscribe implements head.Session.
func (s *Session) Unsubscribe(f head.Feature) { s.Features <- "-" + f.String() }

// Close implements head.Session.
func (s *Session) Close(err error) {
	s.b.mu.Lock()
	if s.b.current[s.Login.Identity] == s {
		delete(s.b.current, s.Login.Identity)
	}
	s.b.mu.Unlock()
	s.Closed <- err
}
