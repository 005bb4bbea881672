package reconcile

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/runner"
)

const (
	// pullPatience is how long the plan waits for a pull. A longer one goes on
	// beside the plan, so that it holds back no other module.
	pullPatience = 2 * time.Second
	// maxPulls is how many pulls are under way at most; the daemon answers a few
	// calls of the agent at a time, and others need their turn.
	maxPulls = 3
	// keepPull is how long the result of a pull waits for being asked for.
	keepPull = 30 * time.Minute
)

// pulls carries out pulls that may outlast the plan that gave them. Used by the
// goroutine of the loop; the goroutines of pulls end with end.
type pulls struct {
	daemon Daemon
	wake   func()
	wait   sync.WaitGroup
	list   map[string]*pull
}

type pull struct {
	cancel context.CancelFunc
	late   atomic.Bool   // the plan no longer waits
	done   chan struct{} // closed when the rest is set
	err    error
	ended  time.Time
}

func newPulls(daemon Daemon, wake func()) *pulls {
	return &pulls{daemon: daemon, wake: wake, list: map[string]*pull{}}
}

// pull fetches the image of s. runner.ErrPending tells that it goes on; the loop is
// woken at its end and asks again.
func (p *pulls) pull(ctx context.Context, s launch.Spec) error {
	key := fmt.Sprintf("%s\x00%s\x00%s", s.Name, s.Image, s.Digest)
	one, wait := p.list[key], time.Duration(0)
	if one == nil {
		if p.running() >= maxPulls {
			return runner.ErrPending
		}
		one, wait = p.begin(ctx, s), pullPatience
		p.list[key] = one
	}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case <-one.done:
		delete(p.list, key)
		return one.err
	case <-patience.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	one.late.Store(true)
	select { // it may have ended before it was called late
	case <-one.done:
		delete(p.list, key)
		return one.err
	default:
		return runner.ErrPending
	}
}

func (p *pulls) begin(ctx context.Context, s launch.Spec) *pull {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	one := &pull{cancel: cancel, done: make(chan struct{})}
	p.wait.Go(func() {
		defer cancel()
		one.err = p.daemon.Pull(ctx, s)
		one.ended = time.Now()
		close(one.done)
		if one.late.Load() {
			p.wake()
		}
	})
	return one
}

// running counts the pulls under way and drops results that nobody asked for.
func (p *pulls) running() int {
	n := 0
	for key, one := range p.list {
		select {
		case <-one.done:
			if time.Since(one.ended) > keepPull {
				delete(p.list, key)
			}
		default:
			n++
		}
	}
	return n
}

// end cancels what is under way and waits for it.
func (p *pulls) end() {
	for _, one := range p.list {
		one.cancel()
	}
	p.wait.Wait()
}
