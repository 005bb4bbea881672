package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/rollout"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
)

// fallback is what the loop holds of the images and identities to go back to; which they
// are is in state.Taken.
type fallback struct {
	declared bool      // this process has told the daemon
	kept     []string  // what it has told
	retireAt time.Time // when identities that are not needed are tried again
}

// terms are those for identities. In a trial those of modules that the new deployment does
// not have are kept: the way back must not need a cloud that makes others, and what a module
// has sealed it can open as the same identity only.
func (l *Loop) terms() terms {
	t := terms{lenient: l.opts.Local || l.taken.Safe.Phase == rollout.Returned}
	if s := l.taken.Safe; s.Phase == rollout.Trial {
		t.keep = s.Old.Modules
	}
	return t
}

// retire deletes the identities that a trial has kept, when nobody can go back to them any
// more: but for those of modules that are wanted.
func (l *Loop) retire(ctx context.Context, wanted *manifest.Deployment) {
	phase := l.taken.Safe.Phase
	if len(l.taken.Retired) == 0 || phase == rollout.Pulling || phase == rollout.Trial || time.Now().Before(l.fallback.retireAt) {
		return
	}
	gone := slices.DeleteFunc(slices.Clone(l.taken.Retired), func(name string) bool {
		_, used := wanted.Modules[name]
		return used
	})
	if len(gone) > 0 {
		if err := l.ids.retire(ctx, gone); err != nil {
			l.log.Warn("identities of removed modules stay for now", "error", err)
			l.fallback.retireAt = time.Now().Add(identityTrust)
			return
		}
	}
	l.change(func(t *state.Taken) { t.Retired = nil })
}

// offer takes what the cloud asks for into the state of the safe deployment. When one
// begins, it notes which images the old deployment has: their names may go to others.
func (l *Loop) offer(wanted, inForce *manifest.Deployment, engines []plan.Engine) {
	before := l.taken.Safe
	next := before.Offer(wanted, inForce, now())
	if next == before {
		return
	}
	l.setSafe(next)
	if before.Old != nil || next.Old == nil {
		return
	}
	images := map[string]string{}
	for _, e := range engines {
		if m, ok := next.Old.Modules[e.Name]; ok && e.ImageHash != "" && manifest.SameImage(e.Image, m.Image) {
			images[e.Name] = e.ImageHash
		}
	}
	l.change(func(t *state.Taken) { t.Images = images })
}

// keepImages tells the daemon which images are needed to go back, when that has changed,
// and once in each process: the one before may not have come to it.
func (l *Loop) keepImages(ctx context.Context) error {
	hashes := slices.Compact(slices.Sorted(maps.Values(l.taken.Images)))
	if l.fallback.declared && slices.Equal(hashes, l.fallback.kept) {
		return nil
	}
	if err := l.daemon.KeepImages(ctx, hashes); err != nil {
		return fmt.Errorf("images to go back to: %w", err)
	}
	l.fallback.declared, l.fallback.kept = true, hashes
	return nil
}

// offline keeps the daemon from asking a registry for an image that is here. On the way
// back it is the image that the module had, whatever its name stands for now.
func (l *Loop) offline(s launch.Spec) launch.Spec {
	if l.hasImage(s.Name) {
		s.PullPolicy = "Never"
		if l.taken.Safe.Phase == rollout.Returned {
			s.ImageHash = l.taken.Images[s.Name]
		}
	}
	return s
}
