package edge

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// jobs runs work that must not hold up a callback. A job with the name of one that
// still waits replaces it, so the number that wait is bounded by the number of
// names: a few for each identity. Two of one name never run at the same time, and
// the one added last runs last.
type jobs struct {
	workers int
	wake    chan struct{} // capacity 1

	mu      sync.Mutex
	waiting map[string]func(context.Context)
	order   []string // names that wait, the oldest first
	running map[string]bool
}

func newJobs(workers int) *jobs {
	return &jobs{workers: workers, wake: make(chan struct{}, 1),
		waiting: make(map[string]func(context.Context)), running: make(map[string]bool)}
}

func (j *jobs) add(name string, f func(context.Context)) {
	j.mu.Lock()
	if _, ok := j.waiting[name]; !ok {
		j.order = append(j.order, name)
	}
	j.waiting[name] = f
	j.mu.Unlock()
	j.nudge()
}

func (j *jobs) nudge() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest job whose name is not running.
func (j *jobs) next() (name string, f func(context.Context)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.IndexFunc(j.order, func(name string) bool { return !j.running[name] })
	if i < 0 {
		return "", nil
	}
	name = j.order[i]
	j.order = slices.Delete(j.order, i, i+1)
	f = j.waiting[name]
	delete(j.waiting, name)
	j.running[name] = true
	return name, f
}

func (j *jobs) finished(name string) {
	j.mu.Lock()
	delete(j.running, name)
	j.mu.Unlock()
	j.nudge() // the next of the name may have waited for this one
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
		for ctx.Err() == nil {
			name, f := j.next()
			if f == nil {
				break
			}
			g.Go(func() error {
				defer j.finished(name)
				f(ctx)
				return nil
			})
		}
	}
}
