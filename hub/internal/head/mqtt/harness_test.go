package mqtt_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	backend = headtest.Backend
	session = headtest.Session
)

var newBackend = headtest.NewBackend

// hub is a running head on a loopback port with a backend of the test.
type hub struct {
	t    testing.TB
	b    *backend
	addr string
	stop func() // ends Serve and waits; called at the end of the test anyway
}

func start(t testing.TB, b *backend, change func(*mqtt.Options)) *hub {
	t.Helper()
	opts := mqtt.Options{Backend: b, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&opts)
	}
	srv, err := mqtt.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, b: b}
	h.addr, h.stop = headtest.Serve(t, srv.Serve)
	return h
}

var (
	dev = iothub.DeviceIdentity("d1")
	mod = iothub.ModuleIdentity("d1", "m1")
)

// peer is a client that speaks raw packets, with the codec of Paho.
type peer struct {
	t testing.TB
	net.Conn
}

func (h *hub) dial() *peer {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return &peer{h.t, c}
}

func connectPacket(id iothub.Identity) *packets.ConnectPacket {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.ClientIdentifier = id.String()
	p.UsernameFlag, p.Username = true, "h.example/"+id.String()+"/?api-version=2021-04-12&DeviceClientType=test%2F1"
	p.PasswordFlag, p.Password = true, []byte("SharedAccessSignature x")
	p.Keepalive = 60
	return p
}

// connect opens an accepted connection and returns it with the backend's side.
func (h *hub) connect(id iothub.Identity) (*peer, *session) {
	h.t.Helper()
	p := h.dial()
	p.send(connectPacket(id))
	if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 0 {
		h.t.Fatalf("connect: code %d", ack.ReturnCode)
	}
	return p, headtest.Receive(h.t.(*testing.T), "session", h.b.Sessions)
}

func (p *peer) send(cps ...packets.ControlPacket) {
	p.t.Helper()
	var b bytes.Buffer
	for _, cp := range cps {
		if err := cp.Write(&b); err != nil {
			p.t.Fatal(err)
		}
	}
	p.raw(b.Bytes())
}

func (p *peer) raw(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// expect reads one packet, which must be a T.
func expect[T packets.ControlPacket](p *peer) T {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(headtest.Patience))
	cp, err := packets.ReadPacket(p)
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	v, ok := cp.(T)
	if !ok {
		p.t.Fatalf("got %T %v", cp, cp)
	}
	return v
}

// closed checks that the hub closes the connection without another byte.
func (p *peer) closed() {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(headtest.Patience))
	b := make([]byte, 64)
	n, err := p.Read(b)
	if n != 0 {
		p.t.Fatalf("got bytes % x", b[:n])
	}
	if errors.Is(err, io.EOF) {
		return
	}
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		p.t.Fatal("the connection stays open")
	}
}

// quiet checks that the hub sends nothing but the answer to a ping, and so that
// all earlier packets were handled.
func (p *peer) quiet() {
	p.t.Helper()
	p.send(packets.NewControlPacket(packets.Pingreq))
	expect[*packets.PingrespPacket](p)
}

func publish(topic, body string, qos byte, id uint16) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID = topic, []byte(body), qos, id
	return p
}

func puback(id uint16) packets.ControlPacket {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	return p
}

func (p *peer) subscribe(qos byte, filters ...string) []byte {
	p.t.Helper()
	s := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	s.MessageID, s.Topics = 77, filters
	for range filters {
		s.Qoss = append(s.Qoss, qos)
	}
	p.send(s)
	return expect[*packets.SubackPacket](p).ReturnCodes
}

func (p *peer) unsubscribe(filters ...string) {
	p.t.Helper()
	u := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	u.MessageID, u.Topics = 78, filters
	p.send(u)
	expect[*packets.UnsubackPacket](p)
}
