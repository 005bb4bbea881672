package dps_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var groupKey = sas.Key("0123456789abcdef0123456789abcdef")

// pipes is a listener without a network, so that the clock of a test counts.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) Dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	}
}

// reply is one answer of the service.
type reply struct {
	status int
	after  string
	body   string
}

// service answers one request after the other from a script.
type service struct {
	mu     sync.Mutex
	script []reply
	seen   []string // "GET path", in order
	at     []time.Time
	auth   []string
	bodies []string
	peer   string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
	s.at = append(s.at, time.Now())
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	s.bodies = append(s.bodies, string(body))
	if len(r.TLS.PeerCertificates) > 0 {
		s.peer = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	next := reply{status: 500}
	if len(s.script) > 0 {
		next, s.script = s.script[0], s.script[1:]
	}
	if next.after != "" {
		w.Header().Set("Retry-After", next.after)
	}
	w.WriteHeader(next.status)
	_, _ = io.WriteString(w, next.body)
}

const (
	assigning = `{"operationId":"5.op","status":"assigning","registrationState":{"registrationId":"r1","status":"assigning"}}`
	assigned  = `{"operationId":"5.op","status":"assigned","registrationState":{"registrationId":"r1","assignedHub":"hub.test","deviceId":"d1","status":"assigned","substatus":"initialAssignment","payload":{"a":1}}}`
)

// register runs one registration in virtual time.
func register(t *testing.T, s *service, change func(*dps.Options)) (dps.Assignment, error) {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := httptest.NewUnstartedServer(s)
	server.Listener = p
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	o := dps.Options{
		Endpoint: "https://example.com", IDScope: "0ne00ABCDEF", RegistrationID: "r1",
		Sign: groupKey.Derive("r1").Sign, RootCAs: roots, Dial: p.Dial,
	}
	if change != nil {
		change(&o)
	}
	c, err := dps.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Register(t.Context())
}

func TestRegistrationPollsAsOftenAsTheServiceSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: []reply{{202, "3", `{"operationId":"5.op","status":"assigning"}`}, {202, "", assigning}, {202, "7", assigning}, {200, "", assigned}}}
		got, err := register(t, s, func(o *dps.Options) {
			o.Payload = func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{"model":"x"}`), nil }
		})
		if err != nil || got.Hub != "hub.test" || got.DeviceID != "d1" || got.Substatus != "initialAssignment" || string(got.Payload) != `{"a":1}` {
			t.Fatalf("%+v, %v", got, err)
		}
		want := []string{"PUT /0ne00ABCDEF/registrations/r1/register?api-version=2021-06-01"}
		for range 3 {
			want = append(want, "GET /0ne00ABCDEF/registrations/r1/operations/5.op?api-version=2021-06-01")
		}
		if strings.Join(s.seen, "\n") != strings.Join(want, "\n") {
			t.Errorf("requests %q", s.seen)
		}
		for i, pause := range []time.Duration{3 * time.Second, 5 * time.Second, 7 * time.Second} {
			if d := s.at[i+1].Sub(s.at[i]); d != pause {
				t.Errorf("pause %d is %v, want %v", i, d, pause)
			}
		}
		if s.bodies[0] != `{"registrationId":"r1","payload":{"model":"x"}}` || s.bodies[1] != "" {
			t.Errorf("bodies %q", s.bodies)
		}
		for _, a := range s.auth {
			token, err := sas.Parse(a)
			if err != nil || !token.Verify(groupKey.Derive("r1")) || token.KeyName != "registration" || token.Resource != "0ne00ABCDEF%2Fregistrations%2Fr1" {
				t.Errorf("token %v, %v", token, err)
			}
		}
	})
}

func TestFailuresSayWhatTheServiceSaid(t *testing.T) {
	for _, c := range []struct {
		name        string
		script      []reply
		want        string
		unavailable bool
		requests    int
	}{
		{"failed", []reply{{202, "1", assigning}, {200, "", `{"operationId":"5.op","status":"failed","registrationState":{"registrationId":"r1","status":"failed","errorCode":400207,"errorMessage":"no hub"}}`}},
			"registration is failed, error 400207: no hub", false, 2},
		{"disabled", []reply{{200, "", `{"status":"disabled","registrationState":{}}`}}, "registration is disabled", false, 1},
		{"refused", []reply{{401, "", `{"errorCode":401002,"trackingId":"t-1","message":"Unauthorized","timestampUtc":"x"}`}},
			"provisioning service answered 401, error 401002: Unauthorized (tracking id t-1)", false, 1},
		{"not enrolled", []reply{{404, "", `{"errorCode":404201,"message":"not found"}`}}, "404, error 404201", false, 1},
		{"no JSON", []reply{{403, "", `<html>`}}, "answered 403: Forbidden", false, 1},
		{"strange answer", []reply{{200, "", `[]`}}, "not understood", false, 1},
		{"unknown status", []reply{{200, "", `{"status":"odd"}`}}, `unknown status "odd"`, false, 1},
		{"no operation", []reply{{202, "", `{"status":"assigning"}`}}, "no operation id", false, 1},
		{"assigned to nothing", []reply{{200, "", `{"status":"assigned"}`}}, "names no hub", false, 1},
		{"endless error", nil, "answered 500", true, 4},
		{"throttled", []reply{{429, "90", ""}, {429, "90", ""}, {429, "90", ""}, {429, "90", ""}}, "answered 429", true, 4},
		{"huge answer", []reply{{200, "", strings.Repeat(" ", 2<<20)}}, "longer than", false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{script: c.script}
				_, err := register(t, s, nil)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want %q", err, c.want)
				}
				if errors.Is(err, dps.ErrUnavailable) != c.unavailable {
					t.Errorf("unavailable is %v: %v", !c.unavailable, err)
				}
				if len(s.seen) != c.requests {
					t.Errorf("%d requests, want %d", len(s.seen), c.requests)
				}
			})
		})
	}
}

func TestPassingFaultsDoNotEndARegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: []reply{{503, "", ""}, {202, "3", assigning}, {429, "30", ""}, {500, "", ""}, {200, "", assigned}}}
		if got, err := register(t, s, nil); err != nil || got.DeviceID != "d1" {
			t.Fatalf("%+v, %v", got, err)
		}
		if d := s.at[3].Sub(s.at[2]); d != 30*time.Second {
			t.Errorf("waited %v after 429, want 30s", d)
		}
	})
}

func TestAssignmentThatNeverComesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		for range 1000 {
			s.script = append(s.script, reply{202, "5", assigning})
		}
		begin := time.Now()
		_, err := register(t, s, nil)
		if !errors.Is(err, dps.ErrUnavailable) || time.Since(begin) > 11*time.Minute {
			t.Fatalf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestServiceThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := register(t, &service{}, func(o *dps.Options) {
			o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
		})
		if !errors.Is(err, dps.ErrUnavailable) || !strings.Contains(err.Error(), "no route") {
			t.Fatal(err)
		}
	})
}

func TestCertificateInPlaceOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert := clientCertificate(t, "r1")
		s := &service{script: []reply{{200, "", assigned}}}
		_, err := register(t, s, func(o *dps.Options) {
			o.Sign = nil
			o.Certificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		})
		if err != nil || s.peer != "r1" || s.auth[0] != "" {
			t.Fatalf("%v, peer %q, token %q", err, s.peer, s.auth)
		}
	})
}

// fakeTPM unwraps by taking a prefix off.
type fakeTPM struct{ key sas.Key }

func (f *fakeTPM) PublicKeys() (ek, srk []byte, err error) { return []byte("ek"), []byte("srk"), nil }

func (f *fakeTPM) Import(blob []byte) error {
	key, ok := strings.CutPrefix(string(blob), "wrapped:")
	if !ok {
		return errors.New("not for this TPM")
	}
	f.key = sas.Key(key)
	return nil
}

func (f *fakeTPM) Sign(data []byte) ([]byte, error) { return f.key.Sign(data) }

func TestTPMProvesItselfAndTakesTheIdentityKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		final := strings.Replace(assigned, `"payload":{"a":1}`, `"tpm":{"authenticationKey":"d3JhcHBlZDppZGVudGl0eQ=="}`, 1)
		s := &service{script: []reply{
			{401, "", `{"message":"Unauthorized","authenticationKey":"d3JhcHBlZDpjaGFsbGVuZ2U=","keyName":"registration"}`},
			{202, "1", assigning}, {200, "", final},
		}}
		chip := &fakeTPM{}
		got, err := register(t, s, func(o *dps.Options) { o.Sign, o.TPM = nil, chip })
		if err != nil || got.DeviceID != "d1" || string(chip.key) != "identity" {
			t.Fatalf("%+v, %v, key %q", got, err, []byte(chip.key))
		}
		if s.auth[0] != "" || s.bodies[0] != `{"registrationId":"r1","tpm":{"endorsementKey":"ZWs=","storageRootKey":"c3Jr"}}` || s.bodies[1] != s.bodies[0] {
			t.Errorf("tokens %q, bodies %q", s.auth, s.bodies)
		}
		token, err := sas.Parse(s.auth[1])
		if err != nil || !token.Verify([]byte("challenge")) {
			t.Errorf("proof: %v", err)
		}
		for _, r := range []reply{{401, "", `{"message":"x","authenticationKey":"b3RoZXI="}`}, {200, "", assigned}, {401, "", `{}`}} {
			if _, err := register(t, &service{script: []reply{r}}, func(o *dps.Options) { o.Sign, o.TPM = nil, chip }); err == nil {
				t.Errorf("registered after %+v", r)
			}
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	good := dps.Options{Endpoint: "https://x", IDScope: "s", RegistrationID: "r", Sign: groupKey.Sign}
	for i, change := range []func(*dps.Options){
		func(o *dps.Options) { o.Sign = nil },
		func(o *dps.Options) { o.TPM = &fakeTPM{} },
		func(o *dps.Options) { o.Endpoint = "http://x" },
		func(o *dps.Options) { o.IDScope = "" },
		func(o *dps.Options) { o.RegistrationID = "" },
	} {
		o := good
		change(&o)
		if _, err := dps.New(o); err == nil {
			t.Errorf("case %d is accepted", i)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(200, assigned)
	f.Add(202, assigning)
	f.Add(401, `{"errorCode":401002,"trackingId":"t","message":"m","authenticationKey":"AA=="}`)
	f.Add(200, `{"status":"failed","registrationState":{"errorCode":"x"}}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		kind, err := dps.ParseAnswer(status, []byte(body))
		if err == nil && kind != "assigning" && kind != "assigned" && kind != "failed" && kind != "disabled" && kind != "unassigned" {
			t.Fatalf("status %q of %q", kind, body)
		}
		if err != nil && fmt.Sprint(err) == "" {
			t.Fatal("error without text")
		}
	})
}
