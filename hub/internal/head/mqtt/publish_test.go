package mqtt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const events = "devices/d1/messages/events/"

func TestTelemetryReachesTheBackend(t *testing.T) {
	for _, flavor := range []mqtt.Flavor{mqtt.Edge, mqtt.Cloud} {
		h := start(t, newBackend(), func(o *mqtt.Options) { o.Flavor = flavor })
		p, s := h.connect(mod)
		pk := publish("devices/d1/modules/m1/messages/events/%24.on=out&a=b%20c&$.cdid=forged/", "body", 1, 5)
		pk.Retain, pk.Dup = true, true
		p.send(pk)
		if ack := expect[*packets.PubackPacket](p); ack.MessageID != 5 {
			t.Errorf("ack of %d", ack.MessageID)
		}
		m := headtest.Receive(t, "message", s.Messages)
		want := "[{a b c false} {mqtt-retain true false} {mqtt-dup true false}] [{outputName out false}]"
		if flavor == mqtt.Cloud {
			want = "[{a b c false} {mqtt-retain true false}] [{outputName out false}]"
		}
		if got := fmt.Sprint(m.Properties, m.System); got != want || string(m.Body) != "body" {
			t.Errorf("flavor %d: %s %q", flavor, got, m.Body)
		}
		p.send(publish("devices/d1/modules/m1/messages/events/", "", 0, 0))
		if m := headtest.Receive(t, "message", s.Messages); len(m.Body) != 0 {
			t.Errorf("body %q", m.Body)
		}
		p.quiet() // QoS 0 and retain leave nothing behind
	}
}

func TestPubackWaitsForTheBackendAndKeepsOrder(t *testing.T) {
	b := newBackend()
	dones := make(chan func(error), 16)
	b.OnTelemetry = func(_ *iothub.Message, done func(error)) { dones <- done }
	p, _ := start(t, b, nil).connect(dev)
	var list []func(error)
	for id := uint16(1); id <= 4; id++ {
		p.send(publish(events, "x", 1, id))
		list = append(list, headtest.Receive(t, "message", dones))
	}
	p.send(publish("a/b", "unknown topic", 1, 5)) // settled at once, acknowledged last
	p.quiet()
	for _, i := range []int{2, 1, 3} {
		list[i](nil)
	}
	p.quiet()
	list[0](nil)
	list[0](nil) // a second call changes nothing
	for want := uint16(1); want <= 5; want++ {
		if ack := expect[*packets.PubackPacket](p); ack.MessageID != want {
			t.Fatalf("ack of %d, want %d", ack.MessageID, want)
		}
	}
	p.quiet()
}

func TestRefusedMessageEndsTheConnectionWithoutPuback(t *testing.T) {
	b := newBackend()
	b.OnTelemetry = func(m *iothub.Message, done func(error)) {
		if string(m.Body) == "bad" {
			done(head.ErrTooLarge)
			return
		}
		done(nil)
	}
	p, s := start(t, b, nil).connect(dev)
	p.send(publish(events, "good", 1, 1))
	expect[*packets.PubackPacket](p)
	p.send(publish(events, "bad", 1, 2), publish(events, "after", 1, 3))
	p.closed()
	if err := headtest.Receive(t, "close", s.Closed); !errors.Is(err, head.ErrTooLarge) {
		t.Errorf("closed with %v", err)
	}
	headtest.Receive(t, "message", s.Messages)
	headtest.Receive(t, "message", s.Messages)
	headtest.Nothing(t, "message after the refused one", s.Messages)
}

func TestWhatEndsTheConnection(t *testing.T) {
	sub := []byte{0x82, 5, 0, 1, 0, 0, 3} // QoS 3
	tests := []struct {
		name        string
		send        any // ControlPacket or []byte
		edge, cloud bool
	}{
		{"QoS 2", publish(events, "x", 2, 1), true, true},
		{"another device's topic", publish("devices/d2/messages/events/", "x", 1, 1), true, true},
		{"topic of one's module", publish("devices/d1/modules/m1/messages/events/", "x", 1, 1), true, true},
		{"unknown topic", publish("a/b", "x", 1, 1), false, true},
		{"unknown topic, QoS 0", publish("a/b", "x", 0, 0), false, true},
		{"$SYS", publish("$SYS/x", "x", 1, 1), false, true},
		{"$share", publish("$share/x", "x", 1, 1), false, true},
		{"malformed bag", publish(events+"=x", "x", 1, 1), false, true},
		{"malformed twin topic", publish("$iothub/twin/POST/?$rid=1", "x", 1, 1), true, true},
		{"twin GET without rid", publish("$iothub/twin/GET/", "", 0, 0), true, true},
		{"wildcard in a topic", publish("a/#", "x", 1, 1), true, true},
		{"empty topic", publish("", "x", 0, 0), true, true},
		{"packet id 0", publish(events, "x", 1, 0), true, true},
		{"message over 256 KiB", publish(events, strings.Repeat("x", 262144+1), 1, 1), true, true},
		{"packet over the limit", []byte{0x32, 0xff, 0xff, 0x7f}, true, true},
		{"length that never ends", []byte{0x32, 0xff, 0xff, 0xff, 0xff, 0xff}, true, true},
		{"second CONNECT", connectPacket(dev), true, true},
		{"CONNACK", packets.NewControlPacket(packets.Connack), true, true},
		{"SUBACK", packets.NewControlPacket(packets.Suback), true, true},
		{"PINGRESP", packets.NewControlPacket(packets.Pingresp), true, true},
		{"AUTH of MQTT 5", []byte{0xf0, 0}, true, true},
		{"packet type 0", []byte{0, 0}, true, true},
		{"SUBSCRIBE with wrong flags", []byte{0x80, 5, 0, 1, 0, 0, 1}, true, true},
		{"SUBSCRIBE with QoS 3", sub, true, true},
		{"SUBSCRIBE without filters", []byte{0x82, 2, 0, 1}, true, true},
		{"topic that is no UTF-8", []byte{0x30, 4, 0, 2, 0xff, 0xff}, true, true},
		{"PUBLISH cut short", []byte{0x32, 2, 0, 9}, true, true},
		{"unexpected PUBACK", puback(9), false, false},
	}
	for _, tt := range tests {
		for _, flavor := range []mqtt.Flavor{mqtt.Edge, mqtt.Cloud} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, flavor), func(t *testing.T) {
				h := start(t, newBackend(), func(o *mqtt.Options) { o.Flavor = flavor })
				other, _ := h.connect(iothub.DeviceIdentity("d9"))
				p, s := h.connect(dev)
				switch v := tt.send.(type) {
				case packets.ControlPacket:
					p.send(v)
				case []byte:
					p.raw(v)
				}
				ends := tt.edge
				if flavor == mqtt.Cloud {
					ends = tt.cloud
				}
				if ends {
					p.closed()
					if err := headtest.Receive(t, "close", s.Closed); err == nil {
						t.Error("closed as after a goodbye")
					}
				} else {
					if pk, ok := tt.send.(*packets.PublishPacket); ok && pk.Qos == 1 {
						expect[*packets.PubackPacket](p)
					}
					p.quiet()
				}
				headtest.Nothing(t, "message", s.Messages)
				other.quiet()
			})
		}
	}
}

func TestLargestMessagePasses(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(dev)
	p.send(publish(events+"a="+strings.Repeat("%20", 2000), strings.Repeat("x", 262144-2001), 1, 1))
	expect[*packets.PubackPacket](p)
	if m := headtest.Receive(t, "message", s.Messages); m.Size() != 262144 {
		t.Errorf("size %d", m.Size())
	}
}

func TestFirstPacketMustBeConnect(t *testing.T) {
	h := start(t, newBackend(), nil)
	p := h.dial()
	p.send(publish(events, "x", 0, 0))
	p.closed()
}

func TestUnsettledMessagesStopTheReader(t *testing.T) {
	for name, change := range map[string]func(*mqtt.Options){
		"by number": func(o *mqtt.Options) { o.MaxUnacked = 3 },
		"by size":   func(o *mqtt.Options) { o.MaxUnackedBytes = 3 * (len(events) + 100) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			dones := make(chan func(error), 16)
			b.OnTelemetry = func(_ *iothub.Message, done func(error)) { dones <- done }
			h := start(t, b, change)
			p, s := h.connect(dev)
			for id := uint16(1); id <= 5; id++ {
				p.send(publish(events, strings.Repeat("x", 100), 1, id))
			}
			for range 3 {
				defer headtest.Receive(t, "message", dones)(nil)
			}
			headtest.Nothing(t, "message beyond the window", dones)
			s.Client.Disconnect(head.ErrExpired) // ends a reader that waits, too
			p.closed()
			headtest.Receive(t, "close", s.Closed)
		})
	}
}

func TestReaderGoesOnWhenMessagesSettle(t *testing.T) {
	b := newBackend()
	dones := make(chan func(error), 16)
	b.OnTelemetry = func(_ *iothub.Message, done func(error)) { dones <- done }
	p, _ := start(t, b, func(o *mqtt.Options) { o.MaxUnacked = 2 }).connect(dev)
	const n = 50
	go func() {
		for id := uint16(1); id <= n; id++ {
			p.send(publish(events, "x", 1, id))
		}
	}()
	for id := uint16(1); id <= n; id++ {
		headtest.Receive(t, "message", dones)(nil)
		if ack := expect[*packets.PubackPacket](p); ack.MessageID != id {
			t.Fatalf("ack of %d, want %d", ack.MessageID, id)
		}
	}
}

func TestPanicInTheBackendCostsOneConnection(t *testing.T) {
	b := newBackend()
	b.OnTelemetry = func(*iothub.Message, func(error)) { panic("test") }
	b.OnTwin = func() (iothub.TwinProperties, error) { panic("test") }
	h := start(t, b, nil)
	other, _ := h.connect(mod)
	for name, send := range map[string]func(*peer, *session){
		"telemetry and will": func(p *peer, _ *session) { p.send(publish(events, "x", 1, 1)) },
		"twin":               func(p *peer, _ *session) { p.send(publish(twinGet+"1", "", 1, 1)) },
		"settled in the writer": func(p *peer, s *session) {
			s.Client.Deliver("", &iothub.Message{}, func(head.Outcome) bool { panic("test") })
			expect[*packets.PublishPacket](p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, cp := h.dial(), connectPacket(dev)
			will(events, "will", 0)(cp)
			p.send(cp)
			expect[*packets.ConnackPacket](p)
			s := headtest.Receive(t, "session", b.Sessions)
			p.subscribe(0, c2dFilter)
			send(p, s)
			headtest.Receive(t, "close", s.Closed)
			other.quiet()
		})
	}
	h.connect(dev)
}

func TestClientsCannotReachEachOther(t *testing.T) {
	h := start(t, newBackend(), nil)
	a, _ := h.connect(iothub.DeviceIdentity("a"))
	codes := a.subscribe(1, "#", "devices/a/messages/events/#", "devices/d1/messages/events/#", "+/+/+/+/#", "$SYS/#")
	if fmt.Sprint(codes) != "[1 1 128 1 1]" {
		t.Errorf("codes %v", codes)
	}
	p, _ := h.connect(dev)
	pk := publish(events+"a=b", "secret", 1, 1)
	pk.Retain = true
	p.send(pk, publish("a/b", "x", 1, 2))
	expect[*packets.PubackPacket](p)
	expect[*packets.PubackPacket](p)
	a.quiet()
	a.subscribe(1, "#")
	a.quiet() // and nothing is retained
}
