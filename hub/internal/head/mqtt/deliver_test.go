package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	inputsFilter = "devices/d1/modules/m1/inputs/#"
	c2dFilter    = "devices/d1/messages/devicebound/#"
)

func TestSubackCodes(t *testing.T) {
	filters := []string{
		"devices/d1/modules/m1/messages/devicebound/#", inputsFilter, "devices/d1/modules/m1/#",
		"$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#",
		"a/b", "devices/d1/messages/devicebound/#", "devices/d2/modules/m1/#", "devices/+/modules/+/#", "a/#/b",
	}
	tests := []struct {
		flavor mqtt.Flavor
		want   string
	}{
		// Another identity's filters and malformed ones are refused by both.
		{mqtt.Edge, "[1 1 1 1 1 1 1 128 128 128 128]"},
		{mqtt.Cloud, "[1 1 1 1 1 128 128 128 128 128 128]"}, // the sixth is one too many
	}
	for _, tt := range tests {
		h := start(t, newBackend(), func(o *mqtt.Options) { o.Flavor = tt.flavor })
		p, s := h.connect(mod)
		if got := fmt.Sprint(p.subscribe(2, filters...)); got != tt.want {
			t.Errorf("flavor %d: %s, want %s", tt.flavor, got, tt.want)
		}
		for _, want := range []string{"+c2d", "+inputs", "+methods", "+twinResponses"} {
			if got := headtest.Receive(t, "feature", s.Features); got != want {
				t.Errorf("feature %s, want %s", got, want)
			}
		}
		if tt.flavor == mqtt.Edge {
			headtest.Receive(t, "feature", s.Features)
		}
		if got := fmt.Sprint(p.subscribe(0, inputsFilter)); got != "[0]" {
			t.Errorf("again with QoS 0: %s", got)
		}
		p.unsubscribe(inputsFilter, "never/subscribed")
		headtest.Nothing(t, "feature", s.Features) // the wide filter still asks for inputs
		p.unsubscribe("devices/d1/modules/m1/#")
		if got := headtest.Receive(t, "feature", s.Features); got != "-inputs" {
			t.Errorf("feature %s", got)
		}
	}
}

func outcomes() (chan head.Outcome, func(head.Outcome) bool) {
	c := make(chan head.Outcome, 4096)
	return c, func(o head.Outcome) bool {
		c <- o
		return true
	}
}

func TestDeliveryOverQoS1IsSettledByItsPuback(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(mod)
	p.subscribe(1, inputsFilter)
	m := &iothub.Message{
		Body:       []byte("body"),
		Properties: iothub.Properties{{Name: "a", Value: "b c"}},
		System:     iothub.Properties{{Name: iothub.ConnectionDeviceID, Value: "d1"}, {Name: iothub.ConnectionModuleID, Value: "m0"}},
	}
	var settled [3]chan head.Outcome
	var ids [3]uint16
	for i := range settled {
		c, f := outcomes()
		settled[i] = c
		s.Client.Deliver("in1", m, f)
		pk := expect[*packets.PublishPacket](p)
		ids[i] = pk.MessageID
		if pk.TopicName != "devices/d1/modules/m1/inputs/in1/%24.cdid=d1&%24.cmid=m0&a=b%20c" || string(pk.Payload) != "body" || pk.Qos != 1 || pk.Dup || pk.Retain {
			t.Errorf("got %v", pk)
		}
	}
	p.send(puback(999)) // unknown: ignored
	for _, i := range []int{2, 0, 1} {
		headtest.Nothing(t, "outcome", settled[i])
		p.send(puback(ids[i]))
		if o := headtest.Receive(t, "outcome", settled[i]); o != head.Complete {
			t.Errorf("outcome %v", o)
		}
	}
	p.send(puback(ids[0])) // again: ignored
	p.quiet()
}

func TestDeliveryVariants(t *testing.T) {
	message := func(app, count string) *iothub.Message {
		m := &iothub.Message{Body: []byte("x")}
		if app != "" {
			m.Properties.Set("mqtt-qos", app)
		}
		if count != "" {
			m.System.Set(iothub.DeliveryCount, count)
		}
		return m
	}
	tests := []struct {
		name    string
		flavor  mqtt.Flavor
		granted byte
		m       *iothub.Message
		sent    bool
		qos     byte
		dup     bool
	}{
		{"QoS 0 filter", mqtt.Edge, 0, message("", ""), true, 0, false},
		{"QoS 1 filter", mqtt.Edge, 1, message("", "0"), true, 1, false},
		{"QoS 2 filter", mqtt.Edge, 2, message("", ""), true, 1, false},
		{"message lowers it", mqtt.Edge, 1, message("0", ""), true, 0, false},
		{"message cannot raise it", mqtt.Edge, 0, message("1", ""), true, 0, false},
		{"not in the cloud", mqtt.Cloud, 1, message("0", ""), true, 1, false},
		{"redelivery", mqtt.Edge, 1, message("", "2"), true, 1, true},
		{"redelivery over QoS 0", mqtt.Edge, 0, message("", "2"), false, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, s := start(t, newBackend(), func(o *mqtt.Options) { o.Flavor = tt.flavor }).connect(dev)
			p.subscribe(tt.granted, c2dFilter)
			c, f := outcomes()
			s.Client.Deliver("", tt.m, f)
			if tt.sent {
				pk := expect[*packets.PublishPacket](p)
				if pk.Qos != tt.qos || pk.Dup != tt.dup {
					t.Errorf("QoS %d, dup %v", pk.Qos, pk.Dup)
				}
				if pk.Qos == 1 {
					p.send(puback(pk.MessageID))
				}
			}
			if o := headtest.Receive(t, "outcome", c); o != head.Complete {
				t.Errorf("outcome %v", o)
			}
			p.quiet()
		})
	}
}

func TestDeliveryThatCannotBeSent(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(mod)
	p.subscribe(1, "devices/d1/modules/m1/inputs/in1/#", "#")
	c, f := outcomes()
	s.Client.Deliver("in2", &iothub.Message{}, f)
	if o := headtest.Receive(t, "outcome", c); o != head.Abandon {
		t.Errorf("no filter: %v", o)
	}
	long := &iothub.Message{Properties: iothub.Properties{{Name: "a", Value: strings.Repeat("/", 30000)}}}
	s.Client.Deliver("in1", long, f)
	if o := headtest.Receive(t, "outcome", c); o != head.Reject {
		t.Errorf("topic too long: %v", o)
	}
	p.quiet()
	p.Close()
	headtest.Receive(t, "close", s.Closed)
	s.Client.Deliver("in1", &iothub.Message{}, f)
	if o := headtest.Receive(t, "outcome", c); o != head.Lost {
		t.Errorf("after the end: %v", o)
	}
}

func TestWindowHoldsBackDeliveriesButNotTheRest(t *testing.T) {
	p, s := start(t, newBackend(), func(o *mqtt.Options) { o.Window = 2 }).connect(mod)
	p.subscribe(1, inputsFilter, "$iothub/twin/PATCH/properties/desired/#")
	c, f := outcomes()
	for i := range 5 {
		s.Client.Deliver("in", &iothub.Message{Body: fmt.Append(nil, i)}, f)
	}
	first := expect[*packets.PublishPacket](p)
	second := expect[*packets.PublishPacket](p)
	p.quiet()
	s.Client.DesiredChanged([]byte(`{"$version":1}`), 1)
	if pk := expect[*packets.PublishPacket](p); pk.TopicName != "$iothub/twin/PATCH/properties/desired/?$version=1" || pk.Qos != 1 {
		t.Errorf("got %v", pk)
	}
	p.send(puback(second.MessageID))
	third := expect[*packets.PublishPacket](p)
	p.quiet()
	p.send(puback(first.MessageID), puback(third.MessageID))
	for i := 3; i < 5; i++ {
		pk := expect[*packets.PublishPacket](p)
		if string(pk.Payload) != fmt.Sprint(i) {
			t.Errorf("message %s, want %d", pk.Payload, i)
		}
	}
	for range 3 {
		if o := headtest.Receive(t, "outcome", c); o != head.Complete {
			t.Errorf("outcome %v", o)
		}
	}
	p.Close()
	for range 2 {
		if o := headtest.Receive(t, "outcome", c); o != head.Lost {
			t.Errorf("outcome %v", o)
		}
	}
	headtest.Receive(t, "close", s.Closed)
	headtest.Nothing(t, "outcome", c)
}

func TestClientThatDoesNotTakeItsMessagesIsDisconnected(t *testing.T) {
	p, s := start(t, newBackend(), func(o *mqtt.Options) { o.Window, o.MaxQueued = 2, 3 }).connect(mod)
	p.subscribe(1, inputsFilter)
	c, f := outcomes()
	for range 6 {
		s.Client.Deliver("in", &iothub.Message{}, f)
	}
	headtest.Receive(t, "close", s.Closed)
	for range 6 {
		if o := headtest.Receive(t, "outcome", c); o != head.Lost {
			t.Errorf("outcome %v", o)
		}
	}
	headtest.Nothing(t, "outcome", c)
}

func TestClientThatDoesNotReadBlocksNobody(t *testing.T) {
	p, s := start(t, newBackend(), func(o *mqtt.Options) { o.MaxQueuedBytes, o.WriteTimeout = 1<<20, 2*headtest.Patience }).connect(dev)
	p.subscribe(0, c2dFilter)
	c, f := outcomes()
	const n = 500 // 30 MB, more than sockets and queue hold
	body, begin := make([]byte, 60<<10), time.Now()
	for range n {
		s.Client.Deliver("", &iothub.Message{Body: body}, f)
	}
	if d := time.Since(begin); d > headtest.Patience {
		t.Errorf("deliveries took %v", d)
	}
	headtest.Receive(t, "close", s.Closed)
	lost := 0
	for range n {
		if headtest.Receive(t, "outcome", c) == head.Lost {
			lost++
		}
	}
	if lost == 0 {
		t.Error("nothing lost")
	}
	headtest.Nothing(t, "outcome", c)
}

func TestLargeMessagesOfAWholeWindowDoNotCutTheClientOff(t *testing.T) {
	p, s := start(t, newBackend(), nil).connect(mod)
	p.subscribe(1, inputsFilter)
	c, f := outcomes()
	body := make([]byte, 250<<10)
	for range 128 {
		s.Client.Deliver("in", &iothub.Message{Body: body}, f)
	}
	for range 128 {
		p.send(puback(expect[*packets.PublishPacket](p).MessageID))
		if o := headtest.Receive(t, "outcome", c); o != head.Complete {
			t.Fatalf("outcome %v", o)
		}
	}
}

func TestEveryDeliverySettlesOnceAndInOrder(t *testing.T) {
	const n = 3000
	p, s := start(t, newBackend(), func(o *mqtt.Options) { o.MaxQueued = n }).connect(mod)
	p.subscribe(1, inputsFilter)
	c, f := outcomes()
	go func() {
		for i := range n {
			s.Client.Deliver("in", &iothub.Message{Body: fmt.Append(nil, i)}, f)
		}
	}()
	for i := range n {
		pk := expect[*packets.PublishPacket](p)
		if string(pk.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %s, want %d", pk.Payload, i)
		}
		p.send(puback(pk.MessageID))
	}
	for range n {
		if o := headtest.Receive(t, "outcome", c); o != head.Complete {
			t.Fatalf("outcome %v", o)
		}
	}
	headtest.Nothing(t, "outcome", c)
}
