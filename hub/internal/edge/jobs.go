package edge

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// jobs runs work that must not hold up a callback. A job with the name of one that
// still waits replaces it, so the number that wait is bounded by the number of
// names: a few for each identity.
type jobs struct {
	workers int
	wake    chan struct{}

	mu      sync.Mutex
	waiting map[string]func(context.Context)
	order   []string
}

func newJobs(workers int) *jobs {
	return &jobs{workers: workers, wake: make(chan struct{}, 1), waiting: make(map[string]func(context.Context))}
}

func (j *jobs) add(name string, f func(context.Context)) {
	j.mu.Lock()
	if _, ok := j.waiting[name]; !ok {
		j.order = append(j.order, name)
	}
	j.waiting[name] = f
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *jobs) next() func(context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.order) == 0 {
		return nil
	}
	name := j.order[0]
	j.order = j.order[1:]
	f := j.waiting[name]
	delete(j.waiting, name)
	return f
}

// run works until ctx ends and returns when no job runs any more.
func (j *jobs) run(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(j.workers)
	defer g.Wait() //nolint:errcheck // jobs return no error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		}
		for f := j.next(); f != nil && ctx.Err() == nil; f = j.next() {
			g.Go(func() error { f(ctx); return nil })
		}
	}
}
