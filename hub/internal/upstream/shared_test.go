package upstream_test

import (
	"context"
	"errors"
	"fmt"
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

func TestTokensAreRenewedOnTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		l := &listener{}
		var signs atomic.Int32
		var failing atomic.Bool
		pool := runPool(t, c.dialer(func(o *client.Options) {
			o.TokenLifetime = 2 * time.Minute
			o.Signer = client.SignerFunc(func(_ context.Context, data []byte) ([]byte, error) {
				if signs.Add(1); failing.Load() {
					return nil, errors.New("daemon is away")
				}
				return key.Sign(data)
			})
		}), l, upstream.Options{})
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
		l := &listener{}
		pool := runPool(t, c.dialer(nil), l, upstream.Options{})
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
				l := &listener{}
				pool := runPool(t, c.dialer(nil), l, upstream.Options{})
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
				pool := runPool(t, c.dialer(nil), &listener{take: tt.err}, upstream.Options{})
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
