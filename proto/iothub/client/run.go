package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	stableAfter  = 30 * time.Second // a connection that lasted so long resets the backoff
	renewGrace   = 5 * time.Second  // for handlers, then for acknowledgements, before a renewal
	stopGrace    = 2 * time.Second  // for acknowledgements when Run ends
	goodbyeGrace = time.Second      // for DISCONNECT
)

// errRenewed ends serving a link whose token is about to expire.
var errRenewed = errors.New("token is renewed")

// Run connects and stays connected until ctx ends; then it stops taking requests,
// gives outstanding acknowledgements two seconds, disconnects, and waits for all
// handlers. It returns nil then; the only other error is ErrClosed, when it was
// called before.
func (c *Client) Run(ctx context.Context) error {
	started := false
	c.update(func() {
		started = !c.running && !c.closed
		c.running = true
	})
	if !started {
		return ErrClosed
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.handle(ctx) })
	c.stayConnected(ctx)
	wg.Wait()
	for _, closer := range c.closers {
		if err := closer.Close(); err != nil {
			c.o.Logger.Debug("close", "err", err)
		}
	}
	return nil
}

// stayConnected makes one link after the other until ctx ends.
func (c *Client) stayConnected(ctx context.Context) {
	failures := 0
	var next credential // made ahead by a renewal
	for ctx.Err() == nil {
		c.report(Connection{State: Connecting})
		cred := next
		next = credential{}
		l, err := c.connect(ctx, &cred)
		if err == nil {
			up := time.Now()
			c.report(Connection{State: Connected})
			next, err = c.serve(ctx, l, cred)
			if errors.Is(err, errRenewed) {
				failures = 0
				continue
			}
			if time.Since(up) >= stableAfter {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			break
		}
		wait := c.backoff(failures)
		failures++
		c.report(Connection{State: Disconnected, Err: err, RetryIn: wait})
		sleep(ctx, wait)
	}
	c.update(func() { c.closed, c.link, c.renewing = true, nil, false })
	c.report(Connection{State: Disconnected})
}

// connect makes a link with all subscriptions and shows it to the client's users.
// It fills in cred if that is empty.
func (c *Client) connect(ctx context.Context, cred *credential) (l link, err error) {
	defer func() {
		if err != nil {
			l = nil
		}
		c.update(func() { c.link, c.renewing = l, false })
	}()
	if *cred == (credential{}) {
		if *cred, err = c.o.credential(ctx); err != nil {
			return nil, err
		}
	}
	dialCtx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
	defer cancel()
	made, err := c.transport.connect(dialCtx, *cred, &c.inbox)
	if err != nil {
		return nil, err
	}
	if err := c.enableWanted(ctx, made); err != nil {
		made.fail(err)
		c.closeLink(ctx, made)
		return nil, err
	}
	return made, nil
}

// enableWanted subscribes to what the client's users want. What the hub refuses
// is logged; the rest still works.
func (c *Client) enableWanted(ctx context.Context, l link) error {
	c.mu.Lock()
	wanted := c.wanted
	c.mu.Unlock()
	err := l.enable(ctx, wanted)
	if errors.Is(err, ErrRefused) {
		c.o.Logger.Error("subscription", "err", err)
		return nil
	}
	return err
}

// serve watches over a link until it ends, ctx ends or its token is due. It
// leaves the link closed. The error is errRenewed, with the next credential, or
// why the link ended.
func (c *Client) serve(ctx context.Context, l link, cred credential) (credential, error) {
	renew := time.NewTimer(0)
	defer renew.Stop()
	if cred.renewAt.IsZero() {
		renew.Stop()
	} else {
		renew.Reset(max(time.Until(cred.renewAt), c.o.MinBackoff))
	}
	for {
		select {
		case <-c.wake:
			if err := c.enableWanted(ctx, l); err != nil {
				l.fail(err)
			}
		case <-l.ended():
			c.update(func() { c.link = nil })
			c.closeLink(ctx, l)
			return credential{}, l.err()
		case <-renew.C:
			next, err := c.o.credential(ctx)
			if err != nil {
				c.o.Logger.Warn("token is not renewed", "err", err)
				renew.Reset(c.backoff(2))
				continue
			}
			switch err := l.renew(ctx, next); {
			case errors.Is(err, errors.ErrUnsupported):
				c.replace(ctx, l)
				return next, errRenewed
			case err != nil:
				c.o.Logger.Warn("token is not renewed", "err", err)
				renew.Reset(c.backoff(2))
			case !next.renewAt.IsZero():
				renew.Reset(max(time.Until(next.renewAt), c.o.MinBackoff))
			}
		case <-ctx.Done():
			c.update(func() { c.closed, c.link = true, nil })
			c.settle(context.WithoutCancel(ctx), l, stopGrace)
			c.closeLink(ctx, l)
			return credential{}, context.Cause(ctx)
		}
	}
}

// replace takes the link out of use in good order. Handlers finish first, because
// they may still send; then no request begins and those under way are answered.
// What is not done in time is sent or delivered again.
func (c *Client) replace(ctx context.Context, l link) {
	c.report(Connection{State: Renewing})
	c.update(func() { c.paused = true })
	c.awaitHandler(ctx, l)
	c.update(func() { c.link, c.renewing = nil, true })
	c.settle(ctx, l, renewGrace)
	c.closeLink(ctx, l)
	c.update(func() { c.paused = false })
}

// awaitHandler waits until no handler of messages runs, for a while.
func (c *Client) awaitHandler(ctx context.Context, l link) {
	ctx, cancel := context.WithTimeout(ctx, renewGrace)
	defer cancel()
	for {
		c.mu.Lock()
		busy, changed := c.busy, c.changed
		c.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-changed:
		case <-l.ended():
			return
		case <-ctx.Done():
			return
		}
	}
}

// settle waits until all requests of a link are answered, for a while.
func (c *Client) settle(ctx context.Context, l link, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	select {
	case <-l.idle():
	case <-l.ended():
	case <-ctx.Done():
	}
}

// closeLink closes a link, also when ctx has ended.
func (c *Client) closeLink(ctx context.Context, l link) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeGrace)
	defer cancel()
	l.close(ctx)
}

func (c *Client) report(s Connection) {
	switch {
	case s.Err != nil:
		c.o.Logger.Warn("connection", "state", s.State.String(), "err", s.Err, "retry", s.RetryIn)
	default:
		c.o.Logger.Debug("connection", "state", s.State.String())
	}
	if c.o.OnConnection != nil {
		c.o.OnConnection(s)
	}
}

func (c *Client) backoff(failures int) time.Duration {
	return backoff(c.o.MinBackoff, c.o.MaxBackoff, failures)
}

// backoff returns the wait after so many failures in a row: it doubles from least
// to most, up to half of it by chance.
func backoff(least, most time.Duration, failures int) time.Duration {
	base := leastBackoff(least, most, failures)
	return min(base+rand.N(base/2+1), most)
}

// leastBackoff is backoff without the part that is by chance.
func leastBackoff(least, most time.Duration, failures int) time.Duration {
	limit := max(most*2/3, least)
	for ; failures > 0 && least < limit; failures-- {
		least *= 2
	}
	return min(least, limit)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
