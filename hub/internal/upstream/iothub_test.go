package upstream_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/server"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// iotHub is the project's IoT hub, with an edge device and devices below it.
type iotHub struct {
	t     *testing.T
	ends  server.Endpoints
	roots *x509.CertPool
	rest  *rest.Client
	key   sas.Key // of the edge device's $edgeHub
}

func startHub(t *testing.T) *iotHub {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan server.Endpoints, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Config{Data: dir, HostName: hubName, Address: "127.0.0.1", Ready: func(e server.Endpoints) { ready <- e }})
	}()
	h := &iotHub{t: t}
	select {
	case h.ends = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	raw, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	h.roots = x509.NewCertPool()
	h.roots.AppendCertsFromPEM(raw)
	if raw, err = os.ReadFile(filepath.Join(dir, server.ConnectionStringFile)); err != nil {
		t.Fatal(err)
	}
	owner, err := connstr.Parse(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	h.rest, err = rest.New(rest.Options{HubName: hubName, RootCAs: h.roots, Dial: h.dial, Authorize: func(context.Context) (string, error) {
		return sas.New(sas.HubResource(hubName), time.Now().Add(time.Hour), owner.SharedAccessKeyName, owner.SharedAccessKey.Sign)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.rest.Close)
	return h
}

// dial leads to the hub's listeners.
func (h *iotHub) dial(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(address)
	to := map[string]net.Addr{"443": h.ends.HTTPS, "8883": h.ends.MQTT, "5671": h.ends.AMQP}[port]
	if to == nil {
		return nil, fmt.Errorf("dialled %s", address)
	}
	return new(net.Dialer).DialContext(ctx, network, to.String())
}

// family registers an edge device and n devices below it.
func (h *iotHub) family(n int) []iothub.Identity {
	h.t.Helper()
	edge, err := h.rest.PutDevice(h.t.Context(), rest.Device{DeviceID: self.Device, Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := h.rest.PutModule(h.t.Context(),
		rest.Module{DeviceID: self.Device, ModuleID: self.Module, Authentication: rest.SAS("", "")}, rest.MustExist)
	if err != nil {
		h.t.Fatal(err)
	}
	if h.key, err = sas.ParseKey(m.Authentication.SymmetricKey.PrimaryKey.Reveal()); err != nil {
		h.t.Fatal(err)
	}
	var ids []iothub.Identity
	for i := range n {
		id := iothub.DeviceIdentity(fmt.Sprint("leaf", i))
		_, err := h.rest.PutDevice(h.t.Context(), rest.Device{DeviceID: id.Device, ParentScopes: []string{edge.DeviceScope}}, rest.MustNotExist)
		if err != nil {
			h.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// The hub that the project has is the nearest to the real one.
func TestUpstreamAgainstIotHub(t *testing.T) {
	for _, p := range []client.Protocol{client.MQTT, client.AMQP, client.MQTTWS, client.AMQPWS} {
		t.Run(p.String(), func(t *testing.T) {
			h := startHub(t)
			const each = 50
			ids := append(h.family(10), self)
			l := &listener{}
			dial, err := upstream.ByClient(upstream.ClientOptions{
				Base: client.Options{
					Protocol: p, HubName: hubName, RootCAs: h.roots, Dial: h.dial, Signer: client.KeySigner(h.key),
					MinBackoff: 50 * time.Millisecond, MaxBackoff: time.Second,
				},
				Self:    self,
				Chain:   func(id iothub.Identity) (string, bool) { return id.String() + ";" + self.Device, true },
				Product: func(iothub.Identity) string { return "test" },
			})
			if err != nil {
				t.Fatal(err)
			}
			pool := upstream.New(dial, l, upstream.Options{Logger: quiet})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- pool.Run(ctx) }()
			defer func() {
				cancel()
				<-ended
			}()
			for _, id := range ids {
				if err := pool.Subscribe(id, upstream.Wants{Desired: true, Methods: true, C2D: !id.IsModule()}); err != nil {
					t.Fatal(err)
				}
			}
			up := func() bool {
				for _, id := range ids {
					if !pool.Up(id) {
						return false
					}
				}
				return true
			}
			if !eventually(up) {
				l.mu.Lock()
				defer l.mu.Unlock()
				t.Fatalf("states %v %v", l.states, l.errs)
			}
			var wg sync.WaitGroup
			for i := range each {
				for _, id := range ids {
					wg.Add(1)
					pool.Send(from(id, strconv.Itoa(i)), upstream.Lane{First: i == 0}, func(err error) {
						defer wg.Done()
						if err != nil {
							t.Errorf("%s: %v", id, err)
						}
					})
				}
			}
			wg.Wait()
			for _, id := range []iothub.Identity{ids[0], self} {
				h.everythingElse(pool, l, id)
			}
			if err := h.rest.DeleteDevice(t.Context(), ids[1].Device, "*"); err != nil {
				t.Fatal(err)
			}
			if !eventually(func() bool { return !pool.Up(ids[1]) }) {
				t.Error("a device that is gone is up")
			}
			for i, id := range ids {
				if i != 1 && !pool.Up(id) {
					t.Errorf("%s is down", id)
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			for i, s := range l.states[len(ids):] {
				if s != "leaf1 down" || !errors.Is(l.errs[len(ids)+i], upstream.ErrNoIdentity) && !errors.Is(l.errs[len(ids)+i], client.ErrConnectionLost) {
					t.Errorf("state %s: %v", s, l.errs[len(ids)+i])
				}
			}
		})
	}
}

// everythingElse tries twin and methods of one identity.
func (h *iotHub) everythingElse(pool *upstream.Pool, l *listener, id iothub.Identity) {
	h.t.Helper()
	ctx := h.t.Context()
	if err := pool.PatchReported(ctx, id, []byte(`{"a":1}`)); err != nil {
		h.t.Errorf("%s: patch: %v", id, err)
	}
	twin, err := pool.Twin(ctx, id)
	if err != nil || string(twin.Reported) == "" {
		h.t.Errorf("%s: twin %s, %v", id, twin.Reported, err)
	}
	if _, err := h.rest.PatchTwin(ctx, id, rest.DesiredPatch([]byte(`{"b":2}`)), "*"); err != nil {
		h.t.Errorf("%s: %v", id, err)
	}
	answer, err := h.rest.InvokeMethod(ctx, id, rest.MethodRequest{MethodName: "go"})
	if err != nil || answer.Status != 200 {
		h.t.Errorf("%s: method: %+v, %v", id, answer, err)
	}
	heard := func() bool {
		_, desired, _, _ := l.heard()
		return slices.ContainsFunc(desired, func(d string) bool {
			return strings.HasPrefix(d, id.String()+" {") && strings.Contains(d, `"b":2`)
		})
	}
	if !eventually(heard) {
		_, desired, _, _ := l.heard()
		h.t.Errorf("%s has not heard its patch, but %v", id, desired)
	}
}

// eventually waits for a condition, for a while.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// A device that is not below the gateway logs in with its own token, or not.
func TestOwnTokenAgainstIotHub(t *testing.T) {
	for _, p := range []client.Protocol{client.MQTT, client.AMQP} {
		t.Run(p.String(), func(t *testing.T) {
			h := startHub(t)
			h.family(0)
			id := iothub.DeviceIdentity("alone")
			d, err := h.rest.PutDevice(t.Context(), rest.Device{DeviceID: id.Device}, rest.MustNotExist)
			if err != nil {
				t.Fatal(err)
			}
			good, err := sas.ParseKey(d.Authentication.SymmetricKey.PrimaryKey.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			for name, key := range map[string]sas.Key{"good": good, "of another": h.key} {
				token, err := sas.New(sas.DeviceResource(hubName, id), time.Now().Add(time.Hour), "", key.Sign)
				if err != nil {
					t.Fatal(err)
				}
				var left atomic.Bool
				var dials atomic.Int32
				counted := func(ctx context.Context, network, address string) (net.Conn, error) {
					dials.Add(1)
					return h.dial(ctx, network, address)
				}
				dial, err := upstream.ByClient(upstream.ClientOptions{
					Base:    client.Options{Protocol: p, HubName: hubName, RootCAs: h.roots, Dial: counted, Signer: client.KeySigner(h.key)},
					Self:    self,
					Chain:   func(iothub.Identity) (string, bool) { return "", false },
					Product: func(iothub.Identity) string { return "test" },
				})
				if err != nil {
					t.Fatal(err)
				}
				l := &listener{}
				pool := upstream.New(dial, l, upstream.Options{Logger: quiet, Token: func(of iothub.Identity) func() string {
					if of == id {
						return func() string {
							if left.Load() {
								return ""
							}
							return token
						}
					}
					return nil
				}})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- pool.Run(ctx) }()
				sent := make(chan error, 1)
				pool.Send(from(id, "1"), upstream.Lane{First: true}, func(err error) { sent <- err })
				if err := <-sent; (err == nil) != (name == "good") {
					t.Errorf("token %s: %v", name, err)
				}
				left.Store(true)
				before := dials.Load()
				pool.Break(id, upstream.ErrHanging)
				pool.Send(from(id, "2"), upstream.Lane{First: true}, func(err error) { sent <- err })
				if err := <-sent; err == nil || dials.Load() != before {
					t.Errorf("without a token: %v, %d connections more", err, dials.Load()-before)
				}
				told := func() bool { // after the message
					l.mu.Lock()
					defer l.mu.Unlock()
					return slices.ContainsFunc(l.errs, func(err error) bool { return errors.Is(err, upstream.ErrNoIdentity) })
				}
				if !eventually(told) {
					t.Error("not told that there is no identity")
				}
				cancel()
				<-ended
			}
		})
	}
}
