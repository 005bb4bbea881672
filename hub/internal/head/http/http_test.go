package http_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	httphead "github.com/breakwater-iot/breakwater/hub/internal/head/http"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// hub is a backend that notes what it is asked.
type hub struct {
	mu     sync.Mutex
	logins []head.Login
	calls  []string
	answer iothub.MethodResponse
	err    error
	block  bool // until the call's context ends
	auth   error
	scope  rest.ScopeResult // what Members and Member give
	relay  rest.Answer      // what Modules gives
}

func (h *hub) Device() string { return "edge" }

func (h *hub) Authenticate(_ context.Context, l head.Login) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logins = append(h.logins, l)
	switch {
	case h.auth != nil:
		return h.auth
	case l.Token != "SharedAccessSignature good" && len(l.Peer) == 0:
		return fmt.Errorf("%w: wrong token", head.ErrUnauthorized)
	}
	return nil
}

func (h *hub) Invoke(ctx context.Context, caller, target iothub.Identity, r iothub.MethodRequest, connect, response time.Duration) (iothub.MethodResponse, error) {
	h.mu.Lock()
	h.calls = append(h.calls, fmt.Sprintf("%s to %s: %s %s, %s + %s", caller, target, r.Name, r.Payload, connect, response))
	block, answer, err := h.block, h.answer, h.err
	h.mu.Unlock()
	if block {
		<-ctx.Done()
		return answer, ctx.Err()
	}
	return answer, err
}

func (h *hub) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

func (h *hub) Members(actor, target string) (rest.ScopeResult, error) {
	h.note("%s lists %s", actor, target)
	return h.scope, h.err
}

func (h *hub) Member(_ context.Context, actor string, target iothub.Identity) (rest.ScopeResult, error) {
	h.note("%s asks for %s", actor, target)
	return h.scope, h.err
}

func (h *hub) Modules(_ context.Context, actor, device string, call rest.ModuleCall, o rest.OnBehalfOf) (rest.Answer, error) {
	h.note("%s calls %d for %s %q %q %s", actor, call, device, o.Module, o.IfMatch, o.Document)
	return h.relay, h.err
}

// Connect and what follows make it a backend of the MQTT head.
func (h *hub) Connect(_ context.Context, l head.Login, _ head.Client) (head.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logins = append(h.logins, l)
	return session{}, nil
}

// Check holds every token for good.
func (*hub) Check(context.Context, head.Login) error { return nil }

type session struct{}

func (session) Telemetry(_ context.Context, _ *iothub.Message, done func(error)) { done(nil) }
func (session) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{}, nil
}
func (session) PatchReported(context.Context, json.RawMessage, int64) (int64, error) { return 0, nil }
func (session) Subscribe(head.Feature)                                               {}
func (session) Unsubscribe(head.Feature)                                             {}
func (session) Renew(context.Context, head.Login) error                              { return nil }
func (session) Close(error)                                                          {}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gw"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// port is a running server.
type port struct {
	t      *testing.T
	base   string // https://127.0.0.1:port
	client *http.Client
	stop   func()
}

func start(t *testing.T, h *hub, change func(*httphead.Options)) *port {
	t.Helper()
	cert := certificate(t)
	quiet := slog.New(slog.DiscardHandler)
	devices, err := mqtt.New(mqtt.Options{Backend: h, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	o := httphead.Options{
		Backend: h, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Logger: quiet,
		WebSockets: map[string]ws.Serve{"mqtt": devices.ServeWebSocket},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "edgehub_x 1\n")
		}),
	}
	if change != nil {
		change(&o)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- httphead.New(o).Serve(ctx, l) }()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: nil}}
	p := &port{t: t, base: "https://" + l.Addr().String(), client: &http.Client{Transport: transport, Timeout: patience}}
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
		transport.CloseIdleConnections()
	})
	t.Cleanup(p.stop)
	return p
}

func (p *port) do(method, path, body string, headers ...string) (*http.Response, string) {
	p.t.Helper()
	r, err := http.NewRequest(method, p.base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	response, err := p.client.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response, string(text)
}

const (
	caller = "x-ms-edge-moduleId: edge/caller"
	token  = "Authorization: SharedAccessSignature good"
	call   = `{"methodName":"go","payload":{"a":1}}`
	path   = "/twins/leaf/methods?api-version=2018-06-30"
)

func TestMethodCalls(t *testing.T) {
	padding := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	ok := iothub.MethodResponse{Status: 201, Payload: json.RawMessage(`{"b":2}`)}
	tests := []struct {
		name         string
		method, path string
		body         string
		headers      []string
		answer       iothub.MethodResponse
		err          error
		auth         error
		status       int
		text         string // exactly, for 200; a part of it, for others
		call         string // as the backend gets it; "" for none
	}{
		{name: "device", path: path, body: call, answer: ok, status: 200, text: `{"status":201,"payload":{"b":2}}`,
			call: `edge/caller to leaf: go {"a":1}, 0s + 30s`},
		{name: "module", path: "/twins/edge/modules/m/methods", body: call, answer: ok, status: 200, text: `{"status":201,"payload":{"b":2}}`,
			call: `edge/caller to edge/m: go {"a":1}, 0s + 30s`},
		{name: "escaped ids in another case", path: "/Twins/a%23b/Modules/%24edgeAgent/Methods", body: call, answer: ok, status: 200,
			text: `{"status":201,"payload":{"b":2}}`, call: `edge/caller to a#b/$edgeAgent: go {"a":1}, 0s + 30s`},
		{name: "timeouts", path: path, body: `{"methodName":"go","responseTimeoutInSeconds":5,"connectTimeoutInSeconds":300}`, answer: iothub.MethodResponse{Status: -1},
			status: 200, text: `{"status":-1,"payload":null}`, call: `edge/caller to leaf: go , 5m0s + 5s`},
		{name: "largest payload", path: path, body: `{"methodName":"go","payload":` + padding(iothub.MaxMethodPayload) + `}`, answer: ok, status: 200,
			text: `{"status":201,"payload":{"b":2}}`, call: `edge/caller to leaf: go ` + padding(iothub.MaxMethodPayload) + `, 0s + 30s`},
		{name: "absent target", path: path, body: call, err: head.ErrNotConnected, status: 404, text: `{"message":"leaf is not connected`,
			call: `edge/caller to leaf: go {"a":1}, 0s + 30s`},
		{name: "silent target", path: path, body: call, err: head.ErrNoAnswer, status: 504, text: `{"message":"leaf did not answer`,
			call: `edge/caller to leaf: go {"a":1}, 0s + 30s`},
		{name: "no caller", path: path, body: call, headers: []string{token}, status: 400, text: "x-ms-edge-moduleId"},
		{name: "caller is a device", path: path, body: call, headers: []string{"x-ms-edge-moduleId: edge", token}, status: 400, text: "x-ms-edge-moduleId"},
		{name: "caller is malformed", path: path, body: call, headers: []string{"x-ms-edge-moduleId: a/b/c", token}, status: 400, text: "x-ms-edge-moduleId"},
		{name: "caller of another device", path: path, body: call, headers: []string{"x-ms-edge-moduleId: other/caller", token}, status: 401, text: "message"},
		{name: "no token", path: path, body: call, headers: []string{caller}, status: 401, text: "message"},
		{name: "wrong token", path: path, body: call, headers: []string{caller, "Authorization: SharedAccessSignature bad"}, status: 401, text: "message"},
		{name: "identities not known yet", path: path, body: call, auth: head.ErrUnavailable, status: 503, text: "message"},
		{name: "no JSON", path: path, body: `go`, status: 400, text: "message"},
		{name: "no body", path: path, body: ``, status: 400, text: "message"},
		{name: "no name", path: path, body: `{"payload":1}`, status: 400, text: "methodName"},
		{name: "name of 100 characters that are not one byte", path: path, body: `{"methodName":"` + strings.Repeat("ä", 100) + `"}`, answer: ok, status: 200,
			text: `{"status":201,"payload":{"b":2}}`, call: `edge/caller to leaf: ` + strings.Repeat("ä", 100) + ` , 0s + 30s`},
		{name: "name too long", path: path, body: `{"methodName":"` + strings.Repeat("x", 101) + `"}`, status: 400, text: "methodName"},
		{name: "name with a slash", path: path, body: `{"methodName":"a/b"}`, status: 400, text: "methodName"},
		{name: "name with a wildcard", path: path, body: `{"methodName":"a#"}`, status: 400, text: "methodName"},
		{name: "payload too large", path: path, body: `{"methodName":"go","payload":` + padding(iothub.MaxMethodPayload+1) + `}`, status: 400, text: "payload"},
		{name: "body too large", path: path, body: `{"methodName":"go","payload":` + padding(1<<20) + `}`, status: 400, text: "too large"},
		{name: "response timeout too short", path: path, body: `{"methodName":"go","responseTimeoutInSeconds":4}`, status: 400, text: "responseTimeout"},
		{name: "response timeout too long", path: path, body: `{"methodName":"go","responseTimeoutInSeconds":301}`, status: 400, text: "responseTimeout"},
		{name: "connect timeout too long", path: path, body: `{"methodName":"go","connectTimeoutInSeconds":301}`, status: 400, text: "connectTimeout"},
		{name: "timeout is no number", path: path, body: `{"methodName":"go","connectTimeoutInSeconds":"1"}`, status: 400, text: "message"},
		{name: "GET", method: "GET", path: path, status: 405, text: "message"},
		{name: "bad device id", path: "/twins/a%20b/methods", body: call, status: 404, text: "message"},
		{name: "other path below twins", path: "/twins/leaf", body: call, status: 404, text: "message"},
		{name: "root", method: "GET", path: "/", status: 404, text: "message"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hub{answer: tt.answer, err: tt.err, auth: tt.auth}
			p := start(t, h, nil)
			method, headers := tt.method, tt.headers
			if method == "" {
				method = "POST"
			}
			if headers == nil {
				headers = []string{caller, token}
			}
			r, text := p.do(method, tt.path, tt.body, headers...)
			if r.StatusCode != tt.status || tt.status == 200 && text != tt.text || !strings.Contains(text, tt.text) {
				t.Errorf("status %d, body %s", r.StatusCode, text)
			}
			if r.Header.Get("Content-Type") != "application/json; charset=utf-8" || r.ContentLength != int64(len(text)) ||
				r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", r.Header)
			}
			if got := strings.Join(h.calls, "|"); got != tt.call {
				t.Errorf("call %.200s\nwant %.200s", got, tt.call)
			}
			if strings.Contains(text, "SharedAccessSignature") {
				t.Error("the answer holds the token")
			}
		})
	}
}

func TestMetricsPage(t *testing.T) {
	p := start(t, &hub{}, nil)
	if r, text := p.do("GET", "/metrics", ""); r.StatusCode != 200 || text != "edgehub_x 1\n" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v %s", r.Status, text)
	}
	if r, _ := p.do("POST", "/metrics", ""); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %v", r.Status)
	}
}

func TestClientCertificateReachesTheBackend(t *testing.T) {
	h := &hub{answer: iothub.MethodResponse{Status: 200}}
	p := start(t, h, nil)
	p.client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{certificate(t)}
	if r, text := p.do("POST", path, call, caller); r.StatusCode != 200 {
		t.Errorf("%v %s", r.Status, text)
	}
	if len(h.logins) != 1 || len(h.logins[0].Peer) != 1 || h.logins[0].Protocol != "http" || h.logins[0].Remote.String() == "" {
		t.Errorf("logins %+v", h.logins)
	}
}

func TestCertificateInAHeaderIsNotBelieved(t *testing.T) {
	h := &hub{}
	p := start(t, h, nil)
	if r, _ := p.do("POST", path, call, caller, "x-ms-edge-clientcert: -----BEGIN%20CERTIFICATE-----"); r.StatusCode != 401 {
		t.Errorf("%v", r.Status)
	}
}

func TestCallsAtATimeAreBoundedAndEndWithTheServer(t *testing.T) {
	h := &hub{block: true}
	p := start(t, h, func(o *httphead.Options) { o.MaxMethods = 2 })
	statuses := make(chan int, 2)
	for range 2 {
		go func() {
			r, _ := p.do("POST", path, call, caller, token)
			statuses <- r.StatusCode
		}()
	}
	for begin := time.Now(); ; {
		h.mu.Lock()
		n := len(h.calls)
		h.mu.Unlock()
		if n == 2 {
			break
		}
		if time.Since(begin) > patience {
			t.Fatal("calls do not begin")
		}
		time.Sleep(time.Millisecond)
	}
	if r, text := p.do("POST", path, call, caller, token); r.StatusCode != 429 {
		t.Errorf("third call: %v %s", r.Status, text)
	}
	p.stop()
	for range 2 {
		if s := <-statuses; s != 503 {
			t.Errorf("status %d at the end", s)
		}
	}
}

func (p *port) socket(t *testing.T, path string, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return websocket.Dial(ctx, strings.Replace(p.base, "https", "wss", 1)+path, &websocket.DialOptions{HTTPClient: p.client, Subprotocols: protocols})
}

func TestSubProtocols(t *testing.T) {
	tests := []struct {
		name    string
		offered []string
		chosen  string // "" for 400
	}{
		{"mqtt", []string{"mqtt"}, "mqtt"},
		{"another case is repeated", []string{"MQTT"}, "MQTT"},
		{"one of several", []string{"mqttv3.1", "mqtt"}, "mqtt"},
		{"unknown", []string{"chat"}, ""},
		{"AMQP is not served", []string{"AMQPWSB10"}, ""},
		{"none", nil, ""},
	}
	p := start(t, &hub{}, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, r, err := p.socket(t, "/$iothub/websocket?iothub-no-client-cert=true", tt.offered...)
			if tt.chosen == "" {
				if err == nil || r == nil || r.StatusCode != 400 || r.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%v %v", r, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if c.Subprotocol() != tt.chosen {
				t.Errorf("chosen %q", c.Subprotocol())
			}
		})
	}
}

// mqttInside logs in by MQTT inside a WebSocket, and publishes.
func (p *port) mqttInside(t *testing.T) net.Conn {
	t.Helper()
	c, _, err := p.socket(t, "/any/path", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion, connect.Keepalive = "MQTT", 4, 60
	connect.ClientIdentifier, connect.UsernameFlag = "leaf", true
	connect.Username = "hub.test/leaf/?api-version=2021-04-12"
	connect.PasswordFlag, connect.Password = true, []byte("SharedAccessSignature good")
	publish := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	publish.TopicName, publish.Qos, publish.MessageID, publish.Payload = "devices/leaf/messages/events/", 1, 7, make([]byte, 100_000)
	var stream bytes.Buffer
	for _, pk := range []packets.ControlPacket{connect, publish} {
		if err := pk.Write(&stream); err != nil {
			t.Fatal(err)
		}
	}
	// Packets and frames do not end together.
	for chunk := range 3 {
		part := stream.Next(50_000)
		if err := c.Write(t.Context(), websocket.MessageBinary, part); err != nil {
			t.Fatalf("frame %d: %v", chunk, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	answers := websocket.NetConn(ctx, c, websocket.MessageBinary)
	for _, want := range []string{"*packets.ConnackPacket", "*packets.PubackPacket"} {
		pk, err := packets.ReadPacket(answers)
		if err != nil || fmt.Sprintf("%T", pk) != want {
			t.Fatalf("got %T %v, want %s", pk, err, want)
		}
	}
	return answers
}

func TestMQTTInsideAWebSocket(t *testing.T) {
	h := &hub{}
	p := start(t, h, nil)
	answers := p.mqttInside(t)
	h.mu.Lock()
	if len(h.logins) != 1 || h.logins[0].Protocol != "mqtt-ws" || h.logins[0].Identity.Device != "leaf" {
		t.Errorf("logins %+v", h.logins)
	}
	if host, _, err := net.SplitHostPort(h.logins[0].Remote.String()); host != "127.0.0.1" {
		t.Errorf("the client comes from %q, %v", h.logins[0].Remote, err)
	}
	h.mu.Unlock()
	p.stop() // ends the connection, too
	if _, err := packets.ReadPacket(answers); err == nil {
		t.Error("the connection outlives the server")
	}
}
