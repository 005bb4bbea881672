package rest_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a hub that answers with h, and returns a client of it. The client
// dials by name: the test certificate is for example.com.
func serve(t *testing.T, h http.HandlerFunc) *rest.Client {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c, err := rest.New(rest.Options{
		HubName: "example.com", RootCAs: roots, Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond,
		Authorize: func(context.Context) (string, error) { return "token", nil },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRequestsAsTheHubExpectsThem(t *testing.T) {
	id := iothub.ModuleIdentity("d/?#%1", "$edgeHub")
	tests := map[string]struct {
		call func(c *rest.Client) error
		want string // method, path and query, If-Match, body
	}{
		"get device": {func(c *rest.Client) error { _, err := c.GetDevice(t.Context(), "d1"); return err },
			"GET /devices/d1?api-version=2021-04-12 [] "},
		"ids are escaped": {func(c *rest.Client) error { _, err := c.GetModule(t.Context(), id); return err },
			"GET /devices/d%2F%3F%23%251/modules/$edgeHub?api-version=2021-04-12 [] "},
		"etag is quoted": {func(c *rest.Client) error { return c.DeleteDevice(t.Context(), "d1", "abc") },
			`DELETE /devices/d1?api-version=2021-04-12 ["abc"] `},
		"delete without etag": {func(c *rest.Client) error { return c.DeleteModule(t.Context(), id, "") },
			"DELETE /devices/d%2F%3F%23%251/modules/$edgeHub?api-version=2021-04-12 [*] "},
		"twin patch": {func(c *rest.Client) error {
			_, err := c.PatchTwin(t.Context(), iothub.DeviceIdentity("d"), rest.DesiredPatch([]byte(`{"a":null}`)), "*")
			return err
		}, `PATCH /twins/d?api-version=2021-04-12 [*] {"properties":{"desired":{"a":null}}}`},
		"method": {func(c *rest.Client) error {
			_, err := c.InvokeMethod(t.Context(), iothub.ModuleIdentity("d", "m"), rest.MethodRequest{MethodName: "x"})
			return err
		}, `POST /twins/d/modules/m/methods?api-version=2021-04-12 [] {"methodName":"x"}`},
		"scope list": {func(c *rest.Client) error {
			_, err := c.ScopeList(t.Context(), "e", rest.ScopePage{PageSize: 10, AuthChain: rest.AuthChain("c", "e")})
			return err
		}, `POST /devices/e/modules/$edgeHub/devicesAndModulesInTargetDeviceScope?api-version=2020-06-30-preview [] {"pageSize":10,"continuationLink":null,"authChain":"c;e"}`},
		"scope target": {func(c *rest.Client) error {
			_, err := c.ScopeGet(t.Context(), "e", iothub.ModuleIdentity("d", "m"), "e")
			return err
		}, `POST /devices/e/modules/$edgeHub/getDeviceAndModuleOnBehalfOf?api-version=2020-06-30-preview [] {"targetDeviceId":"d","targetModuleId":"m","authChain":"e"}`},
		"put on behalf": {func(c *rest.Client) error {
			_, err := c.OnBehalf(t.Context(), "e", rest.PutModule, rest.OnBehalfOf{AuthChain: "c;e", Document: []byte(`{"moduleId":"m","x":1}`), IfMatch: `"1"`})
			return err
		}, `PUT /devices/e/modules/$edgeHub/putModuleOnBehalfOf?api-version=2020-06-30-preview ["1"] {"authChain":"c;e","module":{"moduleId":"m","x":1}}`},
		"get on behalf": {func(c *rest.Client) error {
			_, err := c.OnBehalf(t.Context(), "e", rest.GetModule, rest.OnBehalfOf{AuthChain: "c;e", Module: "m"})
			return err
		}, `POST /devices/e/modules/$edgeHub/getModuleOnBehalfOf?api-version=2020-06-30-preview [] {"authChain":"c;e","targetModuleId":"m"}`},
		"list on behalf": {func(c *rest.Client) error {
			_, err := c.OnBehalf(t.Context(), "e", rest.ListModules, rest.OnBehalfOf{AuthChain: "c;e"})
			return err
		}, `POST /devices/e/modules/$edgeHub/getModulesOnTargetDevice?api-version=2020-06-30-preview [] {"authChain":"c;e"}`},
		"delete on behalf": {func(c *rest.Client) error {
			_, err := c.OnBehalf(t.Context(), "e", rest.DeleteModule, rest.OnBehalfOf{AuthChain: "c;e", Module: "m"})
			return err
		}, `POST /devices/e/modules/$edgeHub/deleteModuleOnBehalfOf?api-version=2020-06-30-preview [] {"authChain":"c;e","moduleId":"m"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = fmt.Sprintf("%s %s [%s] %s", r.Method, r.RequestURI, r.Header.Get("If-Match"), body)
				if r.Header.Get("Authorization") != "token" {
					t.Error("no Authorization")
				}
				_, _ = io.WriteString(w, "{}")
			})
			if err := tt.call(c); err != nil || got != tt.want {
				t.Errorf("got  %s\nwant %s\n%v", got, tt.want, err)
			}
		})
	}
}

func TestErrorsOfTheHub(t *testing.T) {
	tests := map[string]struct {
		status        int
		body          string
		code, message string
	}{
		"registry":      {404, `{"Message":"ErrorCode:DeviceNotFound;E1002: device d1 not registered","ExceptionMessage":""}`, "DeviceNotFound", "E1002: device d1 not registered"},
		"method":        {404, `{"Message":"{\"errorCode\":404103,\"message\":\"Timed out\"}","ExceptionMessage":""}`, "404103", "Timed out"},
		"other":         {401, `{"errorMessage":"no"}`, "", "no"},
		"not JSON":      {403, `<html>`, "", ""},
		"without codes": {400, `{"Message":"plain"}`, "", "plain"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.GetDevice(t.Context(), "d1")
			var e *rest.Error
			if !errors.As(err, &e) || e.Status != tt.status || e.Code != tt.code || e.Message != tt.message {
				t.Errorf("%#v, %v", e, err)
			}
			if rest.StatusOf(err) != tt.status {
				t.Errorf("status %d", rest.StatusOf(err))
			}
		})
	}
}

func TestRetries(t *testing.T) {
	get := func(c *rest.Client) error { _, err := c.GetDevice(t.Context(), "d"); return err }
	method := func(c *rest.Client) error {
		_, err := c.InvokeMethod(t.Context(), iothub.DeviceIdentity("d"), rest.MethodRequest{MethodName: "m"})
		return err
	}
	tests := map[string]struct {
		call     func(*rest.Client) error
		statuses []int // answers in order; the last one repeats
		tries    int
		fails    bool
	}{
		"server error, then well":           {get, []int{500, 503, 200}, 3, false},
		"throttled, then well":              {get, []int{429, 200}, 2, false},
		"server error for good":             {get, []int{500}, 3, true},
		"refused":                           {get, []int{404}, 1, true},
		"method is not repeated after 504":  {method, []int{504}, 1, true},
		"method is repeated when throttled": {method, []int{429, 200}, 2, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var tries atomic.Int32
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				n := int(tries.Add(1))
				w.WriteHeader(tt.statuses[min(n, len(tt.statuses))-1])
				_, _ = io.WriteString(w, "{}")
			})
			err := tt.call(c)
			if (err != nil) != tt.fails || int(tries.Load()) != tt.tries {
				t.Errorf("%d tries, %v", tries.Load(), err)
			}
		})
	}
}

func TestUntrustedServerIsNotTriedAgain(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	var dials atomic.Int32
	c, err := rest.New(rest.Options{HubName: "example.com", RootCAs: x509.NewCertPool(), Backoff: time.Millisecond,
		Authorize: func(context.Context) (string, error) { return "", nil },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.GetDevice(t.Context(), "d"); err == nil || dials.Load() != 1 || rest.StatusOf(err) != 0 {
		t.Errorf("%d dials, %v", dials.Load(), err)
	}
}

// A trust bundle is renewed while programs run.
func TestEachConnectionTrustsTheRootsOfTheMoment(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	var roots atomic.Pointer[x509.CertPool]
	roots.Store(x509.NewCertPool())
	var dials atomic.Int32
	c, err := rest.New(rest.Options{HubName: "example.com", Roots: roots.Load, Backoff: time.Millisecond,
		Authorize: func(context.Context) (string, error) { return "", nil },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.GetDevice(t.Context(), "d"); err == nil || dials.Load() != 1 {
		t.Errorf("%d dials, %v", dials.Load(), err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	roots.Store(pool)
	for range 2 {
		if _, err := c.GetDevice(t.Context(), "d"); err != nil || dials.Load() != 2 {
			t.Errorf("with the new roots: %d dials, %v", dials.Load(), err)
		}
	}
}

func TestContextEndsTheWaitForAnotherTry(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	if _, err := c.GetDevice(ctx, "d"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestScopeAllFollowsPages(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, string(body))
		next := `"p2"`
		if strings.Contains(string(body), `"p2"`) {
			next = "null"
		}
		_, _ = fmt.Fprintf(w, `{"devices":[{"deviceId":"d%d"}],"modules":null,"continuationLink":%s}`, len(asked), next)
	})
	var got []string
	err := c.ScopeAll(t.Context(), "e", rest.ScopePage{PageSize: 1, AuthChain: "e"}, func(r rest.ScopeResult) error {
		got = append(got, r.Devices[0].DeviceID)
		return nil
	})
	if err != nil || strings.Join(got, " ") != "d1 d2" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestScopeAllDoesNotLoop(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"devices":[],"modules":[],"continuationLink":"same"}`)
	})
	if err := c.ScopeAll(t.Context(), "e", rest.ScopePage{}, func(rest.ScopeResult) error { return nil }); err == nil {
		t.Error("no error")
	}
}

func TestEventsSkipHeartbeatsAndTellOfABrokenStream(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("since") == "bad" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, "{\"position\":1}\n\n{\"position\":2}\n")
	}
	for _, tt := range []struct {
		q     rest.EventQuery
		lines int
		fails bool
	}{
		{rest.EventQuery{Since: "beginning"}, 2, false},
		{rest.EventQuery{Follow: true}, 2, true},
		{rest.EventQuery{Since: "bad"}, 0, true},
	} {
		lines := 0
		err := serve(t, h).Events(t.Context(), tt.q, func([]byte) error { lines++; return nil })
		if lines != tt.lines || (err != nil) != tt.fails {
			t.Errorf("%+v: %d lines, %v", tt.q, lines, err)
		}
	}
}

func TestNewRefusesWithoutNameOrCredentials(t *testing.T) {
	for _, o := range []rest.Options{{}, {HubName: "h"}} {
		if _, err := rest.New(o); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
}
