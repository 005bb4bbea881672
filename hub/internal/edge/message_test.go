package edge_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// routed gives the hub routes.
func routed(routes ...string) func(*rig, *edge.Options) {
	var list []string
	for i, text := range routes {
		list = append(list, fmt.Sprintf("%q:%q", fmt.Sprint("r", i), text))
	}
	desired := config(2, strings.Join(list, ","))
	return func(r *rig, _ *edge.Options) { r.cloud.desired[self] = desired }
}

const (
	toSink  = `FROM /messages/* INTO BrokeredEndpoint("/modules/sink/inputs/in")`
	toCloud = `FROM /messages/* INTO $upstream`
)

func TestMessagesAreStamped(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		receiver := r.connect(sink, head.Inputs)
		plug := login(t, leaf, key, time.Hour)
		plug.ModelID = "dtmi:example;1"
		leafDevice, err := r.try(plug)
		if err != nil {
			t.Fatal(err)
		}
		module := r.connect(mod)
		forged := []string{iothub.ConnectionDeviceID, iothub.ConnectionModuleID, iothub.EdgeMessageID, iothub.EdgeHubOrigin,
			iothub.ModelID, iothub.MessageType, iothub.ReportedByDeviceID, iothub.ReportedByModuleID,
			iothub.ConnectionAuthMethod, iothub.ConnectionDeviceGenerationID, "CONNECTIONDEVICEID"}
		uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
		seen := map[string]bool{}
		tests := []struct {
			name   string
			sender *device
			want   map[string]string
		}{
			{"leaf device", leafDevice, map[string]string{iothub.ConnectionDeviceID: "leaf", iothub.EdgeHubOrigin: "downstream", iothub.ModelID: "dtmi:example;1"}},
			{"module", module, map[string]string{iothub.ConnectionDeviceID: "edge", iothub.ConnectionModuleID: "mod", iothub.EdgeHubOrigin: "internal"}},
		}
		for _, tt := range tests {
			for range 2 {
				m := &iothub.Message{Body: []byte("x"), Properties: iothub.Properties{{Name: "p", Value: "v"}}}
				m.System.Set(iothub.MessageID, "mine")
				for _, name := range forged {
					m.System.Set(name, "forged")
				}
				m.System.Set(iothub.MessageType, "twinChangeNotification")
				if err := tt.sender.sendMessage(m); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				got := receiver.last
				for _, name := range forged {
					if v := got.System.Get(name); v != tt.want[name] && name != iothub.EdgeMessageID {
						t.Errorf("%s: %s is %q, want %q", tt.name, name, v, tt.want[name])
					}
				}
				id := got.System.Get(iothub.EdgeMessageID)
				if !uuid.MatchString(id) || seen[id] {
					t.Errorf("%s: edgeMessageId %q", tt.name, id)
				}
				seen[id] = true
				if got.System.Get(iothub.MessageID) != "mine" || got.Properties.Get("p") != "v" {
					t.Errorf("%s: own properties are gone: %v %v", tt.name, got.System, got.Properties)
				}
			}
		}
	})
}

func TestRouting(t *testing.T) {
	within(t, routed(
		`FROM /messages/modules/mod/outputs/a INTO BrokeredEndpoint("/modules/sink/inputs/in1")`,
		`FROM /messages/modules/mod/* INTO BrokeredEndpoint("/modules/sink/inputs/in2")`,
		`FROM /messages/modules/mod/outputs/a INTO $upstream`,
	), func(t *testing.T, r *rig) {
		receiver := r.connect(sink, head.Inputs)
		sender := r.connect(mod)
		sender.send("a", "both")
		sender.send("b", "one")
		if got := receiver.list(); got != "in1:both in2:both in2:one" && got != "in2:both in1:both in2:one" {
			t.Errorf("inputs %s", got)
		}
		if got := r.cloud.got(mod); got != "both" {
			t.Errorf("cloud %s", got)
		}
		r.connect(leaf).send("", "none")
		if n := r.counter("messages_dropped_total", `reason="no_route"`, `from="leaf"`); n != 1 {
			t.Errorf("%v dropped", n)
		}
		if n := r.counter("messages_sent_total", `from="edge/mod"`, `to="edge/sink"`, `to_route_input="in2"`); n != 2 {
			t.Errorf("%v counted", n)
		}
		if n := r.counter("messages_sent_total", `from="edge/mod"`, `to="upstream"`, `from_route_output="a"`); n != 1 {
			t.Errorf("%v counted upstream", n)
		}
		if n := r.counter("messages_received_total", `id="edge/mod"`); n != 2 {
			t.Errorf("%v received", n)
		}
	})
}

func TestAcknowledgementsKeepTheOrder(t *testing.T) {
	within(t, routed(`FROM /messages/* WHERE keep = 'yes' INTO $upstream`), func(t *testing.T, r *rig) {
		sender := r.connect(leaf)
		var mu sync.Mutex
		var order []int
		var large []error
		const n = 200
		for i := range n {
			m := &iothub.Message{Body: []byte("x")}
			if i%3 == 0 {
				m.Properties.Set("keep", "yes") // the others match no route
			}
			if i%50 == 49 {
				m.Body = make([]byte, iothub.MaxMessageSize+1)
			}
			sender.session.Telemetry(t.Context(), m, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
				if err != nil {
					large = append(large, err)
				}
			})
		}
		synctest.Wait()
		if len(order) != n {
			t.Fatalf("%d answers of %d", len(order), n)
		}
		for i, k := range order {
			if i != k {
				t.Fatalf("answer %d is for message %d", i, k)
			}
		}
		if len(large) != 4 {
			t.Errorf("%d refused, want 4", len(large))
		}
		for _, err := range large {
			if !errors.Is(err, head.ErrTooLarge) {
				t.Errorf("refused with %v", err)
			}
		}
	})
}

func TestSizeLimit(t *testing.T) {
	within(t, routed(toCloud), func(t *testing.T, r *rig) {
		sender := r.connect(leaf)
		size := func(extra int) *iothub.Message {
			m := &iothub.Message{Properties: iothub.Properties{{Name: "name", Value: "value"}}}
			m.Body = make([]byte, iothub.MaxMessageSize-m.Size()+extra)
			return m
		}
		if err := sender.sendMessage(size(0)); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		if err := sender.sendMessage(size(1)); !errors.Is(err, head.ErrTooLarge) {
			t.Errorf("over the limit: %v", err)
		}
	})
}

func TestTwinChangesAreRouted(t *testing.T) {
	within(t, routed(
		`FROM /twinChangeNotifications INTO BrokeredEndpoint("/modules/sink/inputs/twins")`,
		`FROM /messages/* INTO BrokeredEndpoint("/modules/sink/inputs/messages")`,
	), func(t *testing.T, r *rig) {
		receiver := r.connect(sink, head.Inputs)
		for _, id := range []iothub.Identity{mod, leaf} {
			if _, err := r.connect(id).session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			m := receiver.last
			if m == nil || m.Sender() != id || m.System.Get(iothub.MessageType) != "twinChangeNotification" ||
				m.System.Get(iothub.MessageSchema) != "twinChangeNotification" || string(m.Body) != `{"a":1}` {
				t.Errorf("%s: %+v", id, m)
			}
		}
		if got := receiver.list(); got != `twins:{"a":1} twins:{"a":1}` {
			t.Errorf("delivered %s", got)
		}
		d := r.connect(mod)
		if _, err := d.session.PatchReported(t.Context(), []byte(`{"$bad":1}`), 0); !errors.Is(err, head.ErrInvalid) {
			t.Errorf("invalid patch: %v", err)
		}
		synctest.Wait()
		if got := receiver.list(); strings.Contains(got, "bad") {
			t.Errorf("delivered %s", got)
		}
	})
}

func TestInputDelivery(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		sender.send("out", "1", "2", "3")
		d := r.connect(sink)
		time.Sleep(time.Minute)
		if d.list() != "" {
			t.Errorf("without a subscription: %s", d.list())
		}
		start := time.Now()
		d.session.Subscribe(head.Inputs)
		synctest.Wait()
		if d.list() != "in:1 in:2 in:3" || time.Since(start) != 0 {
			t.Errorf("subscribed: %s after %v", d.list(), time.Since(start))
		}
	})
}

func TestLostDeliveriesComeAgainInOrder(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		first := r.connect(sink, head.Inputs)
		first.set(func() { first.fall = "*" })
		sender.send("out", "1", "2", "3")
		first.end(errors.New("broken"))
		sender.send("out", "4")
		second := r.connect(sink, head.Inputs)
		time.Sleep(5 * time.Second)
		if first.list() != "in:1 in:2 in:3" || second.list() != "in:1 in:2 in:3 in:4" {
			t.Errorf("first %s, second %s", first.list(), second.list())
		}
	})
}

func TestUnsettledDeliveryComesAgain(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		d := r.connect(sink, head.Inputs)
		d.set(func() { d.fall = "2" })
		sender.send("out", "1", "2")
		time.Sleep(29 * time.Second)
		if d.list() != "in:1 in:2" {
			t.Errorf("before the time: %s", d.list())
		}
		d.set(func() { d.fall = "" })
		sender.send("out", "3")
		time.Sleep(10 * time.Second)
		if d.list() != "in:1 in:2 in:3 in:2" {
			t.Errorf("after the time: %s", d.list())
		}
		if r.counter("operation_retry_total", `id="edge/mod"`) == 0 {
			t.Error("not counted")
		}
		time.Sleep(time.Hour)
		if d.list() != "in:1 in:2 in:3 in:2" {
			t.Errorf("later: %s", d.list())
		}
	})
}

func TestRejectedDeliveryIsDropped(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		d := r.connect(sink, head.Inputs)
		d.set(func() { d.outcome = head.Reject })
		sender.send("out", "1")
		d.set(func() { d.outcome = head.Complete })
		sender.send("out", "2")
		time.Sleep(time.Hour)
		if d.list() != "in:1 in:2" {
			t.Errorf("delivered %s", d.list())
		}
		if n := r.counter("messages_dropped_total", `reason="permanent"`, `from="edge/mod"`); n != 1 {
			t.Errorf("%v dropped", n)
		}
	})
}

func TestModuleWithManyInputsIsNotFlooded(t *testing.T) {
	var routes []string
	for i := range 40 {
		routes = append(routes, fmt.Sprintf(`FROM /messages/* INTO BrokeredEndpoint("/modules/sink/inputs/in%d")`, i))
	}
	within(t, routed(routes...), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		for range 100 {
			sender.send("out", "x")
		}
		d := r.connect(sink)
		d.set(func() { d.fall = "*" })
		d.session.Subscribe(head.Inputs)
		synctest.Wait()
		if n := len(d.open); n > 1152 || n < 500 { // mqtt.Options.Window and MaxQueued
			t.Errorf("%d deliveries at a time", n)
		}
	})
}

func TestExpiredMessagesAreCounted(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		r.connect(mod).send("out", "old")
		time.Sleep(2 * time.Hour) // one is allowed
		d := r.connect(sink, head.Inputs)
		if d.list() != "" {
			t.Errorf("delivered %s", d.list())
		}
		if n := r.counter("messages_dropped_total", `reason="ttl_expiry"`, `from="edge/mod"`); n != 1 {
			t.Errorf("%v dropped", n)
		}
	})
}
