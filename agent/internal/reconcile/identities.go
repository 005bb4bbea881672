package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

	outdated map[string]string // generations that modules have no more, by module name
}

// terms are those of ensure.
type terms struct {
	// lenient: with an error what could be settled counts, and an identity that exists needs
	// no confirmation by the cloud. That is for what must not need the cloud: the way back
	// from a deployment, and one that is local.
	lenient bool
	// keep has modules whose identities stay though they are removed: they may come back.
	keep map[string]manifest.Module
}

// ensure returns the identities of added and updated modules, by module name,
// creating those that are missing, and deletes those of removed modules that this
// agent manages. With an error the map is empty, unless the terms are lenient.
func (s *identities) ensure(ctx context.Context, wanted *manifest.Deployment, d plan.Diff, on terms) (map[string]launch.Identity, error) {
	now := time.Now()
	if s.version != wanted.Version || now.After(s.until) {
		s.version, s.until = wanted.Version, now.Add(identityTrust)
		s.settled, s.removed = map[string]launch.Identity{}, map[string]bool{}
	}
	if s.covers(d) {
		return s.settled, nil
	}
	if err := s.settle(ctx, wanted, d, on); err != nil {
		s.until = time.Time{}
		if on.lenient {
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

// listed returns the identities that there are, also by module id.
func (s *identities) listed(ctx context.Context) ([]launch.Identity, map[string]launch.Identity, error) {
	list, err := s.api.Identities(ctx)
	if err != nil {
		return nil, nil, err
	}
	byID := make(map[string]launch.Identity, len(list))
	for _, id := range list {
		byID[id.ModuleID] = id
	}
	return list, byID, nil
}

func (s *identities) settle(ctx context.Context, wanted *manifest.Deployment, d plan.Diff, on terms) error {
	list, byID, err := s.listed(ctx)
	if err != nil {
		return err
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
			if id, err = s.api.UpdateIdentity(ctx, id); err != nil && on.lenient && !errors.Is(err, launch.ErrNotFound) {
				s.log.Warn("identity is used as it was known last", "module", name, "error", err)
				id, err = listed, nil
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		s.settled[name] = id
		delete(s.removed, name)
	}
	for _, c := range d.Removed {
		_, stays := on.keep[c.Name]
		if id, ok := byID[c.Name]; ok && ours(id) && !stays {
			if err := s.delete(ctx, id.ModuleID); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		s.removed[c.Name] = true
	}
	if s.deleteOrphans {
		errs = append(errs, s.sweep(ctx, wanted, list, d, on.keep)...)
	}
	return errors.Join(errs...)
}

// current returns those containers that were told the generation that their identity has
// now. One that was made anew meanwhile is another identity: its keys are not registered yet,
// and the container cannot seal for it. Containers that do not say what they were told are
// taken as they are, and so are all while identities cannot be listed: they have to be
// looked after.
func (s *identities) current(ctx context.Context, engines []plan.Engine) []plan.Engine {
	var list []plan.Engine
	ask := false
	for _, e := range engines {
		told, says := e.Labels[plan.LabelGeneration]
		if old, is := s.outdated[e.Name]; is && says && old == told {
			continue // and asks no more: it may be long until it can be made anew
		}
		list = append(list, e)
		ask = ask || says
	}
	if !ask {
		return list
	}
	_, now, err := s.listed(ctx)
	if err != nil {
		s.log.Warn("modules are taken as they are: their identities cannot be listed", "error", err)
		return list
	}
	return slices.DeleteFunc(list, func(e plan.Engine) bool {
		told, says := e.Labels[plan.LabelGeneration]
		if !says || now[manifest.CloudID(e.Name)].Generation == told {
			return false
		}
		s.log.Info("module was made for an identity that it has no more", "module", e.Name)
		if s.outdated == nil {
			s.outdated = map[string]string{}
		}
		s.outdated[e.Name] = told
		return true
	})
}

// sweep deletes identities that this agent's kind manages and no module has.
func (s *identities) sweep(ctx context.Context, wanted *manifest.Deployment, list []launch.Identity, d plan.Diff, keep map[string]manifest.Module) []error {
	var errs []error
	gone := map[string]bool{}
	for _, c := range d.Removed {
		gone[c.Name] = true
	}
	for _, id := range list {
		_, used := wanted.Modules[id.ModuleID]
		_, stays := keep[id.ModuleID]
		if used || stays || gone[id.ModuleID] || !ours(id) {
			continue
		}
		if err := s.delete(ctx, id.ModuleID); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// retire deletes those identities of modules that this agent manages.
func (s *identities) retire(ctx context.Context, modules []string) error {
	_, byID, err := s.listed(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range modules {
		if id, ok := byID[name]; ok && ours(id) {
			errs = append(errs, s.delete(ctx, id.ModuleID))
		}
	}
	return errors.Join(errs...)
}

func (s *identities) delete(ctx context.Context, id string) error {
	s.log.Info("identity is deleted", "module", id)
	if err := s.api.DeleteIdentity(ctx, id); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	delete(s.settled, id) // the version need not be another one when its module comes back
	return nil
}

// ours tells whether the identity may be deleted: those of the system modules and
// those that users made may not.
func ours(id launch.Identity) bool {
	return !strings.HasPrefix(id.ModuleID, "$") && strings.EqualFold(id.ManagedBy, managedBy)
}
