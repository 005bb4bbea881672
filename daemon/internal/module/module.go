// Package module is what the daemon does with modules, above the engine: sockets
// that come and go with them, environment and privileges, pull policy, and the
// order of things at start, update and end.
//
// Operations on one module are done one after the other, also those of several
// steps (Update, the watchdog's). A module's workload socket exists before its
// container is created, because the container mounts it.
package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// Agent is the container name of the agent.
const Agent = "edgeAgent"

// StopAllTimeout is how long the modules may take to end together.
const StopAllTimeout = 30 * time.Second

// ErrClosing says that the daemon is about to end and starts nothing any more.
var ErrClosing = errors.New("daemon is stopping")

// Sockets are the workload sockets of modules.
type Sockets interface {
	// Open makes the module's socket and serves it; an open one is left alone.
	Open(module string) error
	// Close ends the listener and its connections; the file stays.
	Close(module string)
	// Remove also removes the file.
	Remove(module string) error
}

// Spec says how to create a module.
type Spec struct {
	Name  string
	Image string
	// ImageID, if set, is the id of the image; see runtime.PullRequest.ID.
	ImageID string
	Pull    runtime.PullPolicy
	Auth    runtime.Auth
	Env     []createopts.EnvVar
	Create  createopts.Options
}

// Options configures New.
type Options struct {
	Runtime runtime.Runtime
	Sockets Sockets
	// ImageUsed is told the id of an image when it is pulled for a module, which
	// comes before every creation, and when a container of it is removed; may be nil.
	ImageUsed func(id string)
	// Kept lists the ids of images that must not go although no module is made from
	// them, to go back to them; may be nil. It is called with locks of modules held.
	Kept func() []string
	// AllowElevated keeps privileged mode and added capabilities.
	AllowElevated bool
	Log           *slog.Logger
}

// Manager runs modules. It is safe for concurrent use.
type Manager struct {
	opt Options

	mu      sync.Mutex
	locks   map[string]*lock
	closing chan struct{}  // closed, with mu held, by Refuse
	work    sync.WaitGroup // background updates; Go is called with mu held
}

// finishTimeout bounds what is carried to its end although its caller is gone.
const finishTimeout = 5 * time.Minute

// lock is a module's lock and how many hold or wait for it.
type lock struct {
	ch    chan struct{}
	users int
}

// New makes a manager. Close it to wait for its background work.
func New(opt Options) *Manager {
	return &Manager{opt: opt, locks: map[string]*lock{}, closing: make(chan struct{})}
}

// Refuse makes all that would start something fail from now on, with ErrClosing,
// and breaks off what is carried on without its caller.
func (m *Manager) Refuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refusingLocked() == nil {
		close(m.closing)
	}
}

// Close refuses and waits for updates in the background, which end with the
// context that they were given.
func (m *Manager) Close() {
	m.Refuse()
	m.work.Wait()
}

// Refusing returns ErrClosing after Refuse or Close.
func (m *Manager) Refusing() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refusingLocked()
}

func (m *Manager) refusingLocked() error {
	select {
	case <-m.closing:
		return ErrClosing
	default:
		return nil
	}
}

// finish returns a context for steps that belong together: it outlives the
// caller, who may be the very module that is stopped, but not the daemon: Refuse
// breaks off what began before it. What begins after it is a stop or a removal, and
// may come to its end. The caller of finish must call done.
func (m *Manager) finish(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	if m.Refusing() != nil {
		return ctx, cancel
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-m.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); watch.Wait() }
}

// acquire takes the lock of a module, or gives up with ctx.
func (m *Manager) acquire(ctx context.Context, name string) (release func(), err error) {
	m.mu.Lock()
	l := m.locks[name]
	if l == nil {
		l = &lock{ch: make(chan struct{}, 1)}
		m.locks[name] = l
	}
	l.users++
	m.mu.Unlock()
	leave := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(m.locks, name)
		}
	}
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Exclusive runs f while no other operation on the module runs. f works through
// the Steps, which do not lock.
func (m *Manager) Exclusive(ctx context.Context, name string, f func(Steps) error) error {
	release, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	return f(Steps{m: m, name: name})
}

// List returns all modules, ordered by name.
func (m *Manager) List(ctx context.Context) ([]runtime.State, error) {
	return m.opt.Runtime.List(ctx)
}

// Get returns one module.
func (m *Manager) Get(ctx context.Context, name string) (runtime.State, error) {
	return m.opt.Runtime.Get(ctx, name)
}

// Create pulls as the policy says and makes the module, stopped.
func (m *Manager) Create(ctx context.Context, spec Spec) error {
	return m.Exclusive(ctx, spec.Name, func(s Steps) error {
		if _, err := s.Get(ctx); err == nil {
			return fmt.Errorf("%w: %s", runtime.ErrExists, spec.Name)
		} else if !errors.Is(err, runtime.ErrNotFound) {
			return err
		}
		return s.Create(ctx, spec)
	})
}

// Update replaces the module: pull, stop, remove, create, and start if asked.
func (m *Manager) Update(ctx context.Context, spec Spec, start bool) error {
	return m.Exclusive(ctx, spec.Name, func(s Steps) error { return s.Replace(ctx, spec, start) })
}

// Later begins f, as Exclusive does, and returns at once; for the agent, which cannot
// wait for its own end. ctx bounds the wait for the lock. Close waits for f, whose
// failure is logged.
func (m *Manager) Later(ctx context.Context, name string, f func(Steps) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refusingLocked(); err != nil {
		return err
	}
	m.work.Go(func() {
		if err := m.Exclusive(ctx, name, f); err != nil {
			m.opt.Log.Error("update in the background", "module", name, "error", err)
		}
	})
	return nil
}

// PrepareUpdate pulls the image of spec.
func (m *Manager) PrepareUpdate(ctx context.Context, spec Spec) error {
	if err := m.Refusing(); err != nil {
		return err
	}
	_, err := m.pull(ctx, spec)
	return err
}

// pull brings the image, whose id it returns, and notes its use.
func (m *Manager) pull(ctx context.Context, spec Spec) (id string, err error) {
	img, err := m.opt.Runtime.Pull(ctx, pullRequest(spec))
	if err != nil {
		return "", err
	}
	m.imageUsed(img.ID)
	return img.ID, nil
}

func (m *Manager) imageUsed(id string) {
	if m.opt.ImageUsed != nil {
		m.opt.ImageUsed(id)
	}
}

// Delete stops and removes the module and its socket; volumes stay. One that does
// not exist is runtime.ErrNotFound.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.Exclusive(ctx, name, func(s Steps) error {
		if _, err := s.Get(ctx); err != nil {
			return err
		}
		ctx, done := m.finish(ctx)
		defer done()
		return s.Remove(ctx)
	})
}

// Start starts the module.
func (m *Manager) Start(ctx context.Context, name string) error {
	return m.Exclusive(ctx, name, func(s Steps) error {
		if _, err := s.Get(ctx); err != nil {
			return err // and no socket for what does not exist
		}
		return s.Start(ctx)
	})
}

// Stop stops the module and then its socket.
func (m *Manager) Stop(ctx context.Context, name string) error {
	return m.Exclusive(ctx, name, func(s Steps) error {
		ctx, done := m.finish(ctx)
		defer done()
		return s.Stop(ctx, runtime.DefaultStopTimeout)
	})
}

// Restart stops and starts the module; its socket stays.
func (m *Manager) Restart(ctx context.Context, name string) error {
	return m.Exclusive(ctx, name, func(s Steps) error {
		if err := m.Refusing(); err != nil {
			return err
		}
		ctx, done := m.finish(ctx)
		defer done()
		if err := m.opt.Runtime.Stop(ctx, name, runtime.DefaultStopTimeout); err != nil {
			return err
		}
		return s.Start(ctx)
	})
}
