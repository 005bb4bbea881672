package api_test

import (
	"bytes"
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
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/api"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/pki"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const host = "hub.test"

// server is a hub behind real TLS.
type server struct {
	t        *testing.T
	hub      *cloud.Hub
	https    *httptest.Server
	roots    *x509.CertPool
	policies access.Policies
	anyone   *http.Client
}

func start(t *testing.T) *server {
	t.Helper()
	st, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s := &server{t: t, roots: x509.NewCertPool()}
	dir := t.TempDir()
	if s.policies, err = access.LoadPolicies(filepath.Join(dir, "p"), true); err != nil {
		t.Fatal(err)
	}
	certificates, err := pki.Open(dir, []string{host}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(certificates.Root())
	if s.hub, err = cloud.Open(st, cloud.Options{Hosts: []string{host}, Policies: s.policies}); err != nil {
		t.Fatal(err)
	}
	s.https = httptest.NewUnstartedServer(api.New(s.hub, api.Options{}))
	s.https.TLS = certificates.TLS()
	s.https.StartTLS()
	t.Cleanup(s.https.Close)
	transport := &http.Transport{DialContext: s.dial, TLSClientConfig: &tls.Config{RootCAs: s.roots}}
	s.anyone = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return s
}

func (s *server) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, s.https.Listener.Addr().String())
}

func (s *server) policyToken(name string) string {
	s.t.Helper()
	key := s.policies[name].Primary
	token, err := sas.New(sas.HubResource(host), time.Now().Add(time.Hour), name, key.Sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func (s *server) token(id iothub.Identity, auth *rest.Authentication) string {
	s.t.Helper()
	key, err := sas.ParseKey(auth.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := sas.New(sas.DeviceResource(host, id), time.Now().Add(time.Hour), "", key.Sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func (s *server) client(token string) *rest.Client {
	s.t.Helper()
	c, err := rest.New(rest.Options{HubName: host, RootCAs: s.roots, Dial: s.dial, Attempts: 1,
		Authorize: func(context.Context) (string, error) { return token, nil }})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

func (s *server) owner() *rest.Client { return s.client(s.policyToken(access.Owner)) }

// call makes one raw request and returns the response and its body.
func (s *server) call(method, target, token, body string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+host+target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.anyone.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(raw)
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

const version = "?api-version=2021-04-12"

func TestVersionIsCheckedBeforeAnythingElse(t *testing.T) {
	s := start(t)
	for target, bad := range map[string]bool{
		"/devices/0000/modules":                                true,
		"/devices/0000/modules?api-version=":                   true,
		"/devices/0000/modules?api-version=latest":             true,
		"/no/such/path":                                        true,
		"/devices/0000/modules" + version:                      false,
		"/devices/0000/modules?api-version=2020-06-30-preview": false,
		"/devices/0000/modules?api-version=2099-01-01":         false,
	} {
		resp, body := s.call("GET", target, "", "")
		is := resp.StatusCode == http.StatusBadRequest && resp.Header.Get("iothub-errorcode") == "InvalidProtocolVersion"
		if is != bad {
			t.Errorf("%s: %d %s", target, resp.StatusCode, body)
		}
		if !bad && resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", target, resp.StatusCode)
		}
	}
}

func TestErrorBodiesHaveTheFormThatClientsSplit(t *testing.T) {
	s := start(t)
	resp, body := s.call("GET", "/devices/a%3Bb%3Ac"+version, s.policyToken(access.Owner), "", "Request-Id", "r1")
	var doc rest.ErrorBody
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(doc.Message, ";")
	if resp.StatusCode != http.StatusNotFound || len(parts) != 2 || parts[0] != "ErrorCode:DeviceNotFound" || strings.Contains(parts[1], ":") {
		t.Errorf("%d %q", resp.StatusCode, doc.Message)
	}
	if !strings.HasPrefix(doc.ExceptionMessage, "Tracking ID:") || resp.Header.Get("X-Ms-Request-Id") != "r1" ||
		!strings.Contains(resp.Header.Get("Content-Type"), "application/json") {
		t.Errorf("%q %v", doc.ExceptionMessage, resp.Header)
	}
}

func TestPathsAndVerbs(t *testing.T) {
	s := start(t)
	owner := s.policyToken(access.Owner)
	if resp, body := s.call("PUT", "/devices/D%241"+version, owner, `{"deviceId":"D$1"}`); resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == "" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	for _, tt := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/devices/", 200},
		{"GET", "/DEVICES/D$1", 200},
		{"GET", "/devices/d$1", 404},
		{"GET", "/nothing", 404},
		{"GET", "/devices//modules", 404},
		{"PATCH", "/devices/D$1", 405},
		{"POST", "/devices", 501},
		{"POST", "/devices/query", 400},
		{"GET", "/statistics/devices", 200},
		{"GET", "/statistics/service", 200},
		{"GET", "/devices/D$1/modules/none", 404},
		{"DELETE", "/devices/D$1", 204},
		{"DELETE", "/devices/D$1", 404},
	} {
		resp, body := s.call(tt.method, tt.target+version, owner, "")
		if resp.StatusCode != tt.status || (tt.status == 204) != (body == "") {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, resp.StatusCode, body)
		}
	}
	if resp, _ := s.call("GET", "/devices"+version+"&top=x", owner, ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("top=x: %d", resp.StatusCode)
	}
	if resp, _ := s.call("PUT", "/devices/x"+version, owner, strings.Repeat(" ", 5<<20)); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("large body: %d", resp.StatusCode)
	}
}

func TestRightsOfPolicies(t *testing.T) {
	s := start(t)
	owner := s.owner()
	must[rest.Device](t)(owner.PutDevice(t.Context(), rest.Device{DeviceID: "e", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist))
	operations := map[string]struct {
		method, target, body string
		allowed              string
	}{
		"read":    {"GET", "/devices/e", "", "iothubowner registryRead registryReadWrite"},
		"list":    {"GET", "/devices", "", "iothubowner registryRead registryReadWrite"},
		"write":   {"PUT", "/devices/e", `{"deviceId":"e"}`, "iothubowner registryReadWrite"},
		"modules": {"GET", "/devices/e/modules", "", "iothubowner registryRead registryReadWrite"},
		"twin":    {"GET", "/twins/e", "", "iothubowner service"},
		"method":  {"POST", "/twins/e/methods", `{"methodName":"m"}`, "iothubowner service"},
		"apply":   {"POST", "/devices/e/applyConfigurationContent", "{}", "iothubowner service registryReadWrite"},
		"events":  {"GET", "/admin/events", "", "iothubowner service"},
		"scope":   {"GET", "/devices/e/modules/$edgeHub/devicesAndModulesInDeviceScope", "", ""},
	}
	for name, op := range operations {
		for policy := range s.policies {
			resp, _ := s.call(op.method, op.target+version+"&follow=false", s.policyToken(policy), op.body)
			allowed := strings.Contains(" "+op.allowed+" ", " "+policy+" ")
			if (resp.StatusCode != http.StatusUnauthorized) != allowed {
				t.Errorf("%s with %s: %d", name, policy, resp.StatusCode)
			}
			if !allowed && resp.Header.Get("iothub-errorcode") != "IotHubUnauthorizedAccess" {
				t.Errorf("%s with %s: %s", name, policy, resp.Header.Get("iothub-errorcode"))
			}
		}
	}
	resp, _ := s.call("GET", "/devices", "SharedAccessSignature sr=x&sig=x&se=1", "")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without version: %d", resp.StatusCode)
	}
	resp, _ = s.call("GET", "/devices"+version, "SharedAccessSignature sr=x&sig=x&se=1", "")
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("iothub-errorcode") != "IotHubUnauthorized" {
		t.Errorf("bad token: %d %s", resp.StatusCode, resp.Header.Get("iothub-errorcode"))
	}
}

// TestIdentityServiceOfAnEdgeDevice goes the way of spec iothub-service 4 with the
// device's own key.
func TestIdentityServiceOfAnEdgeDevice(t *testing.T) {
	s := start(t)
	owner := s.owner()
	edge := must[rest.Device](t)(owner.PutDevice(t.Context(), rest.Device{DeviceID: "e", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist))
	must[rest.Device](t)(owner.PutDevice(t.Context(), rest.Device{DeviceID: "other", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist))
	plain := must[rest.Device](t)(owner.PutDevice(t.Context(), rest.Device{DeviceID: "plain"}, rest.MustNotExist))
	own := s.client(s.token(iothub.DeviceIdentity("e"), edge.Authentication))

	list := must[[]rest.Module](t)(own.ListModules(t.Context(), "e"))
	if len(list) != 2 {
		t.Errorf("%d modules", len(list))
	}
	m := must[rest.Module](t)(own.PutModule(t.Context(), rest.Module{DeviceID: "e", ModuleID: "m", ManagedBy: "IotEdge"}, rest.MustNotExist))
	key := "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	again := must[rest.Module](t)(own.PutModule(t.Context(), rest.Module{DeviceID: "e", ModuleID: "m", Authentication: rest.SAS(key, key)}, rest.MustExist))
	if again.GenerationID != m.GenerationID || again.ManagedBy != "IotEdge" || again.Authentication.SymmetricKey.PrimaryKey.Reveal() != key {
		t.Errorf("%+v", again)
	}
	must[rest.Module](t)(own.PutModule(t.Context(), rest.Module{DeviceID: "e", ModuleID: "$edgeHub", Authentication: rest.SAS(key, key)}, rest.MustExist))
	if err := own.DeleteModule(t.Context(), iothub.ModuleIdentity("e", "m"), ""); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"system module":     own.DeleteModule(t.Context(), iothub.ModuleIdentity("e", "$edgeAgent"), ""),
		"another's modules": second(own.ListModules(t.Context(), "other")),
		"own device":        second(own.GetDevice(t.Context(), "e")),
		"twin":              second(own.GetTwin(t.Context(), iothub.DeviceIdentity("e"))),
		"of no edge device": second(s.client(s.token(iothub.DeviceIdentity("plain"), plain.Authentication)).ListModules(t.Context(), "plain")),
	} {
		if rest.StatusOf(err) != 401 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestTwinsOverHTTPS(t *testing.T) {
	s := start(t)
	c := s.owner()
	must[rest.Device](t)(c.PutDevice(t.Context(), rest.Device{DeviceID: "d"}, rest.MustNotExist))
	id := iothub.DeviceIdentity("d")
	tw := must[rest.Twin](t)(c.GetTwin(t.Context(), id))
	if tw.Etag != "AAAAAAAAAAE=" || tw.Version != 2 || tw.AuthenticationType != "sas" || tw.ParentScopes == nil || tw.Capabilities == nil {
		t.Errorf("%+v", tw)
	}
	next := must[rest.Twin](t)(c.PatchTwin(t.Context(), id, rest.TwinPatch{Tags: []byte(`{"a":1}`)}, tw.Etag))
	if next.Etag != "AAAAAAAAAAI=" || string(next.Tags) != `{"a":1}` {
		t.Errorf("%+v", next)
	}
	if _, err := c.PatchTwin(t.Context(), id, rest.TwinPatch{Tags: []byte(`{"a":2}`)}, tw.Etag); rest.StatusOf(err) != 412 {
		t.Errorf("stale etag: %v", err)
	}
	// A whole twin may be sent back.
	raw, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := s.call("PATCH", "/twins/d"+version, s.policyToken("service"), string(raw), "If-Match", `"*"`); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	replaced := must[rest.Twin](t)(c.ReplaceTwin(t.Context(), id, rest.DesiredPatch([]byte(`{"x":1}`)), ""))
	if string(replaced.Tags) != "{}" {
		t.Errorf("tags %s", replaced.Tags)
	}
	for body, status := range map[string]int{`[`: 400, `{"tags":{"a.b":1}}`: 400, `{"tags":{"a":"` + strings.Repeat("x", 4096) + `","b":"` + strings.Repeat("x", 4096) + `"}}`: 413} {
		if resp, _ := s.call("PATCH", "/twins/d"+version, s.policyToken("service"), body); resp.StatusCode != status {
			t.Errorf("%.20s: %d, want %d", body, resp.StatusCode, status)
		}
	}
	for id, code := range map[iothub.Identity]string{{Device: "none"}: "DeviceNotFound", {Device: "d", Module: "m"}: "ModuleNotFound"} {
		var e *rest.Error
		if _, err := c.GetTwin(t.Context(), id); !errors.As(err, &e) || e.Status != 404 || e.Code != code {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// answering is a connected client that answers every method.
type answering struct{ payload string }

func (answering) Deliver(string, *iothub.Message, func(head.Outcome) bool) {}
func (answering) DesiredChanged(json.RawMessage, int64)                    {}
func (answering) Disconnect(error)                                         {}
func (a answering) InvokeMethod(_ string, _ json.RawMessage, answer func(int, json.RawMessage)) func() {
	answer(500, json.RawMessage(a.payload))
	return func() {}
}

func (s *server) connect(id iothub.Identity, auth *rest.Authentication, c head.Client) head.Session {
	s.t.Helper()
	session, err := s.hub.Connect(s.t.Context(), head.Login{Identity: id, Token: s.token(id, auth)}, c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { session.Close(nil) })
	session.Subscribe(head.Methods)
	return session
}

func TestMethodsOverHTTPS(t *testing.T) {
	s := start(t)
	c := s.owner()
	d := must[rest.Device](t)(c.PutDevice(t.Context(), rest.Device{DeviceID: "d"}, rest.MustNotExist))
	id := iothub.DeviceIdentity("d")
	_, err := c.InvokeMethod(t.Context(), id, rest.MethodRequest{MethodName: "m"})
	var e *rest.Error
	if !errors.As(err, &e) || e.Status != 404 || e.Code != "404103" {
		t.Errorf("offline: %v", err)
	}
	for payload, want := range map[string]string{`{"a":1}`: `{"a":1}`, "": "null", "plain": `"plain"`} {
		s.connect(id, d.Authentication, answering{payload})
		r, err := c.InvokeMethod(t.Context(), id, rest.MethodRequest{MethodName: "m", Payload: []byte("1")})
		if err != nil || r.Status != 500 || string(r.Payload) != want {
			t.Errorf("%q: %d %s, %v", payload, r.Status, r.Payload, err)
		}
	}
	for body, status := range map[string]int{
		`{`:                    400,
		`{"methodName":""}`:    400,
		`{"methodName":"a b"}`: 400,
		`{"methodName":"m","responseTimeoutInSeconds":4}`:                                    400,
		`{"methodName":"m","connectTimeoutInSeconds":301}`:                                   400,
		`{"methodName":"m","timeoutInSeconds":301}`:                                          400,
		`{"methodName":"m","payload":"` + strings.Repeat("x", cloud.MaxMethodPayload) + `"}`: 413,
		`{"methodName":"m","timeoutInSeconds":10}`:                                           200,
	} {
		if resp, _ := s.call("POST", "/twins/d/methods"+version, s.policyToken("service"), body); resp.StatusCode != status {
			t.Errorf("%.60s: %d, want %d", body, resp.StatusCode, status)
		}
	}
	if _, err := c.InvokeMethod(t.Context(), iothub.ModuleIdentity("d", "m"), rest.MethodRequest{MethodName: "m"}); !errors.As(err, &e) || e.Code != "404010" {
		t.Errorf("unknown module: %v", err)
	}
}

func TestEventsOverHTTPS(t *testing.T) {
	s := start(t)
	c := s.owner()
	d := must[rest.Device](t)(c.PutDevice(t.Context(), rest.Device{DeviceID: "d"}, rest.MustNotExist))
	m := must[rest.Module](t)(c.PutModule(t.Context(), rest.Module{DeviceID: "d", ModuleID: "m"}, rest.MustNotExist))
	send := func(id iothub.Identity, auth *rest.Authentication, contentType, body string) {
		msg := &iothub.Message{Body: []byte(body)}
		msg.Properties.Set("k", "v")
		if contentType != "" {
			msg.System.Set(iothub.ContentType, contentType)
		}
		done := make(chan error, 1)
		s.connect(id, auth, answering{}).Telemetry(t.Context(), msg, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	send(iothub.DeviceIdentity("d"), d.Authentication, "application/json; charset=utf-8", "{ \"a\": 1 }")
	send(iothub.ModuleIdentity("d", "m"), m.Authentication, "", "text")
	send(iothub.DeviceIdentity("d"), d.Authentication, "application/json", "\xff\x00")

	read := func(q rest.EventQuery) (got []rest.EventLine) {
		err := c.Events(t.Context(), q, func(line []byte) error {
			var e rest.EventLine
			if err := json.Unmarshal(line, &e); err != nil {
				return err
			}
			got = append(got, e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := read(rest.EventQuery{Since: "beginning"})
	if len(got) != 3 {
		t.Fatalf("%d events", len(got))
	}
	for i, want := range []struct{ module, payload, encoding string }{{"", `{"a":1}`, ""}, {"m", `"text"`, ""}, {"", `"/wA="`, "base64"}} {
		e := got[i].Event
		if e.Origin != "d" || e.Module != want.module || string(e.Payload) != want.payload || e.PayloadEncoding != want.encoding ||
			e.Properties.Application["k"] != "v" || got[i].Position != uint64(i) {
			t.Errorf("%d: %+v", i, got[i])
		}
		for _, name := range []string{"iothub-connection-device-id", "iothub-enqueuedtime", "x-opt-sequence-number", "x-opt-offset",
			"iothub-connection-auth-generation-id", "iothub-connection-auth-method"} {
			if _, ok := e.Annotations[name]; !ok {
				t.Errorf("%d: no %s", i, name)
			}
		}
	}
	if n := len(read(rest.EventQuery{Since: "2"})); n != 1 {
		t.Errorf("since 2: %d", n)
	}
	if n := len(read(rest.EventQuery{Since: "now"})); n != 0 {
		t.Errorf("since now: %d", n)
	}
	if n := len(read(rest.EventQuery{Since: "beginning", Device: "other"})); n != 0 {
		t.Errorf("of another device: %d", n)
	}
	if err := c.Events(t.Context(), rest.EventQuery{Since: "x"}, nil); rest.StatusOf(err) != 400 {
		t.Errorf("since x: %v", err)
	}

	// Following: an event that comes later is seen, in the same stream.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := make(chan string, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, rest.EventQuery{Since: "2", Follow: true}, func(line []byte) error {
			lines <- string(bytes.Clone(line))
			return nil
		})
	}()
	first := <-lines
	send(iothub.DeviceIdentity("d"), d.Authentication, "", "later")
	if next := <-lines; !strings.Contains(first, `"position":2`) || !strings.Contains(next, `"payload":"later"`) {
		t.Errorf("%s, then %s", first, next)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestStatistics(t *testing.T) {
	s := start(t)
	c := s.owner()
	d := must[rest.Device](t)(c.PutDevice(t.Context(), rest.Device{DeviceID: "d"}, rest.MustNotExist))
	must[rest.Device](t)(c.PutDevice(t.Context(), rest.Device{DeviceID: "off", Status: rest.Disabled}, rest.MustNotExist))
	s.connect(iothub.DeviceIdentity("d"), d.Authentication, answering{})
	_, devices := s.call("GET", "/statistics/devices"+version, s.policyToken(access.Owner), "")
	_, service := s.call("GET", "/statistics/service"+version, s.policyToken(access.Owner), "")
	want := `{"totalDeviceCount":2,"enabledDeviceCount":1,"disabledDeviceCount":1} {"connectedDeviceCount":1}`
	if got := fmt.Sprint(devices, " ", service); got != want {
		t.Error(got)
	}
}
