package upstream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

func TestInputsOverAMQP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		o := c.options()
		o.Queue = 8 // credit for 4
		var mu sync.Mutex
		var got []string
		most, running := 0, 0
		d, stop := runClient(t, o)
		defer stop()
		d.OnInput(func(_ context.Context, input string, m *iothub.Message) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			running--
			got = append(got, fmt.Sprintf("%s %s %s/%s %s", input, m.Body, m.System.Get(iothub.ConnectionDeviceID),
				m.System.Get(iothub.ConnectionModuleID), m.Properties.Get("p")))
			return nil
		})
		synctest.Wait()
		// More than there is credit for, or room in the queue.
		var want []string
		for i := range 100 {
			m := wire.NewMessage(fmt.Append(nil, i))
			m.Annotations = m.Annotations.WithSymbol("x-opt-input-name", wire.String("in")).
				WithSymbol("iothub-connection-device-id", wire.String("edge")).WithSymbol("iothub-connection-module-id", wire.String("other"))
			m.ApplicationProperties = m.ApplicationProperties.With("p", wire.String("v"))
			c.sendAMQP(func(l *amqpLink) bool { return l.node == "messages/events" }, m)
			want = append(want, fmt.Sprintf("in %d edge/other v", i))
		}
		time.Sleep(5 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if strings.Join(got, ",") != strings.Join(want, ",") || most != 1 {
			t.Errorf("%d handled, %d at a time: %v", len(got), most, got)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dials != 1 {
			t.Errorf("%d connections", c.dials)
		}
	})
}

func TestTwinAndMethodsOverAMQP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, client.AMQP)
		patches := make(chan string, 10)
		d, stop := runClient(t, c.options())
		defer stop()
		d.OnDesired(func(_ context.Context, patch json.RawMessage, version int64) {
			patches <- fmt.Sprint(version, " ", string(patch))
		})
		called := make(chan string, 10)
		d.OnMethod(func(_ context.Context, r iothub.MethodRequest) iothub.MethodResponse {
			called <- r.Name + " " + string(r.Payload)
			return iothub.MethodResponse{Status: 201, Payload: json.RawMessage(`"done"`)}
		})
		twin, err := d.Twin(t.Context())
		if err != nil || string(twin.Desired) != `{"$version":1}` {
			t.Errorf("twin %s, %v", twin.Desired, err)
		}
		if version, err := d.PatchReported(t.Context(), json.RawMessage(`{"a":1}`)); err != nil || version != 2 {
			t.Errorf("version %d, %v", version, err)
		}
		synctest.Wait()
		patch := wire.NewMessage([]byte(`{"a":1,"$version":7}`))
		c.sendAMQP(func(l *amqpLink) bool { return l.node == "twin" && l.subscribed }, patch)
		if got := <-patches; got != `7 {"a":1,"$version":7}` {
			t.Errorf("patch %s", got)
		}
		// The id of a call comes back with the type that it had.
		uuid := [16]byte{1, 2, 3, 15: 16}
		for _, id := range []wire.Value{wire.UUID(uuid), wire.String("01020300-0000-0000-0000-000000000010")} {
			m := wire.NewMessage([]byte(`{"x":1}`))
			m.Properties = &wire.Properties{CorrelationID: id}
			m.ApplicationProperties = m.ApplicationProperties.With("IoThub-methodname", wire.String("go"))
			c.sendAMQP(func(l *amqpLink) bool { return l.node == "methods/devicebound" }, m)
			if got := <-called; got != `go {"x":1}` {
				t.Errorf("call %s", got)
			}
			synctest.Wait()
			c.mu.Lock()
			last := c.answers[len(c.answers)-1]
			c.mu.Unlock()
			status, _ := last.ApplicationProperties.Get("IoThub-status")
			body, _ := last.Body()
			if !last.Properties.CorrelationID.Equal(id) || !status.Equal(wire.Int(201)) || string(body) != `"done"` {
				t.Errorf("answer %v", last)
			}
		}
	})
}
