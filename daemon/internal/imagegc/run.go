package imagegc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Engine is what Run needs of the engine.
type Engine interface {
	runtime.Images
	List(ctx context.Context) ([]runtime.State, error)
}

// Options configures Run. All fields are needed.
type Options struct {
	Uses   *Uses
	Engine Engine
	// Kept lists the ids of images that always stay, to go back to them.
	Kept func() []string
	// Agent is the reference of the bootstrap agent's image, which always stays.
	Agent string
	// Days is how often, Hour and Minute when in the day of Location.
	Days, Hour, Minute int
	Location           *time.Location
	// MinAge is how long an image must not have been used.
	MinAge time.Duration
	Log    *slog.Logger
}

const (
	// longestWait bounds a timer, so that a changed clock is noticed.
	longestWait = time.Hour
	// retryAfter is the pause after the engine could not be asked.
	retryAfter = time.Hour
)

// Run removes images until ctx ends, then returns nil. Failures are logged.
func Run(ctx context.Context, o Options) error {
	next := o.following(time.Now(), 0)
	for {
		wait := time.Until(next)
		if latest := time.Duration(o.Days+1) * 24 * time.Hour; wait > latest {
			next = o.following(time.Now(), 0) // the clock was set back
			continue
		}
		if wait > 0 {
			timer := time.NewTimer(min(wait, longestWait))
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil //nolint:nilerr // the regular end
			case <-timer.C:
			}
			continue
		}
		if err := o.collect(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the regular end
			}
			o.Log.ErrorContext(ctx, "remove unused images", "error", err)
			next = time.Now().Add(retryAfter)
			continue
		}
		next = o.following(time.Now(), o.Days-1)
	}
}

// following is the first time of cleaning after now, and so many days later.
func (o *Options) following(now time.Time, days int) time.Time {
	local := now.In(o.Location)
	at := func(day int) time.Time {
		return time.Date(local.Year(), local.Month(), local.Day()+day, o.Hour, o.Minute, 0, 0, o.Location)
	}
	if first := at(0); first.After(now) {
		return at(days)
	}
	return at(days + 1)
}

// collect removes what is due. One image that cannot be removed stops nothing.
func (o *Options) collect(ctx context.Context) error {
	limit := time.Now().Add(-o.MinAge)
	due := o.Uses.before(limit)
	if len(due) == 0 {
		return nil
	}
	keep, err := o.needed(ctx)
	if err != nil {
		return err
	}
	there, err := o.Engine.ListImages(ctx)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	names := map[string][]string{}
	for _, img := range there {
		names[img.ID] = append(names[img.ID], img.Names...)
	}
	var gone []string
	for _, id := range due {
		switch {
		case keep[id]:
			continue
		case names[id] == nil:
			gone = append(gone, id)
			continue
		case o.Uses.usedSince(id, limit):
			continue // used while others were removed
		}
		err := o.Engine.RemoveImage(ctx, id)
		if errors.Is(err, runtime.ErrInUse) {
			continue
		}
		if err != nil {
			o.Log.WarnContext(ctx, "unused image stays", "image", id, "names", names[id], "error", err)
			continue
		}
		o.Log.InfoContext(ctx, "unused image removed", "image", id, "names", names[id])
		gone = append(gone, id)
	}
	o.Uses.forget(gone)
	return nil
}

// needed are the images of all containers and of the bootstrap agent, and those to go
// back to.
func (o *Options) needed(ctx context.Context) (map[string]bool, error) {
	modules, err := o.Engine.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	out := map[string]bool{}
	for _, id := range o.Kept() {
		out[id] = true
	}
	for _, m := range modules {
		out[m.ImageID] = true
	}
	agent, err := o.Engine.Pull(ctx, runtime.PullRequest{Image: o.Agent, Policy: runtime.PullNever})
	switch {
	case err == nil:
		out[agent.ID] = true
	case !errors.Is(err, runtime.ErrImageNotFound):
		return nil, fmt.Errorf("bootstrap agent image: %w", err)
	}
	return out, nil
}
