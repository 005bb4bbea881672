//go:build !race

// With the race detector, Go 1.26.8 now and then ends in a segmentation fault of its own
// when a synctest bubble has thousands of timers, as here: in synctest.Run, on the
// system's stack. So these run without it, by a line of their own in the Makefile.

package upstream_test

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

func TestHundredIdentitiesOnOneConnectionOneOfThemRevoked(t *testing.T) {
	for _, p := range []client.Protocol{client.AMQP, client.AMQPWS} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, rounds, midway = 100, 40, 20
				c := newCloud(t, p)
				l := &listener{}
				before := runtime.NumGoroutine()
				pool := runPool(t, c.dialer(nil), l, upstream.Options{})
				k := newCrowd(t, pool, n)
				synctest.Wait()
				k.allUp()
				each := float64(runtime.NumGoroutine()-before) / n
				t.Logf("%.1f goroutines for an identity that wants everything, with those of the pool", each)
				if each > 30 {
					t.Errorf("%.1f goroutines for an identity", each)
				}
				bad := k.ids[37]
				for i := range rounds {
					if i == midway {
						c.revoke(bad)
					}
					k.send(strconv.Itoa(i))
					time.Sleep(time.Second)
				}
				k.allUp(bad)
				for _, id := range k.ids {
					name := id.String()
					switch {
					case id == bad:
						if k.sent[name] != midway || len(c.bodies(name)) != midway || len(k.errs[name]) != rounds-midway {
							t.Errorf("%s: %d sent, %d received, %d refused", name, k.sent[name], len(c.bodies(name)), len(k.errs[name]))
						}
					case k.sent[name] != rounds || len(k.errs[name]) != 0:
						t.Errorf("%s: %d sent, %v", name, k.sent[name], k.errs[name])
					default:
						noneOvertook(t, name, c.bodies(name), rounds)
					}
				}
				c.publish(topic.Topic{Kind: topic.C2D, Identity: k.ids[36]}, "still there")
				synctest.Wait()
				states, _, _, c2d := l.heard()
				if fmt.Sprint(c2d) != "[d36 still there]" {
					t.Errorf("messages %v", c2d)
				}
				for i, s := range states[n:] { // after all came up
					if s != "d37 down" || !errors.Is(l.errs[n+i], upstream.ErrNoIdentity) {
						t.Errorf("state %s: %v", s, l.errs[n+i])
					}
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.dials != 1 || len(c.conns) != 1 || len(c.logins) != n {
					t.Errorf("%d dials, %d connections, %d logins", c.dials, len(c.conns), len(c.logins))
				}
			})
		})
	}
}

func TestLostSharedConnectionIsMadeAnewOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		l := &listener{}
		pool := runPool(t, c.dialer(nil), l, upstream.Options{})
		k := newCrowd(t, pool, 50)
		time.Sleep(time.Minute)
		k.allUp()
		c.cut()
		synctest.Wait()
		k.allUp(k.ids...) // all have noticed at once
		time.Sleep(10 * time.Second)
		k.allUp()
		c.mu.Lock()
		if c.dials != 2 {
			t.Errorf("%d dials", c.dials)
		}
		c.dials, c.away = 0, true
		c.mu.Unlock()
		c.cut()
		// While the cloud is away 50 clients do not try more often than one.
		time.Sleep(30 * time.Minute)
		c.set(func() {
			c.away = false
			if c.dials < 25 || c.dials > 60 {
				t.Errorf("%d attempts in half an hour", c.dials)
			}
		})
		time.Sleep(2 * time.Minute)
		k.allUp()
		k.send("x")
		if len(k.errs) != 0 {
			t.Errorf("errors %v", k.errs)
		}
	})
}
