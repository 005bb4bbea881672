package upstream_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hubName = "hub.test"

var quiet = slog.New(slog.DiscardHandler)

var (
	self = iothub.ModuleIdentity("edge", iothub.HubModule)
	key  = sas.Key("0123456789abcdef0123456789abcdef")
)

// cloud is an IoT hub. For MQTT it is a server that is none of ours, with the
// topics of an IoT hub; for AMQP see amqpPeer. Its connections are pipes in memory.
type cloud struct {
	mochi.HookBase
	t        testing.TB
	protocol client.Protocol // of its dialer
	stop     context.CancelFunc
	ctx      context.Context
	server   *mochi.Server
	tls      *tls.Config
	roots    *x509.CertPool
	work     sync.WaitGroup

	mu        sync.Mutex
	conns     map[net.Conn]bool
	dials     int
	forgetful bool // telemetry is not kept
	peers     map[*amqpPeer]bool
	revoked   map[string]bool
	answers   []*wire.Message // to method calls over AMQP
	outcomes  []string        // of cloud-to-device messages over AMQP
	logins    []topic.Username
	refuse    bool
	away      bool                // nothing can be dialled
	deaf      bool                // telemetry is lost on the way
	lost      map[any]bool        // connections, or links, that have lost some, and so lose all that follows
	mute      bool                // telemetry is taken and not acknowledged
	received  map[string][]string // bodies by client id
	hit       func(id string)     // called for telemetry, without a lock
}

func newCloud(t testing.TB, p client.Protocol) *cloud {
	t.Helper()
	c := &cloud{
		t: t, protocol: p, conns: map[net.Conn]bool{}, peers: map[*amqpPeer]bool{}, revoked: map[string]bool{},
		received: map[string][]string{}, lost: map[any]bool{},
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.certify()
	c.server = mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := c.server.AddHook(c, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func (c *cloud) certify() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{hubName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		c.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	c.roots = x509.NewCertPool()
	c.roots.AddCert(leaf)
	c.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
}

func (c *cloud) close() {
	c.cut()
	c.stop()
	c.work.Wait()
	if err := c.server.Close(); err != nil {
		c.t.Error(err)
	}
}

// dial is a client's Dial. The port says what is spoken.
func (c *cloud) dial(_ context.Context, _, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials++
	if c.away {
		return nil, net.ErrClosed
	}
	_, port, _ := net.SplitHostPort(address)
	serve := map[string]func(net.Conn){"8883": c.serveMQTT, "5671": c.serveAMQP, "443": c.serveWeb}[port]
	if serve == nil {
		c.t.Errorf("dialled %s", address)
		return nil, net.ErrClosed
	}
	near, far := net.Pipe()
	c.conns[far] = true
	c.work.Go(func() { c.keep(far, serve) })
	return near, nil
}

// keep serves a connection that cut may end.
func (c *cloud) keep(conn net.Conn, serve func(net.Conn)) {
	defer conn.Close()
	c.set(func() { c.conns[conn] = true })
	serve(tls.Server(conn, c.tls))
	c.set(func() { delete(c.conns, conn) })
}

func (c *cloud) serveMQTT(conn net.Conn) { _ = c.server.EstablishConnection("test", conn) }

// serveWeb takes WebSockets.
func (c *cloud) serveWeb(conn net.Conn) {
	sockets := ws.New(c.ctx, map[string]ws.Serve{
		"mqtt":      func(_ context.Context, nc net.Conn, _ []*x509.Certificate) { c.serveMQTT(nc) },
		"AMQPWSB10": func(_ context.Context, nc net.Conn, _ []*x509.Certificate) { c.serveAMQP(nc) },
	})
	once := &oneConn{conn: make(chan net.Conn, 1), end: make(chan struct{})}
	once.conn <- conn
	web := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(once.end)
			if r.URL.Path != "/$iothub/websocket" {
				c.t.Errorf("WebSocket at %s", r.URL.Path)
			}
			sockets.ServeHTTP(w, r)
		})}
	_ = web.Serve(once)
	sockets.Wait()
}

// oneConn is a listener with one connection, until that ends.
type oneConn struct {
	conn chan net.Conn
	end  chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.end:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// cut breaks all connections.
func (c *cloud) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cloud) bodies(id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.received[id])
}

// publish delivers to whoever has subscribed.
func (c *cloud) publish(t topic.Topic, body string) {
	if err := c.server.Publish(t.String(), []byte(body), false, 1); err != nil {
		c.t.Error(err)
	}
	c.publishAMQP(t, body)
}

func (c *cloud) ID() string { return "cloud" }

func (c *cloud) Provides(b byte) bool {
	return bytes.Contains([]byte{mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublish}, []byte{b})
}

func (c *cloud) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	user, err := topic.ParseUsername(string(pk.Connect.Username))
	if err != nil {
		c.t.Errorf("user name %q: %v", pk.Connect.Username, err)
		return false
	}
	token, err := sas.Parse(string(pk.Connect.Password))
	if err != nil || !token.Covers(self) || !token.Verify(key) {
		c.t.Errorf("token of %s: %v", user.Identity, err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse {
		return false
	}
	c.logins = append(c.logins, user)
	return true
}

func (c *cloud) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (c *cloud) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	t, err := topic.ParsePublish(pk.TopicName)
	if err != nil {
		c.t.Errorf("topic %q: %v", pk.TopicName, err)
		return pk, err
	}
	switch t.Kind {
	case topic.Telemetry:
		c.mu.Lock()
		hit, deaf, mute := c.hit, c.deaf || c.lost[cl], c.mute
		c.lost[cl] = deaf
		if !deaf && !c.forgetful {
			c.received[cl.ID] = append(c.received[cl.ID], string(pk.Payload))
		}
		c.mu.Unlock()
		if hit != nil {
			hit(cl.ID)
		}
		if deaf || mute {
			return pk, packets.ErrRejectPacket
		}
	case topic.TwinGet:
		c.work.Go(func() {
			c.publish(topic.Topic{Kind: topic.TwinResponse, Status: 200, RequestID: t.RequestID},
				`{"desired":{"$version":1},"reported":{"$version":1}}`)
		})
	case topic.TwinPatchReported:
		answer := topic.Topic{Kind: topic.TwinResponse, Status: 204, RequestID: t.RequestID, Version: 2}
		if status, err := strconv.Atoi(string(pk.Payload)); err == nil {
			answer.Status, answer.Version = status, 0
		}
		c.work.Go(func() { c.publish(answer, "") })
	}
	return pk, nil
}

// dialer connects to the cloud with the project's client.
func (c *cloud) dialer(change func(*client.Options)) upstream.Dialer {
	base := client.Options{Protocol: c.protocol, HubName: hubName, Signer: client.KeySigner(key), RootCAs: c.roots, Dial: c.dial}
	if change != nil {
		change(&base)
	}
	dial, err := upstream.ByClient(upstream.ClientOptions{
		Base: base, Self: self,
		Chain: func(id iothub.Identity) (string, bool) {
			return id.String() + ";edge", id.Device != "stranger"
		},
		Product: func(id iothub.Identity) string { return "product of " + id.String() },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return dial
}

// overEach runs a test over each protocol, in virtual time.
func overEach(t *testing.T, test func(t *testing.T, p client.Protocol)) {
	t.Helper()
	for _, p := range []client.Protocol{client.MQTT, client.AMQP, client.MQTTWS, client.AMQPWS} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, p) })
		})
	}
}

// listener is a Handler that notes what it hears.
type listener struct {
	mu      sync.Mutex
	states  []string
	errs    []error
	desired []string
	methods []string
	c2d     []string
	take    error // of CloudMessage
}

func (l *listener) CloudState(id iothub.Identity, up bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	word := " down"
	if up {
		word = " up"
	}
	l.states = append(l.states, id.String()+word)
	l.errs = append(l.errs, err)
}

func (l *listener) CloudDesired(_ context.Context, id iothub.Identity, patch json.RawMessage, _ int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.desired = append(l.desired, id.String()+" "+string(patch))
}

func (l *listener) CloudMethod(_ context.Context, id iothub.Identity, r iothub.MethodRequest) iothub.MethodResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.methods = append(l.methods, id.String()+" "+r.Name)
	return iothub.MethodResponse{Status: 200}
}

func (l *listener) CloudMessage(_ context.Context, id iothub.Identity, m *iothub.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c2d = append(l.c2d, id.String()+" "+string(m.Body))
	return l.take
}

func (l *listener) heard() (states, desired, methods, c2d []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.states), slices.Clone(l.desired), slices.Clone(l.methods), slices.Clone(l.c2d)
}
