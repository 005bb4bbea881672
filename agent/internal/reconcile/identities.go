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
		delete(s.removed, name)
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

// current returns those containers that were told the generation that their identity has
// now. One that was made anew meanwhile is another identity: its keys are not registered yet,
// and the container cannot seal for it. Containers that do not say what they were told are taken as they
// are, and so are all while identities cannot be listed: they have to be looked after.
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
	ids, err := s.api.Identities(ctx)
	if err != nil {
		s.log.Warn("modules are taken as they are: their identities cannot be listed", "error", err)
		return list
	}
	now := make(map[string]string, len(ids))
	for _, id := range ids {
		now[id.ModuleID] = id.Generation
	}
	return slices.DeleteFunc(list, func(e plan.Engine) bool {
		told, says := e.Labels[plan.LabelGeneration]
		if !says || now[manifest.CloudID(e.Name)] == told {
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
	delete(s.settled, id) // the version need not be another one when its module comes back
	return nil
}

// ours tells whether the identity may be deleted: those of the system modules and
// those that users made may not.
func ours(id launch.Identity) bool {
	return !strings.HasPrefix(id.ModuleID, "$") && strings.EqualFold(id.ManagedBy, managedBy)
}
