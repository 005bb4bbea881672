package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// crowd is n devices that want everything and send.
type crowd struct {
	t    *testing.T
	pool *upstream.Pool
	ids  []iothub.Identity
	mu   sync.Mutex
	sent map[string]int
	errs map[string][]error
}

func newCrowd(t *testing.T, pool *upstream.Pool, n int) *crowd {
	k := &crowd{t: t, pool: pool, sent: map[string]int{}, errs: map[string][]error{}}
	for i := range n {
		k.ids = append(k.ids, iothub.DeviceIdentity(fmt.Sprint("d", i)))
		if err := pool.Subscribe(k.ids[i], upstream.Wants{Desired: true, Methods: true, C2D: true}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// send sends a message of each device and waits for all outcomes.
func (k *crowd) send(body string) {
	var wg sync.WaitGroup
	for _, id := range k.ids {
		wg.Add(1)
		k.pool.Send(from(id, body), upstream.Lane{First: true}, func(err error) {
			defer wg.Done()
			k.mu.Lock()
			defer k.mu.Unlock()
			if err != nil {
				k.errs[id.String()] = append(k.errs[id.String()], err)
			} else {
				k.sent[id.String()]++
			}
		})
	}
	wg.Wait()
}

func (k *crowd) allUp(but ...iothub.Identity) {
	k.t.Helper()
	for _, id := range k.ids {
		if want := !slices.Contains(but, id); k.pool.Up(id) != want {
			k.t.Errorf("%s: up %v, want %v", id, !want, want)
		}
	}
}

func TestHundredIdentitiesOnOneConnectionOneOfThemRevoked(t *testing.T) {
	for _, p := range []client.Protocol{client.AMQP, client.AMQPWS} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, rounds, midway = 100, 40, 20
				c := newCloud(t, p)
				defer c.close()
				l := &listener{}
				before := runtime.NumGoroutine()
				pool, stop := runPool(t, c.dialer(nil), l, upstream.Options{})
				defer stop()
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
		defer c.close()
		l := &listener{}
		pool, stop := runPool(t, c.dialer(nil), l, upstream.Options{})
		defer stop()
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

func TestTokensAreRenewedOnTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		defer c.close()
		l := &listener{}
		var signs atomic.Int32
		var failing atomic.Bool
		pool, stop := runPool(t, c.dialer(func(o *client.Options) {
			o.TokenLifetime = 2 * time.Minute
			o.Signer = client.SignerFunc(func(_ context.Context, data []byte) ([]byte, error) {
				if signs.Add(1); failing.Load() {
					return nil, errors.New("daemon is away")
				}
				return key.Sign(data)
			})
		}), l, upstream.Options{})
		defer stop()
		k := newCrowd(t, pool, 1)
		synctest.Wait()
		var peer *amqpPeer
		c.set(func() {
			for p := range c.peers {
				peer = p
			}
		})
		for i := range 1000 {
			failing.Store(i > 50 && (i%102 > 98 || i%102 < 4))
			k.send(strconv.Itoa(i))
			c.mu.Lock()
			if time.Now().After(peer.expiry) {
				t.Fatalf("second %d: the token has expired", i)
			}
			c.mu.Unlock()
			time.Sleep(time.Second)
		}
		if len(k.errs) != 0 || k.sent["d0"] != 1000 {
			t.Errorf("%d sent, %v", k.sent["d0"], k.errs)
		}
		noneOvertook(t, "d0", c.bodies("d0"), 1000)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dials != 1 || len(c.logins) != 1 || peer.puts < 9 || peer.puts > 20 || int(signs.Load()) <= peer.puts {
			t.Errorf("%d dials, %d logins, %d tokens of %d tries", c.dials, len(c.logins), peer.puts, signs.Load())
		}
		if states, _, _, _ := l.heard(); fmt.Sprint(states) != "[d0 up]" {
			t.Errorf("states %v", states)
		}
	})
}

// What a token put too late leads to is the hub's choice: ours takes links away.
func TestIdleIdentityNoticesThatItIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		defer c.close()
		l := &listener{}
		pool, stop := runPool(t, c.dialer(nil), l, upstream.Options{})
		defer stop()
		k := &crowd{t: t, pool: pool, ids: []iothub.Identity{leaf}, sent: map[string]int{}, errs: map[string][]error{}}
		k.send("x") // it wants nothing, so no link of it receives
		c.revoke(leaf)
		time.Sleep(6 * time.Second)
		if pool.Up(leaf) {
			t.Error("not noticed")
		}
	})
}

func TestOutcomesOfSentMessages(t *testing.T) {
	for reason, final := range map[string]bool{
		"amqp:link:message-size-exceeded": true, "amqp:not-allowed": true, "com.microsoft:argument-error": true, "amqp:decode-error": true,
		"amqp:internal-error": false, "amqp:resource-limit-exceeded": false, "com.microsoft:device-container-throttled": false,
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t, client.AMQP)
				defer c.close()
				l := &listener{}
				pool, stop := runPool(t, c.dialer(nil), l, upstream.Options{})
				defer stop()
				var mu sync.Mutex
				var got []string
				for i, body := range []string{"a", "reject " + reason, "b"} {
					pool.Send(from(leaf, body), upstream.Lane{First: i == 0}, func(err error) {
						mu.Lock()
						defer mu.Unlock()
						word := "sent"
						switch {
						case errors.Is(err, upstream.ErrMessage):
							word = "refused"
						case errors.Is(err, upstream.ErrDown):
							word = "later"
						case err != nil:
							t.Errorf("error %v", err)
						}
						got = append(got, word)
					})
				}
				time.Sleep(time.Minute)
				want := "[sent later later]" // none passes one that is to be sent again
				if final {
					want = "[sent refused sent]"
				}
				mu.Lock()
				defer mu.Unlock()
				if fmt.Sprint(got) != want || !pool.Up(leaf) {
					t.Errorf("got %v, want %s", got, want)
				}
			})
		})
	}
}

func TestOutcomesOfCloudToDeviceMessages(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"taken":     {nil, "[leaf accepted false]"},
		"given up":  {fmt.Errorf("%w: no", client.ErrReject), "[leaf rejected false]"},
		"returned":  {errors.New("not now"), "[leaf released false]"},
		"not asked": {fmt.Errorf("%w: away", client.ErrKeep), "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t, client.AMQP)
				defer c.close()
				pool, stop := runPool(t, c.dialer(nil), &listener{take: tt.err}, upstream.Options{})
				defer stop()
				if err := pool.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				c.publish(topic.Topic{Kind: topic.C2D, Identity: leaf}, "x")
				synctest.Wait()
				c.mu.Lock()
				defer c.mu.Unlock()
				if got := fmt.Sprint(c.outcomes); got != tt.want {
					t.Errorf("outcomes %s, want %s", got, tt.want)
				}
			})
		})
	}
}
