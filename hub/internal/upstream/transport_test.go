package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// runClient runs a client until the test's end function is called.
func runClient(t *testing.T, o client.Options) (*client.Client, func()) {
	t.Helper()
	d, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return d, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func (c *cloud) options() client.Options {
	return client.Options{
		Identity: self, HubName: hubName, Protocol: c.protocol, Signer: client.KeySigner(key), RootCAs: c.roots, Dial: c.dial, Retry: true,
	}
}

func TestMoreIdentitiesThanAConnectionTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		shared, err := client.NewShared(client.SharedOptions{
			Protocol: client.AMQP, Host: hubName, RootCAs: c.roots, Dial: c.dial, MaxIdentities: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		var stops []func()
		for i := range 5 {
			o := c.options()
			o.Shared, o.Identity = shared, iothub.DeviceIdentity(fmt.Sprint("d", i))
			o.SASIdentity, o.AuthChain = self, o.Identity.String()+";edge"
			d, stop := runClient(t, o)
			stops = append(stops, stop)
			if err := d.Send(t.Context(), &iothub.Message{Body: []byte("x")}); err != nil {
				t.Error(err)
			}
		}
		open := func() int {
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.conns)
		}
		if n := open(); n != 3 {
			t.Errorf("%d connections for 5 clients", n)
		}
		// The last of each connection takes it down.
		for i, want := range []int{3, 2, 2, 1, 0} {
			stops[i]()
			time.Sleep(time.Minute)
			if n := open(); n != want {
				t.Errorf("%d connections after client %d, want %d", n, i, want)
			}
		}
	})
}

func TestFallbackToWebSockets(t *testing.T) {
	for name, tt := range map[string]struct {
		closed func(ctx context.Context) error // what dialling 5671 meets
		within time.Duration
	}{
		"refused":          {func(context.Context) error { return syscall.ECONNREFUSED }, time.Second},
		"silently dropped": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 16 * time.Second},
		"open":             {nil, time.Second},
	} {
		for _, withShared := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " shared ", withShared), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCloud(t, client.AMQP)
					var ports []string
					dial := func(ctx context.Context, network, address string) (net.Conn, error) {
						_, port, _ := net.SplitHostPort(address)
						ports = append(ports, port)
						if port == "5671" && tt.closed != nil {
							return nil, tt.closed(ctx)
						}
						return c.dial(ctx, network, address)
					}
					o := c.options()
					o.Fallback, o.Dial = true, dial
					want := "[5671 443]"
					if tt.closed == nil {
						want = "[5671]"
					}
					if withShared {
						var err error
						o.Shared, err = client.NewShared(client.SharedOptions{
							Protocol: client.AMQP, Fallback: true, Host: hubName, RootCAs: c.roots, Dial: dial,
						})
						if err != nil {
							t.Fatal(err)
						}
					}
					start := time.Now()
					d, stop := runClient(t, o)
					defer stop()
					if err := d.Send(t.Context(), &iothub.Message{}); err != nil || time.Since(start) > tt.within || fmt.Sprint(ports) != want {
						t.Errorf("%v after %v over %v", err, time.Since(start), ports)
					}
				})
			})
		}
	}
}

func TestRefusedLoginIsNotTriedInAWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		c.refuse = true
		o := c.options()
		o.Fallback, o.MinBackoff = true, time.Hour
		o.MaxBackoff = time.Hour
		_, stop := runClient(t, o)
		defer stop()
		time.Sleep(time.Minute)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dials != 1 {
			t.Errorf("%d dials", c.dials)
		}
	})
}

func TestSharedOptions(t *testing.T) {
	for name, o := range map[string]client.SharedOptions{
		"MQTT": {Host: "h"}, "no host": {Protocol: client.AMQP}, "too many": {Protocol: client.AMQP, Host: "h", MaxIdentities: 1000},
		"port": {Protocol: client.AMQPWS, Host: "h", Port: 1 << 16}, "fallback": {Protocol: client.AMQPWS, Host: "h", Fallback: true}, "negative": {Protocol: client.AMQP, Host: "h", KeepAlive: -1},
	} {
		if _, err := client.NewShared(o); !errors.Is(err, client.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	shared, err := client.NewShared(client.SharedOptions{Protocol: client.AMQP, Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	o := client.Options{Identity: self, HubName: "h", Shared: shared, ClientCertificate: &tls.Certificate{}}
	if _, err := client.New(o); !errors.Is(err, client.ErrOptions) {
		t.Errorf("certificate: %v", err)
	}
}

// A hub that does not answer any more is noticed, also when only it has to say
// something.
func TestSilentHubIsTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		var frozen atomic.Bool
		o := c.options()
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.dial(ctx, network, address)
			return freezing{conn, &frozen}, err
		}
		var mu sync.Mutex
		var states []client.State
		o.OnConnection = func(s client.Connection) {
			mu.Lock()
			defer mu.Unlock()
			states = append(states, s.State)
		}
		seen := func() string {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(states)
		}
		_, stop := runClient(t, o)
		defer stop()
		time.Sleep(20 * time.Minute)
		const well = "[connecting connected]"
		if seen() != well {
			t.Fatalf("states %v of a connection that was well", seen())
		}
		frozen.Store(true)
		start := time.Now()
		for seen() == well {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > 80*time.Second {
			t.Errorf("noticed after %v", took)
		}
		frozen.Store(false)
		time.Sleep(time.Minute)
		if !strings.HasSuffix(seen(), " connected]") {
			t.Errorf("states %v", seen())
		}
	})
}

func TestHubThatSaysNothingIsGivenUpInTime(t *testing.T) {
	for _, p := range []client.Protocol{client.AMQP, client.AMQPWS, client.MQTT, client.MQTTWS} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t, p)
				o := c.options()
				o.MinBackoff, o.MaxBackoff, o.ConnectTimeout = time.Hour, time.Hour, 10*time.Second
				o.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					c.work.Go(func() {
						defer far.Close()
						if conn := tls.Server(far, c.tls); conn.Handshake() == nil {
							b := make([]byte, 1)
							_, _ = conn.Read(b) // and then nothing more
							<-c.ctx.Done()
						}
					})
					return near, nil
				}
				failed := make(chan error, 1)
				o.OnConnection = func(s client.Connection) {
					if s.Err != nil {
						failed <- s.Err
					}
				}
				start := time.Now()
				_, stop := runClient(t, o)
				defer stop()
				if err := <-failed; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			})
		})
	}
}

// freezing swallows what arrives while it is frozen.
type freezing struct {
	net.Conn
	frozen *atomic.Bool
}

func (f freezing) Read(b []byte) (int, error) {
	for {
		n, err := f.Conn.Read(b)
		if err != nil || !f.frozen.Load() {
			return n, err
		}
	}
}

// saslCloud opens connections of clients with a certificate.
type saslCloud struct{ used chan string }

func (s saslCloud) OnSASL(r *amqp.SASL) { s.used <- r.Mechanism(); r.Accept() }
func (s saslCloud) OnOpen(o *amqp.Open) { s.used <- "open"; o.Accept() }
func (s saslCloud) OnAttach(a *amqp.Attach) {
	s.used <- a.Address()
	a.AcceptReceiver(accepts{}, amqp.ReceiverOptions{})
}
func (s saslCloud) OnClose(error) {}

type accepts struct{}

func (accepts) OnDelivery(d *amqp.Delivery) { d.Accept() }
func (accepts) OnDetach(*wire.Error)        {}

func TestClientCertificates(t *testing.T) {
	for name, tt := range map[string]struct {
		mechanisms []string
		want       []string
	}{
		"hub with EXTERNAL": {[]string{"ANONYMOUS", "EXTERNAL"}, []string{"EXTERNAL", "open", "/devices/leaf/messages/events"}},
		"hub without":       {[]string{"MSSBCBS", "PLAIN"}, []string{"open", "/devices/leaf/messages/events"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t, client.AMQP)
				c.tls.ClientAuth = tls.RequireAnyClientCert
				used := make(chan string, 10)
				o := c.options()
				o.Identity, o.Signer, o.ClientCertificate = leaf, nil, &c.tls.Certificates[0]
				o.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					s := &amqp.Server{
						Options: amqp.Options{Options: engine.Options{Mechanisms: tt.mechanisms}},
						NewConn: func(*amqp.Conn) amqp.ConnHandler { return saslCloud{used} },
					}
					c.work.Go(func() { _ = s.Serve(c.ctx, tls.Server(far, c.tls)) })
					return near, nil
				}
				d, stop := runClient(t, o)
				defer stop()
				if err := d.Send(t.Context(), &iothub.Message{}); err != nil {
					t.Fatal(err)
				}
				close(used)
				var got []string
				for s := range used {
					got = append(got, s)
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("%v, want %v", got, tt.want)
				}
			})
		})
	}
}

// connectProxy is an HTTP proxy that leads to a cloud in memory.
type connectProxy struct {
	c        *cloud
	listener net.Listener
	auth     string
	refuse   bool
	tunnels  atomic.Int32
	work     sync.WaitGroup
}

func newProxy(t *testing.T, c *cloud, auth string) *connectProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &connectProxy{c: c, listener: l, auth: auth}
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.serve(conn) })
		}
	})
	return p
}

func (p *connectProxy) close() {
	_ = p.listener.Close()
	p.work.Wait()
}

func (p *connectProxy) serve(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	r, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.auth))
	switch {
	case r.Method != http.MethodConnect, p.refuse:
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
		return
	case r.Header.Get("Proxy-Authorization") != want:
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	}
	out, err := p.c.dial(context.Background(), "tcp", r.Host)
	if err != nil {
		return
	}
	defer out.Close()
	p.tunnels.Add(1)
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(out, br); _ = out.Close() })
	both.Go(func() { _, _ = io.Copy(conn, out); _ = conn.Close() })
	both.Wait()
}

func TestEveryProtocolGoesThroughProxies(t *testing.T) {
	for _, p := range []client.Protocol{client.MQTT, client.MQTTWS, client.AMQP, client.AMQPWS} {
		for name, tt := range map[string]struct {
			user   string
			refuse bool
			fails  error
		}{
			"as the proxy likes it": {"me:s3cret", false, nil},
			"wrong password":        {"me:gu3ss", false, proxy.ErrAuthentication},
			"refused":               {"me:s3cret", true, proxy.ErrRefused},
		} {
			t.Run(p.String()+" "+name, func(t *testing.T) {
				c := newCloud(t, p)
				server := newProxy(t, c, "me:s3cret")
				defer server.close()
				server.refuse = tt.refuse
				way, err := proxy.New("http://"+tt.user+"@"+server.listener.Addr().String(), "")
				if err != nil {
					t.Fatal(err)
				}
				var logged safeBuffer
				failed := make(chan error, 100)
				o := c.options()
				o.Dial, o.MinBackoff = way.DialContext, time.Hour
				o.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
				o.OnConnection = func(s client.Connection) {
					if s.Err != nil {
						failed <- s.Err
					}
				}
				d, stop := runClient(t, o)
				if tt.fails != nil {
					if err := <-failed; !errors.Is(err, tt.fails) {
						t.Errorf("error %v, want %v", err, tt.fails)
					}
				} else if _, err := d.Twin(t.Context()); err != nil || server.tunnels.Load() != 1 {
					t.Errorf("%d tunnels, %v", server.tunnels.Load(), err)
				}
				stop()
				for _, secret := range []string{"s3cret", "gu3ss", base64.StdEncoding.EncodeToString([]byte(tt.user))} {
					if strings.Contains(logged.String(), secret) {
						t.Errorf("the log shows credentials:\n%s", logged.String())
					}
				}
			})
		}
	}
}

// safeBuffer is a buffer for many writers.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
