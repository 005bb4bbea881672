package client_test

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
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hubName = "hub.test"

var testKey = sas.Key("0123456789abcdef0123456789abcdef")

// login is one accepted CONNECT.
type login struct {
	user  topic.Username
	token sas.Token
	clean bool
}

// hub is an independent MQTT server with the topics of an IoT Hub.
type hub struct {
	mqtt.HookBase
	t      *testing.T
	server *mqtt.Server
	tls    *tls.Config
	roots  *x509.CertPool
	work   sync.WaitGroup

	mu        sync.Mutex
	conns     map[net.Conn]bool
	dials     []time.Time
	logins    []login
	refuse    bool   // CONNACK 4
	silent    bool   // connections are accepted and never served
	deny      string // subscriptions that hold this are refused
	mute      bool   // telemetry is recorded and not acknowledged
	noReply   bool   // twin requests are not answered
	sasFor    iothub.Identity
	received  []iothub.Message
	acked     int // PUBACKs from the client
	twin      string
	status    int // of reported patches
	reported  []string
	responses map[string]iothub.MethodResponse
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{t: t, conns: map[net.Conn]bool{}, responses: map[string]iothub.MethodResponse{}, status: 204,
		twin: `{"desired":{"a":1,"$version":4},"reported":{"$version":2}}`}
	h.makeCertificate()
	h.server = mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := h.server.AddHook(h, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.server.Serve(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hub) makeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{hubName, "gateway.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	h.roots = x509.NewCertPool()
	h.roots.AddCert(leaf)
	h.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// close ends the hub and waits for its connections.
func (h *hub) close() {
	h.drop()
	h.work.Wait()
	if err := h.server.Close(); err != nil {
		h.t.Error(err)
	}
}

// serve runs one connection.
func (h *hub) serve(raw net.Conn) {
	h.mu.Lock()
	h.conns[raw] = true
	silent := h.silent
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.conns, raw)
		h.mu.Unlock()
		_ = raw.Close()
	}()
	if silent {
		_, _ = io.Copy(io.Discard, raw)
		return
	}
	_ = h.server.EstablishConnection("test", tls.Server(raw, h.tls))
}

// dial is a client's Dial: a connection in memory.
func (h *hub) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	h.mu.Lock()
	h.dials = append(h.dials, time.Now())
	h.mu.Unlock()
	h.work.Go(func() { h.serve(far) })
	return near, nil
}

// drop cuts all connections.
func (h *hub) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.conns {
		_ = conn.Close()
	}
}

// forget drops all connections and stored sessions.
func (h *hub) forget() {
	h.drop()
	h.work.Wait()
	for id, cl := range h.server.Clients.GetAll() {
		if id != mqtt.InlineClientId {
			h.server.UnsubscribeClient(cl)
			h.server.Clients.Delete(id)
		}
	}
}

// set changes the hub's behaviour.
func (h *hub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// publish delivers to the clients that subscribed.
func (h *hub) publish(t topic.Topic, payload string) {
	if err := h.server.Publish(t.String(), []byte(payload), false, 1); err != nil {
		h.t.Error(err)
	}
}

// count returns how many messages the client acknowledged.
func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked
}

func (h *hub) bodies() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []string
	for _, m := range h.received {
		list = append(list, string(m.Body))
	}
	return list
}

// Hooks of the server.

func (h *hub) ID() string { return "hub" }

func (h *hub) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish, mqtt.OnPacketRead}, []byte{b})
}

func (h *hub) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	user, err := topic.ParseUsername(string(pk.Connect.Username))
	if err != nil || user.Identity.String() != cl.ID || user.HubName != hubName {
		h.t.Errorf("user name %q of client %q: %v", pk.Connect.Username, cl.ID, err)
		return false
	}
	token, err := sas.Parse(string(pk.Connect.Password))
	if err != nil {
		h.t.Errorf("password: %v", err)
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	whom := user.Identity
	if !h.sasFor.IsZero() {
		whom = h.sasFor
	}
	audience, err := token.Audience()
	if err != nil || audience.Host != hubName || !token.Covers(whom) || !token.Verify(testKey) || time.Now().After(token.Expiry) {
		h.t.Errorf("token %v for %v: %v", token, whom, err)
		return false
	}
	if h.refuse {
		return false
	}
	h.logins = append(h.logins, login{user, token, pk.Connect.Clean})
	return true
}

func (h *hub) OnACLCheck(_ *mqtt.Client, name string, write bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return write || h.deny == "" || !strings.Contains(name, h.deny)
}

func (h *hub) OnPacketRead(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type == packets.Puback {
		h.set(func() { h.acked++ })
	}
	return pk, nil
}

func (h *hub) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	t, err := topic.ParsePublish(pk.TopicName)
	if err != nil {
		h.t.Errorf("topic %q: %v", pk.TopicName, err)
		return pk, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch t.Kind {
	case topic.Telemetry:
		m := iothub.Message{Body: slices.Clone(pk.Payload)}
		if err := topic.DecodeBag(t.Bag, &m, topic.ToHub); err != nil || t.Identity.String() != cl.ID || pk.FixedHeader.Qos != 1 {
			h.t.Errorf("telemetry on %q, QoS %d: %v", pk.TopicName, pk.FixedHeader.Qos, err)
		}
		h.received = append(h.received, m)
		if h.mute {
			return pk, packets.ErrRejectPacket
		}
	case topic.TwinGet:
		h.reply(topic.Topic{Kind: topic.TwinResponse, Status: 200, RequestID: t.RequestID}, h.twin)
	case topic.TwinPatchReported:
		h.reported = append(h.reported, string(pk.Payload))
		r := topic.Topic{Kind: topic.TwinResponse, Status: h.status, RequestID: t.RequestID}
		if h.status == 204 {
			r.Version = int64(len(h.reported))
			h.reply(r, "")
		} else {
			h.reply(r, `{"errorCode":400,"message":"no good"}`)
		}
	case topic.MethodResponse:
		h.responses[t.RequestID] = iothub.MethodResponse{Status: t.Status, Payload: json.RawMessage(slices.Clone(pk.Payload))}
	default:
		h.t.Errorf("topic %q", pk.TopicName)
	}
	return pk, nil
}

func (h *hub) reply(t topic.Topic, body string) {
	if h.noReply {
		return
	}
	h.work.Go(func() { h.publish(t, body) })
}

// device is a client that runs against a hub.
type device struct {
	*client.Client
	stop context.CancelFunc
	done chan error

	mu     sync.Mutex
	states []client.Connection
}

var module = iothub.ModuleIdentity("dev", "mod")

func (h *hub) options() client.Options {
	return client.Options{
		Identity: module, HubName: hubName, Signer: client.KeySigner(testKey),
		RootCAs: h.roots, Dial: h.dial, ProductInfo: "test/1",
	}
}

// start makes a client, sets it up and runs it.
func (h *hub) start(o client.Options, setUp func(*client.Client)) *device {
	h.t.Helper()
	d := &device{done: make(chan error, 1)}
	o.OnConnection = func(s client.Connection) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.states = append(d.states, s)
	}
	c, err := client.New(o)
	if err != nil {
		h.t.Fatal(err)
	}
	if setUp != nil {
		setUp(c)
	}
	d.Client = c
	ctx, stop := context.WithCancel(h.t.Context())
	d.stop = stop
	go func() { d.done <- c.Run(ctx) }()
	return d
}

// connected waits for the connection.
func (d *device) connected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := d.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
}

// end stops the client and waits for it.
func (d *device) end(t *testing.T) {
	t.Helper()
	d.stop()
	if err := <-d.done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// seen returns the states that were reported.
func (d *device) seen() []client.Connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.states)
}

func text(s string) *iothub.Message { return &iothub.Message{Body: []byte(s)} }
