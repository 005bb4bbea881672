package client_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

func TestUnauthorizedIsReportedAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.refuse = true
		d := h.start(h.options(), nil)
		defer d.end(t)
		time.Sleep(10 * time.Minute)
		var waits []time.Duration
		for _, s := range d.seen() {
			if s.State == client.Connected {
				t.Fatal("connected")
			}
			if s.State == client.Disconnected {
				waits = append(waits, s.RetryIn)
				if !errors.Is(s.Err, client.ErrUnauthorized) {
					t.Fatalf("reason %v", s.Err)
				}
			}
		}
		if waits[0] < 2*time.Second || waits[0] > 3*time.Second || slices.Max(waits) > time.Minute || slices.Max(waits) < 40*time.Second {
			t.Errorf("waits %v", waits)
		}
		for i := 1; i < len(h.dials)-1; i++ {
			if gap := h.dials[i].Sub(h.dials[i-1]); gap != waits[i-1] {
				t.Errorf("attempt %d came after %v; announced %v", i, gap, waits[i-1])
			}
		}
		h.set(func() { h.refuse = false })
		d.connected(t)
	})
}

func TestSignerThatFailsIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		away := errors.New("daemon is away")
		calls := 0
		o := h.options()
		o.Signer = client.SignerFunc(func(_ context.Context, data []byte) ([]byte, error) {
			if calls++; calls < 3 {
				return nil, away
			}
			return testKey.Sign(data)
		})
		d := h.start(o, nil)
		defer d.end(t)
		d.connected(t)
		if s := d.seen()[1]; s.State != client.Disconnected || !errors.Is(s.Err, away) {
			t.Errorf("state %+v", s)
		}
		if calls != 3 {
			t.Errorf("asked %d times", calls)
		}
	})
}

func TestTokenIsRenewedUnderTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		o := h.options()
		o.TokenLifetime = time.Minute
		var handled log
		d := h.start(o, func(c *client.Client) {
			c.OnInput(func(ctx context.Context, _ string, m *iothub.Message) error {
				time.Sleep(50 * time.Millisecond)
				handled.add(string(m.Body))
				return nil
			})
		})
		defer d.end(t)
		d.connected(t)
		var got outcomes
		const n = 3000
		var producers sync.WaitGroup
		producers.Go(func() {
			for _, name := range names(0, n) {
				if err := d.SendAsync(t.Context(), text(name), got.done(name)); err != nil {
					t.Errorf("message %s: %v", name, err)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		producers.Go(func() {
			for range 300 {
				if _, err := d.Twin(t.Context()); err != nil {
					t.Errorf("twin: %v", err)
				}
				time.Sleep(time.Second)
			}
		})
		producers.Go(func() {
			for i, name := range names(0, n) {
				h.publish(input("in"), name)
				time.Sleep(time.Duration(60+i%80) * time.Millisecond)
			}
		})
		producers.Wait()
		time.Sleep(time.Second)
		want := names(0, n)
		if !slices.Equal(h.bodies(), want) {
			t.Errorf("%d messages received, not each once and in order", len(h.bodies()))
		}
		if !slices.Equal(got.all(), want) {
			t.Errorf("outcomes %v", got.all())
		}
		// Redelivery is allowed, loss is not.
		seen := map[string]int{}
		for _, name := range handled.list {
			seen[name]++
		}
		if len(seen) != n || len(handled.list) > n+20 {
			t.Errorf("%d inputs handled, %d of them different; want %d", len(handled.list), len(seen), n)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.logins) < 6 {
			t.Errorf("%d logins in five minutes with tokens of one", len(h.logins))
		}
		for i := 1; i < len(h.dials); i++ {
			if gap := h.dials[i].Sub(h.dials[i-1]); gap < 50*time.Second || gap > 60*time.Second {
				t.Errorf("login %d came after %v", i, gap)
			}
		}
		var states []client.State
		for _, s := range d.seen()[:5] {
			states = append(states, s.State)
		}
		if !slices.Equal(states, []client.State{client.Connecting, client.Connected, client.Renewing, client.Connecting, client.Connected}) {
			t.Errorf("states %v", states)
		}
	})
}

func TestMessagesThatRenewalInterruptsAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.mute = true
		o := h.options()
		o.TokenLifetime = time.Minute
		d := h.start(o, nil)
		defer d.end(t)
		d.connected(t)
		var got outcomes
		if err := d.SendAsync(t.Context(), text("async"), got.done("async")); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error)
		go func() { sent <- d.Send(t.Context(), text("send")) }()
		time.Sleep(55 * time.Second) // the renewal waits
		h.set(func() { h.mute = false })
		if err := <-sent; err != nil {
			t.Errorf("Send: %v", err)
		}
		if !slices.Equal(got.all(), []string{"async: lost"}) {
			t.Errorf("outcomes %v", got.all())
		}
	})
}

func TestSilentHubIsTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		// A link that swallows everything after a while.
		frozen := make(chan struct{})
		o := h.options()
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			near, far := net.Pipe()
			h.work.Go(func() { pass(conn, far, frozen) })
			h.work.Go(func() { pass(far, conn, frozen) })
			return near, err
		}
		d := h.start(o, nil)
		defer d.end(t)
		d.connected(t)
		time.Sleep(10 * time.Minute)
		if n := len(d.seen()); n != 2 {
			t.Fatalf("states %v of a connection that was well", d.seen())
		}
		close(frozen)
		start := time.Now()
		for len(d.seen()) == 2 {
			time.Sleep(time.Second)
		}
		if waited := time.Since(start); waited > 80*time.Second {
			t.Errorf("noticed after %v", waited)
		}
		h.drop()
	})
}

// pass copies from one connection to the other until frozen, then swallows.
func pass(to, from net.Conn, frozen <-chan struct{}) {
	defer to.Close()
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		select {
		case <-frozen:
			continue
		default:
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func TestHubThatNeverAnswersConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.silent = true
		d := h.start(h.options(), nil)
		time.Sleep(31 * time.Second)
		if s := d.seen()[1]; s.State != client.Disconnected || !errors.Is(s.Err, context.DeadlineExceeded) {
			t.Errorf("state %+v", s)
		}
		time.Sleep(2 * time.Second)
		start := time.Now()
		d.end(t) // in the middle of an attempt
		if time.Since(start) > 0 {
			t.Errorf("stopped after %v", time.Since(start))
		}
	})
}

func TestRefusedSubscriptionLeavesTheRestWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.deny = "twin/res"
		d := h.start(h.options(), func(c *client.Client) {
			c.OnInput(func(context.Context, string, *iothub.Message) error { return nil })
		})
		defer d.end(t)
		d.connected(t)
		if _, err := d.Twin(t.Context()); !errors.Is(err, client.ErrRefused) {
			t.Errorf("twin: %v", err)
		}
		h.drop()
		synctest.Wait()
		d.connected(t)
		h.publish(input("in"), "x")
		synctest.Wait()
		if h.count() != 1 {
			t.Errorf("%d inputs acknowledged", h.count())
		}
	})
}

func TestUntrustedHubIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		o := h.options()
		o.Host = "other.test"
		d := h.start(o, nil)
		defer d.end(t)
		time.Sleep(time.Second)
		if s := d.seen()[1]; s.State != client.Disconnected || s.Err == nil || !strings.Contains(s.Err.Error(), "other.test") {
			t.Errorf("state %+v", s)
		}
		if len(h.logins) > 0 {
			t.Error("logged in")
		}
	})
}

// A trust bundle is renewed while programs run.
func TestEachConnectionTrustsTheRootsOfTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		var roots atomic.Pointer[x509.CertPool]
		roots.Store(x509.NewCertPool())
		o := h.options()
		o.RootCAs, o.Roots = nil, roots.Load
		d := h.start(o, nil)
		defer d.end(t)
		time.Sleep(time.Second)
		if s := d.seen()[1]; s.State != client.Disconnected {
			t.Errorf("state %+v", s)
		}
		roots.Store(h.roots)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(h.logins) != 1 {
			t.Errorf("%d logins with the new roots", len(h.logins))
		}
	})
}

func TestOptions(t *testing.T) {
	good := client.Options{Identity: module, HubName: hubName, Signer: client.KeySigner(testKey)}
	if _, err := client.New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*client.Options){
		"no identity":         func(o *client.Options) { o.Identity = iothub.Identity{} },
		"bad module":          func(o *client.Options) { o.Identity.Module = "a/b" },
		"no hub":              func(o *client.Options) { o.HubName = "" },
		"no credential":       func(o *client.Options) { o.Signer = nil },
		"two credentials":     func(o *client.Options) { o.Tokens = client.StaticToken("x") },
		"token without chain": func(o *client.Options) { o.SASIdentity = module },
		"window":              func(o *client.Options) { o.Window = 40000 },
		"port":                func(o *client.Options) { o.Port = 70000 },
		"keep-alive":          func(o *client.Options) { o.KeepAlive = 24 * time.Hour },
		"negative":            func(o *client.Options) { o.MinBackoff = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := client.New(o); !errors.Is(err, client.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The one test with a real socket and real time.
func TestOverTCP(t *testing.T) {
	h := newHub(t)
	defer h.close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.work.Go(func() { h.serve(conn) })
		}
	})
	defer listener.Close()
	o := h.options()
	o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
	}
	d := h.start(o, nil)
	defer d.end(t)
	d.connected(t)
	const n = 20000
	var got outcomes
	var wait sync.WaitGroup
	start := time.Now()
	for _, name := range names(0, n) {
		wait.Add(1)
		done := got.done(name)
		if err := d.SendAsync(t.Context(), text(name), func(err error) { done(err); wait.Done() }); err != nil {
			t.Fatal(err)
		}
	}
	wait.Wait()
	t.Logf("%d acknowledged in %v", n, time.Since(start))
	if !slices.Equal(h.bodies(), names(0, n)) || !slices.Equal(got.all(), names(0, n)) {
		t.Error("not each once and in order")
	}
}
