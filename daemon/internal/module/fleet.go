package module

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// StopAll stops all modules at the same time, within StopAllTimeout. It returns
// the joined failures.
func (m *Manager) StopAll(ctx context.Context) error {
	return m.each(ctx, func(ctx context.Context, s Steps) error { return s.Stop(ctx, StopAllTimeout) })
}

// RemoveAll removes all modules and their sockets.
func (m *Manager) RemoveAll(ctx context.Context) error {
	return m.each(ctx, func(ctx context.Context, s Steps) error { return s.Remove(ctx) })
}

func (m *Manager) each(ctx context.Context, f func(context.Context, Steps) error) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	errs := make([]error, len(all))
	for i, s := range all {
		g.Go(func() error {
			errs[i] = m.Exclusive(ctx, s.Name, func(st Steps) error { return f(ctx, st) })
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Name, errs[i])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// RestartRunning stops all modules that run and starts them again, the agent last,
// so that they fetch new certificates (spec security-daemon 7.3). Nothing happens
// when the agent does not run.
func (m *Manager) RestartRunning(ctx context.Context) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	var names []string
	agent := false
	for _, s := range all {
		switch {
		case s.Status != runtime.StatusRunning:
		case s.Name == Agent:
			agent = true
		default:
			names = append(names, s.Name)
		}
	}
	if !agent {
		return nil
	}
	names = append(names, Agent)
	var errs []error
	// The agent first, or it would start again what is being stopped.
	for i := len(names) - 1; i >= 0; i-- {
		errs = append(errs, m.Stop(ctx, names[i]))
	}
	for _, name := range names {
		errs = append(errs, m.Start(ctx, name))
	}
	return errors.Join(errs...)
}

// OpenSockets serves the sockets of all modules there are.
func (m *Manager) OpenSockets(ctx context.Context) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := m.opt.Sockets.Open(s.Name); err != nil {
			return fmt.Errorf("socket of %s: %w", s.Name, err)
		}
	}
	return nil
}
