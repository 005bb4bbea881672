package module

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// StopAll stops all modules within StopAllTimeout: the agent, which would start them
// again, and then the one that was started last, so that what others need ends after
// them. The next one has its turn when the one before has ended, or has taken its share
// of half the time. It returns the joined failures.
func (m *Manager) StopAll(ctx context.Context) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	started := func(s runtime.State) time.Time {
		if s.Name == Agent {
			return now
		}
		return s.Started
	}
	slices.SortStableFunc(all, func(a, b runtime.State) int { return started(b).Compare(started(a)) })
	deadline := now.Add(StopAllTimeout)
	share := StopAllTimeout / 2 / time.Duration(max(1, len(all)))
	var stopping sync.WaitGroup
	errs := make([]error, len(all))
	for i, s := range all {
		ended := make(chan struct{})
		stopping.Go(func() {
			defer close(ended)
			errs[i] = m.Exclusive(ctx, s.Name, func(st Steps) error { return st.Stop(ctx, max(0, time.Until(deadline))) })
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Name, errs[i])
			}
		})
		turn := time.NewTimer(share)
		select {
		case <-ended:
		case <-turn.C:
		case <-ctx.Done():
		}
		turn.Stop()
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// RemoveAll removes all modules and their sockets, at the same time.
func (m *Manager) RemoveAll(ctx context.Context) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	var removing sync.WaitGroup
	errs := make([]error, len(all))
	for i, s := range all {
		removing.Go(func() {
			if err := m.Exclusive(ctx, s.Name, func(st Steps) error { return st.Remove(ctx) }); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Name, err)
			}
		})
	}
	removing.Wait()
	return errors.Join(errs...)
}

// TakeOver serves the sockets of all modules. paths are those of all sockets that a module
// may have bound: modules that run on from an earlier daemon are given the new ones. One
// that cannot be is stopped, for the agent to start it again; that it cannot be stopped
// either is only logged.
func (m *Manager) TakeOver(ctx context.Context, paths func(module string) []string) error {
	all, err := m.opt.Runtime.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := m.opt.Sockets.Open(s.Name); err != nil {
			return fmt.Errorf("socket of %s: %w", s.Name, err)
		}
		if s.Status != runtime.StatusRunning {
			continue
		}
		err := m.opt.Runtime.Rebind(ctx, s.Name, paths(s.Name)...)
		if err == nil {
			m.opt.Log.InfoContext(ctx, "module runs on", "module", s.Name)
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err() // nothing is wrong with the module
		}
		m.opt.Log.WarnContext(ctx, "a module that ran on is stopped", "module", s.Name, "error", err)
		if err := m.Stop(ctx, s.Name); err != nil {
			m.opt.Log.ErrorContext(ctx, "stop a module that cannot call the daemon", "module", s.Name, "error", err)
		}
	}
	return nil
}
