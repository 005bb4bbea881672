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
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hubName = "hub.test"

var (
	self = iothub.ModuleIdentity("edge", iothub.HubModule)
	key  = sas.Key("0123456789abcdef0123456789abcdef")
)

// cloud is an MQTT server that is none of ours, with the topics of an IoT hub. Its
// connections are pipes in memory.
type cloud struct {
	mochi.HookBase
	t      *testing.T
	server *mochi.Server
	tls    *tls.Config
	roots  *x509.CertPool
	work   sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	logins   []topic.Username
	refuse   bool
	away     bool                   // nothing can be dialled
	deaf     bool                   // telemetry is lost on the way
	lost     map[*mochi.Client]bool // connections that have lost some, and so lose all that follows
	mute     bool                   // telemetry is taken and not acknowledged
	received map[string][]string    // bodies by client id
	hit      func(id string)        // called for telemetry, without a lock
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, conns: map[net.Conn]bool{}, received: map[string][]string{}, lost: map[*mochi.Client]bool{}}
	c.certify()
	c.server = mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := c.server.AddHook(c, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Serve(); err != nil {
		t.Fatal(err)
	}
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
	c.work.Wait()
	if err := c.server.Close(); err != nil {
		c.t.Error(err)
	}
}

// dial is a client's Dial.
func (c *cloud) dial(context.Context, string, string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return nil, net.ErrClosed
	}
	near, far := net.Pipe()
	c.conns[far] = true
	c.work.Go(func() {
		defer far.Close()
		_ = c.server.EstablishConnection("test", tls.Server(far, c.tls))
		c.mu.Lock()
		delete(c.conns, far)
		c.mu.Unlock()
	})
	return near, nil
}

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
		if !deaf {
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
	base := client.Options{HubName: hubName, Signer: client.KeySigner(key), RootCAs: c.roots, Dial: c.dial}
	if change != nil {
		change(&base)
	}
	return upstream.ByClient(upstream.ClientOptions{
		Base: base, Self: self,
		Chain: func(id iothub.Identity) (string, bool) {
			return id.String() + ";edge", id.Device != "stranger"
		},
		Product: func(id iothub.Identity) string { return "product of " + id.String() },
	})
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
