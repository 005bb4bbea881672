package mqtt_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

func pahoClient(t *testing.T, h *hub, roots *x509.CertPool, id iothub.Identity, received chan paho.Message) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("ssl://" + h.addr).SetTLSConfig(&tls.Config{RootCAs: roots, ServerName: "hub"}).
		SetClientID(id.String()).SetUsername("h.example/" + id.String() + "/?api-version=2020-09-30").
		SetPassword("SharedAccessSignature x").SetCleanSession(false).SetProtocolVersion(4).SetAutoReconnect(false).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { received <- m })
	c := paho.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func wait(t *testing.T, tok paho.Token) {
	t.Helper()
	if !tok.WaitTimeout(headtest.Patience) || tok.Error() != nil {
		t.Fatalf("token: %v", tok.Error())
	}
}

func TestPahoClientUsesEveryFeatureOverTLS(t *testing.T) {
	b := newBackend()
	server := headtest.Certificate(t, "hub")
	leaf, err := x509.ParseCertificate(server.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	h := start(t, b, func(o *mqtt.Options) { o.TLS = &tls.Config{Certificates: []tls.Certificate{server}} })
	received := make(chan paho.Message, 16)
	c := pahoClient(t, h, roots, mod, received)
	s := headtest.Receive(t, "session", b.Sessions)
	for _, f := range []string{inputsFilter, twinRes, "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"} {
		wait(t, c.Subscribe(f, 1, nil))
	}
	wait(t, c.Publish("devices/d1/modules/m1/messages/events/%24.on=o", 1, false, "hello"))
	if m := headtest.Receive(t, "message", s.Messages); string(m.Body) != "hello" || m.System.Get(iothub.OutputName) != "o" {
		t.Errorf("message %+v", m)
	}
	outs, settled := outcomes()
	s.Client.Deliver("in", &iothub.Message{Body: []byte("input")}, settled)
	if m := headtest.Receive(t, "input", received); m.Topic() != "devices/d1/modules/m1/inputs/in/" || string(m.Payload()) != "input" {
		t.Errorf("input %s %s", m.Topic(), m.Payload())
	}
	if o := headtest.Receive(t, "outcome", outs); o != head.Complete {
		t.Errorf("outcome %v", o)
	}
	wait(t, c.Publish(twinGet+"7", 1, false, ""))
	if m := headtest.Receive(t, "twin", received); m.Topic() != "$iothub/twin/res/200/?$rid=7" {
		t.Errorf("twin %s", m.Topic())
	}
	s.Client.DesiredChanged([]byte(`{"$version":2}`), 2)
	if m := headtest.Receive(t, "desired", received); m.Topic() != "$iothub/twin/PATCH/properties/desired/?$version=2" {
		t.Errorf("desired %s", m.Topic())
	}
	answers := make(chan int, 1)
	s.Client.InvokeMethod("m", nil, func(status int, _ json.RawMessage) { answers <- status })
	if m := headtest.Receive(t, "method", received); m.Topic() != "$iothub/methods/POST/m/?$rid=1" {
		t.Errorf("method %s", m.Topic())
	}
	wait(t, c.Publish("$iothub/methods/res/201/?$rid=1", 1, false, "{}"))
	if status := headtest.Receive(t, "answer", answers); status != 201 {
		t.Errorf("status %d", status)
	}
	c.Disconnect(250)
	if err := headtest.Receive(t, "close", s.Closed); err != nil {
		t.Errorf("closed with %v", err)
	}
	pahoClient(t, h, roots, mod, received)
	s = headtest.Receive(t, "session", b.Sessions)
	s.Client.Deliver("in", &iothub.Message{Body: []byte("again")}, settled)
	if m := headtest.Receive(t, "input of the stored subscription", received); string(m.Payload()) != "again" {
		t.Errorf("input %s", m.Payload())
	}
}

// flood publishes n messages with at most window unacknowledged and checks that
// the PUBACKs come in order. body of message i starts with i.
func flood(c net.Conn, topic string, n, window, size int) error {
	tokens := make(chan struct{}, window)
	fail := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		r := make([]byte, 4)
		for i := range n {
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.ReadFull(c, r); err != nil {
				fail <- err
				return
			}
			if want := uint16(i%65535 + 1); !bytes.Equal(r[:2], []byte{0x40, 2}) || binary.BigEndian.Uint16(r[2:]) != want {
				fail <- fmt.Errorf("ack % x, want id %d", r, want)
				return
			}
			<-tokens
		}
	})
	defer wg.Wait()
	body := make([]byte, size)
	var packet []byte
	for i := range n {
		select {
		case tokens <- struct{}{}:
		case err := <-fail:
			c.Close()
			return err
		}
		binary.BigEndian.PutUint32(body, uint32(i))
		packet = append(packet[:0], 0x32)
		packet = binary.AppendUvarint(packet, uint64(2+len(topic)+2+size))
		packet = binary.BigEndian.AppendUint16(packet, uint16(len(topic)))
		packet = append(packet, topic...)
		packet = binary.BigEndian.AppendUint16(packet, uint16(i%65535+1))
		packet = append(packet, body...)
		if _, err := c.Write(packet); err != nil {
			return err
		}
	}
	wg.Wait()
	select {
	case err := <-fail:
		return err
	default:
		return nil
	}
}

func (h *hub) dialAs(id iothub.Identity) net.Conn {
	h.t.Helper()
	p := h.dial()
	p.send(connectPacket(id))
	if ack := expect[*packets.ConnackPacket](p); ack.ReturnCode != 0 {
		h.t.Fatalf("connect: %v", ack)
	}
	return p.Conn
}

// shuffler settles messages from another goroutine, in batches as a group commit
// does, and counts those that are out of order for their sender.
type shuffler struct {
	work chan settling
	wg   sync.WaitGroup
	last map[byte]uint32
	bad  int
}

type settling struct {
	m    *iothub.Message
	done func(error)
}

func (s *shuffler) run() {
	for first := range s.work {
		batch := []settling{first}
		for more := true; more && len(batch) < 200; {
			select {
			case v, ok := <-s.work:
				if more = ok; ok {
					batch = append(batch, v)
				}
			default:
				more = false
			}
		}
		for _, v := range batch {
			sender, n := v.m.Properties.Get("s")[0], binary.BigEndian.Uint32(v.m.Body)
			if n != s.last[sender] {
				s.bad++
			}
			s.last[sender] = n + 1
			v.done(nil)
		}
	}
}

func TestEightClientsKeepTheirOrderUnderLoad(t *testing.T) {
	sh := &shuffler{work: make(chan settling, 256), last: make(map[byte]uint32)}
	sh.wg.Go(sh.run)
	h := start(t, newBackend(), func(o *mqtt.Options) { o.Backend = &loadBackend{sh} })
	const n = 3000
	errs := make(chan error, 8)
	for i := range 8 {
		id := iothub.DeviceIdentity(fmt.Sprint("load", i))
		c := h.dialAs(id)
		go func() { errs <- flood(c, "devices/"+id.Device+"/messages/events/s="+fmt.Sprint(i), n, 64, 256) }()
	}
	for range 8 {
		select {
		case err := <-errs:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(60 * time.Second):
			t.Fatal("load does not end")
		}
	}
	h.stop()
	close(sh.work)
	sh.wg.Wait()
	if sh.bad != 0 || len(sh.last) != 8 {
		t.Errorf("%d messages out of order, %d senders", sh.bad, len(sh.last))
	}
}
