package upstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

var leaf = iothub.DeviceIdentity("leaf")

// runPool runs a pool up to the end of the test.
func runPool(t *testing.T, dial upstream.Dialer, h upstream.Handler, o upstream.Options) *upstream.Pool {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	pool := upstream.New(dial, h, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pool.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return pool
}

func from(id iothub.Identity, body string) *iothub.Message {
	m := &iothub.Message{Body: []byte(body)}
	m.System.Set(iothub.ConnectionDeviceID, id.Device)
	if id.IsModule() {
		m.System.Set(iothub.ConnectionModuleID, id.Module)
	}
	return m
}

// fakeConn is a connection to nowhere.
type fakeConn struct {
	id      iothub.Identity
	cb      upstream.Callbacks
	linger  time.Duration // how long Run takes to end
	running *atomic.Int32
	ran     atomic.Int32
	mu      sync.Mutex
	wants   []upstream.Wants
	pending []func(error)
}

func (c *fakeConn) Run(ctx context.Context) error {
	c.ran.Add(1)
	c.running.Add(1)
	defer c.running.Add(-1)
	c.cb.State(true, nil)
	<-ctx.Done()
	time.Sleep(c.linger)
	c.cb.State(false, nil)
	return nil
}

func (c *fakeConn) SendAsync(_ *iothub.Message, _ upstream.Lane, done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, done)
}

func (c *fakeConn) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{}, nil
}
func (c *fakeConn) PatchReported(context.Context, json.RawMessage) error { return nil }
func (c *fakeConn) Subscribe(w upstream.Wants) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wants = append(c.wants, w)
}

// fakes makes fakeConns and keeps them.
type fakes struct {
	linger  time.Duration
	running atomic.Int32
	mu      sync.Mutex
	made    []*fakeConn
}

func (f *fakes) dial(id iothub.Identity, _ func() string, cb upstream.Callbacks) (upstream.Conn, error) {
	if id.Device == "stranger" {
		return nil, upstream.ErrNoIdentity
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &fakeConn{id: id, cb: cb, linger: f.linger, running: &f.running}
	f.made = append(f.made, c)
	return c, nil
}

func (f *fakes) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.made)
}

func TestConnectionIsOpenedWhenNeededAndOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{})
		if f.count() != 0 {
			t.Error("a connection that nobody needs")
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := pool.Twin(t.Context(), leaf); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if f.count() != 1 || !pool.Up(leaf) {
			t.Errorf("%d connections, up %v", f.count(), pool.Up(leaf))
		}
	})
}

func TestSubscriptionMadeBeforeRunIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		l := &listener{}
		pool := upstream.New(f.dial, l, upstream.Options{Logger: slog.New(slog.DiscardHandler)})
		if err := pool.Subscribe(self, upstream.Wants{Desired: true}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- pool.Run(ctx) }()
		synctest.Wait()
		if states, _, _, _ := l.heard(); fmt.Sprint(states) != "[edge/$edgeHub up]" {
			t.Errorf("states %v", states)
		}
		cancel()
		<-ended
		if err := pool.Subscribe(self, upstream.Wants{C2D: true}); !errors.Is(err, upstream.ErrDown) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestIdleConnections(t *testing.T) {
	tests := []struct {
		name string
		idle time.Duration
		use  func(t *testing.T, p *upstream.Pool)
		open bool // after three times the limit
	}{
		{"unused is closed", time.Minute, func(*testing.T, *upstream.Pool) {}, false},
		{"subscribed stays", time.Minute, func(t *testing.T, p *upstream.Pool) {
			if err := p.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
				t.Error(err)
			}
		}, true},
		{"with a message under way stays", time.Minute, func(_ *testing.T, p *upstream.Pool) {
			p.Send(from(leaf, "x"), upstream.Lane{First: true}, func(error) {})
		}, true},
		{"without a limit stays", -1, func(*testing.T, *upstream.Pool) {}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakes{}
				pool := runPool(t, f.dial, &listener{}, upstream.Options{Idle: tt.idle})
				if _, err := pool.Twin(t.Context(), leaf); err != nil {
					t.Fatal(err)
				}
				tt.use(t, pool)
				time.Sleep(50 * time.Second)
				if !pool.Up(leaf) {
					t.Error("closed too early")
				}
				time.Sleep(3 * time.Minute)
				if pool.Up(leaf) != tt.open {
					t.Errorf("open %v, want %v", pool.Up(leaf), tt.open)
				}
			})
		})
	}
}

// Two connections of one identity would cut each other off, and mix messages.
func TestNextConnectionWaitsForTheEndOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{linger: 3 * time.Second}
		l := &listener{}
		pool := runPool(t, f.dial, l, upstream.Options{})
		for _, w := range []upstream.Wants{{Desired: true, C2D: true}, {Desired: true}, {}, {Methods: true}} {
			if err := pool.Subscribe(leaf, w); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := f.running.Load(); n > 1 {
				t.Fatalf("%d connections at a time", n)
			}
		}
		time.Sleep(10 * time.Second)
		if f.count() != 3 || f.running.Load() != 1 || !pool.Up(leaf) {
			t.Errorf("%d connections made, %d run, up %v", f.count(), f.running.Load(), pool.Up(leaf))
		}
		if got := fmt.Sprint(f.made[2].wants); got != "[{false true false}]" {
			t.Errorf("last connection wants %s", got)
		}
		// What a closed connection says of itself interests nobody.
		if states, _, _, _ := l.heard(); fmt.Sprint(states) != "[leaf up leaf up]" && fmt.Sprint(states) != "[leaf up]" {
			t.Errorf("states %v", states)
		}
	})
}

func TestLimitAndStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{Max: 2})
		for i, want := range []error{nil, nil, upstream.ErrDown} {
			err := pool.Subscribe(iothub.DeviceIdentity(fmt.Sprint("d", i)), upstream.Wants{C2D: true})
			if !errors.Is(err, want) {
				t.Errorf("connection %d: %v, want %v", i, err, want)
			}
		}
		pool.CloseOthers(iothub.DeviceIdentity("d1"))
		if _, err := pool.Twin(t.Context(), iothub.DeviceIdentity("stranger")); !errors.Is(err, upstream.ErrNoIdentity) {
			t.Errorf("stranger: %v", err)
		}
		var told error
		pool.Send(from(iothub.DeviceIdentity("stranger"), "x"), upstream.Lane{First: true}, func(err error) { told = err })
		if !errors.Is(told, upstream.ErrNoIdentity) {
			t.Errorf("message of a stranger: %v", told)
		}
		if err := pool.Subscribe(iothub.DeviceIdentity("d2"), upstream.Wants{C2D: true}); err != nil {
			t.Errorf("after others have gone: %v", err)
		}
	})
}

func TestCloseBelowEndsADeviceWithItsModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		pool := runPool(t, f.dial, &listener{}, upstream.Options{})
		ids := []iothub.Identity{self, iothub.ModuleIdentity("edge", "m"), iothub.DeviceIdentity("edge"), leaf}
		for _, id := range ids {
			if err := pool.Subscribe(id, upstream.Wants{Desired: true}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		pool.CloseBelow(iothub.DeviceIdentity("edge"), self)
		synctest.Wait()
		for i, want := range []bool{true, false, false, true} {
			if pool.Up(ids[i]) != want {
				t.Errorf("%s: up %v", ids[i], !want)
			}
		}
	})
}

func TestIdentitiesLogInWithTheHubsTokenAndTheirChain(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		l := &listener{}
		pool := runPool(t, c.dialer(nil), l, upstream.Options{})
		if err := pool.Subscribe(self, upstream.Wants{Desired: true, Methods: true}); err != nil {
			t.Fatal(err)
		}
		if err := pool.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var got []string
		for _, u := range c.logins {
			got = append(got, fmt.Sprintf("%s chain %q product %q", u.Identity, u.AuthChain, u.ClientType))
		}
		slices.Sort(got)
		want := `edge/$edgeHub chain "" product "product of edge/$edgeHub", leaf chain "leaf;edge" product "product of leaf"`
		if strings.Join(got, ", ") != want {
			t.Errorf("logins %v", got)
		}

		c.publish(topic.Topic{Kind: topic.DesiredChange, Version: 5}, `{"a":1,"$version":5}`)
		c.publish(topic.Topic{Kind: topic.MethodRequest, Name: "go", RequestID: "1"}, `null`)
		c.publish(topic.Topic{Kind: topic.C2D, Identity: leaf}, "hello")
		synctest.Wait()
		_, desired, methods, c2d := l.heard()
		if fmt.Sprint(desired, methods, c2d) != `[edge/$edgeHub {"a":1,"$version":5}] [edge/$edgeHub go] [leaf hello]` {
			t.Errorf("heard %v %v %v", desired, methods, c2d)
		}
	})
}

func TestTwinCallsDoNotWaitForACloudThatIsAway(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		pool := runPool(t, c.dialer(nil), &listener{}, upstream.Options{})
		c.set(func() { c.away = true })
		for range 3 {
			start := time.Now()
			if _, err := pool.Twin(t.Context(), leaf); !errors.Is(err, upstream.ErrDown) || time.Since(start) > time.Second {
				t.Fatalf("twin: %v after %v", err, time.Since(start))
			}
			if err := pool.PatchReported(t.Context(), leaf, json.RawMessage(`{}`)); !errors.Is(err, upstream.ErrDown) || time.Since(start) > time.Second {
				t.Fatalf("patch: %v after %v", err, time.Since(start))
			}
		}
		c.set(func() { c.away = false })
		time.Sleep(2 * time.Minute)
		twin, err := pool.Twin(t.Context(), leaf)
		if err != nil || string(twin.Desired) != `{"$version":1}` {
			t.Errorf("twin %s: %v", twin.Desired, err)
		}
		if err := pool.PatchReported(t.Context(), leaf, json.RawMessage(`{"x":1}`)); err != nil {
			t.Errorf("patch: %v", err)
		}
	})
}

func TestRefusedIdentityIsReportedAsSuch(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		l := &listener{}
		pool := runPool(t, c.dialer(nil), l, upstream.Options{})
		c.set(func() { c.refuse = true })
		if err := pool.Subscribe(leaf, upstream.Wants{C2D: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.errs) == 0 || !errors.Is(l.errs[0], upstream.ErrNoIdentity) {
			t.Errorf("states %v %v", l.states, l.errs)
		}
	})
}

func TestMessageThatFitsNowhereIsRefusedForGood(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		pool := runPool(t, c.dialer(nil), &listener{}, upstream.Options{})
		results := make(chan error, 3)
		send := func(m *iothub.Message, lane upstream.Lane) {
			pool.Send(m, lane, func(err error) { results <- err })
		}
		large := from(leaf, "x")
		large.Properties.Set("p", strings.Repeat("x", 70000)) // more than a topic can hold
		if p == client.AMQP || p == client.AMQPWS {
			large.Body = []byte("reject amqp:not-allowed")
		}
		send(from(leaf, "a"), upstream.Lane{First: true})
		send(large, upstream.Lane{})
		send(from(leaf, "b"), upstream.Lane{})
		synctest.Wait()
		var got []error
		for range 3 {
			got = append(got, <-results)
		}
		refused := 0
		for _, err := range got {
			if errors.Is(err, upstream.ErrMessage) {
				refused++
			} else if err != nil {
				t.Errorf("others: %v", err)
			}
		}
		if refused != 1 || fmt.Sprint(c.bodies("leaf")) != "[a b]" {
			t.Errorf("refused %d, received %v", refused, c.bodies("leaf"))
		}
	})
}

func TestPatchThatIsRefusedForGood(t *testing.T) {
	overEach(t, func(t *testing.T, p client.Protocol) {
		c := newCloud(t, p)
		pool := runPool(t, c.dialer(nil), &listener{}, upstream.Options{})
		// The cloud answers with the status that the patch names.
		for status, final := range map[string]bool{"400": true, "413": true, "429": false, "500": false} {
			err := pool.PatchReported(t.Context(), leaf, json.RawMessage(status))
			if err == nil || errors.Is(err, upstream.ErrMessage) != final {
				t.Errorf("status %s: %v", status, err)
			}
		}
	})
}

func TestConnectionThatDoesNotAnswerIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, heard := &fakes{}, &listener{}
		pool := runPool(t, f.dial, heard, upstream.Options{Hanging: 50 * time.Second})
		if err := pool.Subscribe(leaf, upstream.Wants{Methods: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // quiet is not hanging
		if n := f.count(); n != 1 {
			t.Fatalf("%d connections of one that is quiet", n)
		}
		pool.Send(from(leaf, "never answered"), upstream.Lane{First: true}, func(error) {})
		time.Sleep(45 * time.Second)
		if n := f.count(); n != 1 {
			t.Errorf("given up after 45 s")
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if n := f.count(); n != 2 || !pool.Up(leaf) {
			t.Errorf("%d connections, up %v", n, pool.Up(leaf))
		}
		f.made[1].mu.Lock()
		defer f.made[1].mu.Unlock()
		if w := f.made[1].wants; len(w) != 1 || w[0] != (upstream.Wants{Methods: true}) {
			t.Errorf("wishes of the new one: %+v", w)
		}
	})
}
