package module

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Steps are the single operations on one module, for whoever holds its lock; see
// Manager.Exclusive.
type Steps struct {
	m    *Manager
	name string
}

// Get returns the module's state.
func (s Steps) Get(ctx context.Context) (runtime.State, error) {
	return s.m.opt.Runtime.Get(ctx, s.name)
}

// Fetch checks spec and brings its image, whose id it returns, and changes nothing that
// runs.
func (s Steps) Fetch(ctx context.Context, spec Spec) (id string, err error) {
	if _, err := s.prepare(spec); err != nil {
		return "", err
	}
	return s.m.pull(ctx, spec)
}

// Create pulls as the policy says, opens the socket and makes the container.
func (s Steps) Create(ctx context.Context, spec Spec) error {
	opts, err := s.prepare(spec)
	if err != nil {
		return err
	}
	if _, err := s.m.pull(ctx, spec); err != nil {
		return err
	}
	return s.make(ctx, opts)
}

// Replace makes the container anew: what can fail without harm comes first, and
// what follows is finished even if the caller gives up.
func (s Steps) Replace(ctx context.Context, spec Spec, start bool) error {
	opts, err := s.prepare(spec)
	if err != nil {
		return err
	}
	if _, err := s.m.pull(ctx, spec); err != nil {
		return err
	}
	ctx, done := s.m.finish(ctx)
	defer done()
	if err := s.Stop(ctx, runtime.DefaultStopTimeout); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	if err := s.remove(ctx); err != nil {
		return err
	}
	if err := s.make(ctx, opts); err != nil || !start {
		return err
	}
	return s.Start(ctx)
}

// prepare checks a spec and merges it into what the engine takes.
func (s Steps) prepare(spec Spec) (runtime.Spec, error) {
	if err := s.m.Refusing(); err != nil {
		return runtime.Spec{}, err
	}
	if err := runtime.CheckName(s.name); err != nil {
		return runtime.Spec{}, err
	}
	if spec.Image == "" {
		return runtime.Spec{}, fmt.Errorf("%w: no image", runtime.ErrInvalid)
	}
	opts := spec.Create
	if err := opts.AddEnv(spec.Env); err != nil {
		return runtime.Spec{}, fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
	}
	if !s.m.opt.AllowElevated {
		opts.DropElevated()
	}
	return runtime.Spec{Name: s.name, Image: spec.Image, ImageID: spec.ImageID, Options: opts}, nil
}

func (s Steps) make(ctx context.Context, spec runtime.Spec) error {
	if err := s.m.opt.Sockets.Open(s.name); err != nil {
		return fmt.Errorf("workload socket: %w", err)
	}
	if err := s.m.opt.Runtime.Create(ctx, spec); err != nil {
		return errors.Join(err, s.m.opt.Sockets.Remove(s.name))
	}
	return nil
}

// Start opens the socket and starts the container.
func (s Steps) Start(ctx context.Context) error {
	if err := s.m.Refusing(); err != nil {
		return err
	}
	if err := s.m.opt.Sockets.Open(s.name); err != nil {
		return fmt.Errorf("workload socket: %w", err)
	}
	return s.m.opt.Runtime.Start(ctx, s.name)
}

// Stop stops the container, which may use its socket to the end, then the socket.
func (s Steps) Stop(ctx context.Context, timeout time.Duration) error {
	if err := s.m.opt.Runtime.Stop(ctx, s.name, timeout); err != nil {
		return err
	}
	s.m.opt.Sockets.Close(s.name)
	return nil
}

// Remove removes container and socket.
func (s Steps) Remove(ctx context.Context) error {
	if err := s.remove(ctx); err != nil {
		return err
	}
	return s.m.opt.Sockets.Remove(s.name)
}

// remove removes the container, which has used its image until now.
func (s Steps) remove(ctx context.Context) error {
	st, lookup := s.Get(ctx)
	if err := s.m.opt.Runtime.Remove(ctx, s.name); err != nil {
		return err
	}
	if lookup == nil {
		s.m.imageUsed(st.ImageID)
	}
	s.m.ReleaseImages(ctx)
	return nil
}

func pullRequest(spec Spec) runtime.PullRequest {
	return runtime.PullRequest{Image: spec.Image, Auth: spec.Auth, Policy: spec.Pull, ID: spec.ImageID}
}
