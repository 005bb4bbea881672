package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

const (
	managedBy = "IotEdge"
	// What was settled is trusted this long, so that a module whose image cannot
	// be pulled does not cause calls to the cloud in every cycle.
	identityTrust = time.Minute
)

// identities settles the cloud identities that a diff needs.
type identities struct {
	api           Identities
	deleteOrphans bool
	log           *slog.Logger

	version int64
	settled map[string]launch.Identity // by module name
	removed map[string]bool            // identities looked at for deletion
	until   time.Time
}

// ensure returns the identities of added and updated modules, by module name,
// creating those that are missing, and deletes those of removed modules that this
// agent manages. With an error the map is empty, unless lenient is set: then it has
// what could be settled, and an identity that exists needs no confirmation by the
// cloud. That is for what must not need the cloud: the way back from a deployment, and one
// that is local.
func (s *identities) ensure(ctx context.Context, wanted *manifest.Deployment, d plan.Diff, lenient bool) (map[string]launch.Identity, error) {
	now := time.Now()
	if s.version != wanted.Version || now.After(s.until) {
		s.version, s.until = wanted.Version, now.Add(identityTrust)
		s.settled, s.removed = map[string]launch.Identity{}, map[string]bool{}
	}
	if s.covers(d) {
		return s.settled, nil
	}
	if err := s.settle(ctx, wanted, d, lenient); err != nil {
		s.until = time.Time{}
		if lenient {
			return s.settled, fmt.Errorf("identity: %w", err)
		}
		return nil, fmt.Errorf("identity: %w", err)
	}
	return s.settled, nil
}

func needed(d plan.Diff) []string {
	var names []string
	if d.Agent != nil {
		names = append(names, d.Agent.Name)
	}
	for _, m := range d.Added {
		names = append(names, m.Name)
	}
	for _, m := range d.Updated {
		names = append(names, m.Name)
	}
	return names
}

func (s *identities) covers(d plan.Diff) bool {
	for _, name := range needed(d) {
		if _, ok := s.settled[name]; !ok {
			return false
		}
	}
	for _, c := range d.Removed {
		if !s.removed[c.Name] {
			return false
		}
	}
	return true
}

func (s *identities) settle(ctx context.Context, wanted *manifest.Deployment, d plan.Diff, lenient bool) error {
	list, err := s.api.Identities(ctx)
	if err != nil {
		return err
	}
	byID := make(map[string]launch.Identity, len(list))
	for _, id := range list {
		byID[id.ModuleID] = id
	}
	var errs []error
	for _, name := range needed(d) {
		if _, done := s.settled[name]; done {
			continue
		}
		id, exists := byID[manifest.CloudID(name)]
		switch {
		case !exists:
			id, err = s.api.CreateIdentity(ctx, manifest.CloudID(name), managedBy)
		case name != manifest.AgentName:
			listed := id
			if id, err = s.api.UpdateIdentity(ctx, id); err != nil && lenient && !errors.Is(err, launch.ErrNotFound) {
				s.log.Warn("identity is used as it was known last", "module", name, "error", err)
				id, err = listed, nil
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		s.settled[name] = id
	}
	for _, c := range d.Removed {
		if id, ok := byID[c.Name]; ok && ours(id) {
			if err := s.delete(ctx, id.ModuleID); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		s.removed[c.Name] = true
	}
	if s.deleteOrphans {
		errs = append(errs, s.sweep(ctx, wanted, list, d)...)
	}
	return errors.Join(errs...)
}

// sweep deletes identities that this agent's kind manages and no module has.
func (s *identities) sweep(ctx context.Context, wanted *manifest.Deployment, list []launch.Identity, d plan.Diff) []error {
	var errs []error
	gone := map[string]bool{}
	for _, c := range d.Removed {
		gone[c.Name] = true
	}
	for _, id := range list {
		if _, used := wanted.Modules[id.ModuleID]; used || gone[id.ModuleID] || !ours(id) {
			continue
		}
		if err := s.delete(ctx, id.ModuleID); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func (s *identities) delete(ctx context.Context, id string) error {
	s.log.Info("identity is deleted", "module", id)
	if err := s.api.DeleteIdentity(ctx, id); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return nil
}

// ours tells whether the identity may be deleted: those of the system modules and
// those that users made may not.
func ours(id launch.Identity) bool {
	return !strings.HasPrefix(id.ModuleID, "$") && strings.EqualFold(id.ManagedBy, managedBy)
}
