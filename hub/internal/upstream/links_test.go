package upstream_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

func TestRenewedTrustCountsForTheNextConnection(t *testing.T) {
	for _, p := range []client.Protocol{client.MQTT, client.AMQP} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t, p)
				var roots atomic.Pointer[x509.CertPool]
				roots.Store(x509.NewCertPool())
				pool := runPool(t, c.dialer(func(o *client.Options) { o.RootCAs, o.Roots = nil, roots.Load }), &listener{}, upstream.Options{})
				if err := pool.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				if pool.Up(leaf) {
					t.Fatal("connected to a cloud that is not trusted")
				}
				roots.Store(c.roots)
				time.Sleep(2 * time.Minute)
				if !pool.Up(leaf) {
					t.Error("not connected with the new roots")
				}
			})
		})
	}
}

func TestMessagesOfStrangersWaitIfTheyAreToBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{KeepForUnknown: true})
		var told error
		pool.Send(from(iothub.DeviceIdentity("stranger"), "x"), upstream.Lane{First: true}, func(err error) { told = err })
		if !errors.Is(told, upstream.ErrDown) || errors.Is(told, upstream.ErrNoIdentity) {
			t.Errorf("error %v", told)
		}
	})
}

// slowListener hears of states with a delay: while its gate is closed.
type slowListener struct {
	listener
	gate chan struct{}
	hold func(up bool) bool // which states wait at the gate
}

func (l *slowListener) CloudState(id iothub.Identity, up bool, err error) {
	if l.hold(up) {
		<-l.gate
	}
	l.listener.CloudState(id, up, err)
}

// An "up" that comes after the "down" of its end would leave the hub believing that
// there is a cloud.
func TestStatesAreToldInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		l := &slowListener{gate: make(chan struct{}), hold: func(up bool) bool { return up }}
		pool := runPool(t, f.dial, l, upstream.Options{})
		if _, err := pool.Twin(t.Context(), leaf); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the up is on its way
		broken := make(chan struct{})
		go func() {
			pool.Break(leaf, upstream.ErrHanging)
			close(broken)
		}()
		synctest.Wait()
		close(l.gate)
		<-broken
		synctest.Wait()
		if states, _, _, _ := l.heard(); fmt.Sprint(states) != "[leaf up leaf down]" {
			t.Errorf("states %v", states)
		}
	})
}

func TestBrokenConnectionIsNotMadeAnewForOneWhoHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		l := &slowListener{gate: make(chan struct{}), hold: func(up bool) bool { return !up }}
		pool := runPool(t, f.dial, l, upstream.Options{})
		if err := pool.Subscribe(leaf, upstream.Wants{Methods: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		broken := make(chan struct{})
		go func() {
			pool.Break(leaf, upstream.ErrHanging)
			close(broken)
		}()
		synctest.Wait()
		if err := pool.Subscribe(leaf, upstream.Wants{}); err != nil { // the client leaves just then
			t.Fatal(err)
		}
		close(l.gate)
		<-broken
		synctest.Wait()
		if n := f.count(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestConnectionThatNobodyUsesGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{Max: 3})
		id := func(i int) iothub.Identity { return iothub.DeviceIdentity(fmt.Sprint("d", i)) }
		if err := pool.Subscribe(id(0), upstream.Wants{C2D: true}); err != nil {
			t.Fatal(err)
		}
		pool.Send(from(id(1), "under way"), upstream.Lane{First: true}, func(error) {})
		for i := 2; i < 6; i++ {
			time.Sleep(time.Second)
			if _, err := pool.Twin(t.Context(), id(i)); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		synctest.Wait()
		for i, want := range []bool{true, true, false, false, false, true} {
			if pool.Up(id(i)) != want {
				t.Errorf("connection %d: up %v", i, !want)
			}
		}
	})
}

func TestConnectionOfOneWhoHasLeftEndsWhenItIsNotBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{})
		pool.Leave(leaf) // there is none
		if _, err := pool.Twin(t.Context(), leaf); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		pool.Leave(leaf)
		synctest.Wait()
		if pool.Up(leaf) {
			t.Error("an idle one stays")
		}
		var sent []error
		pool.Send(from(leaf, "x"), upstream.Lane{First: true}, func(err error) { sent = append(sent, err) })
		synctest.Wait()
		pool.Leave(leaf)
		synctest.Wait()
		if !pool.Up(leaf) {
			t.Fatal("ended with a message under way")
		}
		f.made[1].pending[0](nil)
		synctest.Wait()
		if pool.Up(leaf) || len(sent) != 1 || sent[0] != nil {
			t.Errorf("up %v, results %v", pool.Up(leaf), sent)
		}
		if err := pool.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
			t.Fatal(err)
		}
		pool.Leave(leaf)
		synctest.Wait()
		if !pool.Up(leaf) {
			t.Error("ended although something is wanted")
		}
	})
}
