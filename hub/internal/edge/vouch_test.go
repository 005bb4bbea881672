package edge_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// stranger is a device that is not below the gateway.
var stranger = iothub.DeviceIdentity("stranger")

var keyOfStranger = sas.Key("a key that only the cloud knows.")

// vouching runs a hub whose cloud knows the stranger, and everybody else.
func vouching(mode string) func(*rig, *edge.Options) {
	return func(r *rig, o *edge.Options) {
		r.cloud.change(func() {
			r.cloud.keys = map[iothub.Identity]sas.Key{stranger: keyOfStranger, leaf: key, mod: key}
		})
		o.CloudVouches, o.CloudVouchesForAll = mode == "CloudAndScope", mode == "Cloud"
		routed(toCloud)(r, o)
	}
}

func TestTheCloudVouchesForWhomTheScopeDoesNotKnow(t *testing.T) {
	tests := []struct {
		name  string
		mode  string
		who   iothub.Identity
		key   sas.Key
		life  time.Duration
		away  bool
		want  error
		asked int
	}{
		{"nobody", "Scope", stranger, keyOfStranger, time.Hour, false, head.ErrUnauthorized, 0},
		{"a stranger", "CloudAndScope", stranger, keyOfStranger, time.Hour, false, nil, 1},
		{"a stranger with a wrong key", "CloudAndScope", stranger, key, time.Hour, false, head.ErrUnauthorized, 1},
		{"a stranger whose token has expired", "CloudAndScope", stranger, keyOfStranger, -time.Hour, false, head.ErrUnauthorized, 0},
		{"a stranger without a cloud", "CloudAndScope", stranger, keyOfStranger, time.Hour, true, head.ErrUnavailable, 0},
		{"one of the scope", "CloudAndScope", leaf, key, time.Hour, true, nil, 0},
		{"one of the scope with a wrong key", "CloudAndScope", leaf, key2, time.Hour, false, head.ErrUnauthorized, 0},
		{"all", "Cloud", leaf, key, time.Hour, false, nil, 1},
		{"all, with a wrong key", "Cloud", leaf, key2, time.Hour, false, head.ErrUnauthorized, 1},
		{"all, without a cloud", "Cloud", leaf, key, time.Hour, true, head.ErrUnavailable, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			within(t, vouching(tt.mode), func(t *testing.T, r *rig) {
				time.Sleep(10 * time.Minute)
				if tt.away {
					r.cloud.set(false)
				}
				if _, err := r.try(login(t, tt.who, tt.key, tt.life)); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if len(r.cloud.asked) != tt.asked {
					t.Errorf("asked about %v", r.cloud.asked)
				}
			})
		})
	}
}

// A cloud that does not answer holds up some logins for a time, and no others.
func TestTheCloudIsAskedAboutSomeAtATime(t *testing.T) {
	within(t, vouching("CloudAndScope"), func(t *testing.T, r *rig) {
		time.Sleep(10 * time.Minute)
		r.cloud.change(func() { r.cloud.silent = true })
		const most = 16
		began, ends := time.Now(), make(chan error)
		for range most + 1 {
			go func() {
				_, err := r.try(login(t, stranger, keyOfStranger, time.Hour))
				ends <- err
			}()
		}
		for i := range most + 1 {
			err, took := <-ends, time.Since(began)
			if !errors.Is(err, head.ErrUnavailable) || (took == 0) != (i == 0) || took > time.Minute {
				t.Errorf("login %d: %v after %s", i, err, took)
			}
		}
		if len(r.cloud.asked) != most {
			t.Errorf("asked about %d", len(r.cloud.asked))
		}
		r.cloud.change(func() { r.cloud.silent = false })
		if _, err := r.try(login(t, stranger, keyOfStranger, time.Hour)); err != nil {
			t.Error(err)
		}
	})
}

// With a certificate or on behalf of others nobody asks the cloud.
func TestTheCloudIsAskedAboutTokensOnly(t *testing.T) {
	within(t, vouching("Cloud"), func(t *testing.T, r *rig) {
		for name, l := range map[string]head.Login{
			"nothing shown": {Identity: stranger},
			"on behalf":     {Identity: stranger, Token: login(t, stranger, keyOfStranger, time.Hour).Token, AuthChain: "stranger;other"},
		} {
			if _, err := r.try(l); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(r.cloud.asked) != 0 {
			t.Errorf("asked about %v", r.cloud.asked)
		}
	})
}

func TestMessagesOfAStrangerGoUpByItsOwnToken(t *testing.T) {
	within(t, vouching("CloudAndScope"), func(t *testing.T, r *rig) {
		connect := func() *device {
			d, err := r.try(login(t, stranger, keyOfStranger, 3*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return d
		}
		d := connect()
		d.send("", "1")
		if got := r.cloud.got(stranger); got != "1" {
			t.Fatalf("the cloud has %q", got)
		}
		// What it leaves behind waits for it.
		r.cloud.set(false)
		d.send("", "2")
		d.end(nil)
		time.Sleep(2 * time.Minute)
		r.cloud.set(true)
		time.Sleep(10 * time.Minute)
		if got := r.cloud.got(stranger); got != "1" {
			t.Errorf("without it the cloud has %q", got)
		}
		d = connect()
		time.Sleep(10 * time.Minute)
		if got := r.cloud.got(stranger); got != "1 2" {
			t.Errorf("then the cloud has %q", got)
		}
		d.end(nil)
	})
}

// A stranger may be put below the gateway while it is connected. It then shows a token that
// the scope is enough for, and the hub has to speak for it where its own one has ended.
func TestTheHubSpeaksForAStrangerThatTheScopeKnowsByNow(t *testing.T) {
	within(t, vouching("CloudAndScope"), func(t *testing.T, r *rig) {
		d, err := r.try(login(t, stranger, keyOfStranger, 3*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		d.session.Subscribe(head.DesiredChanges) // so its connection is not idle
		d.send("", "1")
		r.dir.put(stranger, true)
		r.dir.change(func() {
			e := r.dir.entries[stranger]
			e.Primary = keyOfStranger
			r.dir.entries[stranger] = e
		})
		time.Sleep(2 * time.Hour)
		if err := d.session.Renew(t.Context(), login(t, stranger, keyOfStranger, 3*time.Hour)); err != nil {
			t.Fatal(err)
		}
		r.cloud.conn(stranger).again()
		d.send("", "2")
		time.Sleep(10 * time.Minute)
		if got := r.cloud.got(stranger); got != "1 2" || d.why() != nil {
			t.Errorf("the cloud has %q; disconnected: %v", got, d.why())
		}
	})
}

func TestStrangersAreDropped(t *testing.T) {
	for name, change := range map[string]func(r *rig){
		"when the token expires": func(*rig) { time.Sleep(190 * time.Minute) },
		"when the cloud refuses them": func(r *rig) {
			r.cloud.conn(stranger).cb.State(false, fmt.Errorf("%w: %w", upstream.ErrNoIdentity, client.ErrUnauthorized))
		},
		"when the scope knows better": func(r *rig) {
			r.dir.put(stranger, false)
			time.Sleep(2 * time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, vouching("CloudAndScope"), func(t *testing.T, r *rig) {
				d, err := r.try(login(t, stranger, keyOfStranger, 3*time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				d.send("", "1") // has a connection
				time.Sleep(30 * time.Minute)
				if err := d.why(); err != nil {
					t.Fatalf("disconnected: %v", err)
				}
				change(r)
				if err := d.why(); !errors.Is(err, head.ErrExpired) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
