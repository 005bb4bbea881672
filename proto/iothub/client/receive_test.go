package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// log is a list that goroutines share.
type log struct {
	mu   sync.Mutex
	list []string
}

func (l *log) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, s)
}

func (l *log) is(want ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Equal(l.list, want)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.list)
}

func input(name string) topic.Topic {
	return topic.Topic{Kind: topic.Input, Identity: module, Name: name, Bag: "%24.mid=7&a=b"}
}

func TestInputIsAcknowledgedAfterItsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		release := make(chan error)
		var got log
		d := h.start(h.options(), func(c *client.Client) {
			c.OnInput(func(_ context.Context, name string, m *iothub.Message) error {
				got.add(name + " " + string(m.Body))
				if m.System.Get(iothub.MessageID) != "7" || m.Properties.Get("a") != "b" || m.System.Get(iothub.InputName) != name {
					t.Errorf("message %+v", m)
				}
				return <-release
			})
		})
		defer d.end(t)
		d.connected(t)
		for _, body := range []string{"1", "2", "3"} {
			h.publish(input("in"), body)
		}
		synctest.Wait()
		if h.count() != 0 || !got.is("in 1") {
			t.Errorf("%d acknowledged while the handler runs; handled %v", h.count(), &got)
		}
		release <- nil
		synctest.Wait()
		if h.count() != 1 {
			t.Errorf("%d acknowledged after the first", h.count())
		}
		release <- errors.New("disk is full")
		release <- nil
		synctest.Wait()
		if h.count() != 2 || !got.is("in 1", "in 2", "in 3") {
			t.Errorf("%d acknowledged; handled %v", h.count(), &got)
		}
		// Only what was not acknowledged comes again.
		h.drop()
		synctest.Wait()
		d.connected(t)
		release <- nil
		synctest.Wait()
		if h.count() != 3 || !got.is("in 1", "in 2", "in 3", "in 2") {
			t.Errorf("%d acknowledged; handled %v", h.count(), &got)
		}
	})
}

func TestMessagesOfALostConnectionAreHandledOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		var got log
		release := make(chan struct{})
		d := h.start(h.options(), func(c *client.Client) {
			c.OnC2D(func(_ context.Context, m *iothub.Message) error {
				got.add(string(m.Body))
				if string(m.Body) == "1" {
					<-release
				}
				return nil
			})
		})
		defer d.end(t)
		d.connected(t)
		for _, body := range []string{"1", "2", "3"} {
			h.publish(topic.Topic{Kind: topic.C2D, Identity: module}, body)
		}
		synctest.Wait()
		h.drop()
		synctest.Wait()
		release <- struct{}{} // too late: "1" comes again
		d.connected(t)
		release <- struct{}{}
		synctest.Wait()
		// The server delivers again in an order of its own.
		got.mu.Lock()
		slices.Sort(got.list)
		got.mu.Unlock()
		if h.count() != 3 || !got.is("1", "1", "2", "3") {
			t.Errorf("%d acknowledged; handled %v", h.count(), &got)
		}
	})
}

func TestHandlerMaySend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		d := h.start(h.options(), nil)
		defer d.end(t)
		d.connected(t)
		// Subscribed while connected.
		d.OnInput(func(ctx context.Context, _ string, m *iothub.Message) error {
			return d.SendOutput(ctx, "out", m)
		})
		synctest.Wait()
		for _, body := range names(0, 50) {
			h.publish(input("in"), body)
		}
		synctest.Wait()
		if !slices.Equal(h.bodies(), names(0, 50)) || h.count() != 50 {
			t.Errorf("%d acknowledged; sent %v", h.count(), h.bodies())
		}
	})
}

func TestTooManyMessagesEndTheConnectionAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		var got log
		release := make(chan struct{})
		o := h.options()
		o.Queue = 3
		d := h.start(o, func(c *client.Client) {
			c.OnInput(func(_ context.Context, _ string, m *iothub.Message) error {
				<-release
				got.add(string(m.Body))
				return nil
			})
		})
		defer d.end(t)
		d.connected(t)
		for _, body := range names(0, 6) { // one is with the handler, three wait
			h.publish(input("in"), body)
			synctest.Wait()
		}
		if n := len(d.seen()); n != 2 {
			t.Errorf("connection ended before the queue was handled: %v", d.seen())
		}
		close(release)
		synctest.Wait()
		if s := d.seen()[2]; s.State != client.Disconnected || !errors.Is(s.Err, client.ErrOverflow) {
			t.Errorf("state %+v", s)
		}
		if h.count() != 4 {
			t.Errorf("%d acknowledged before the connection ended", h.count())
		}
		time.Sleep(time.Minute)
		if h.count() != 6 {
			t.Errorf("%d acknowledged; handled %v", h.count(), &got)
		}
	})
}

func TestTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		d := h.start(h.options(), nil)
		defer d.end(t)
		d.connected(t)
		twin, err := d.Twin(t.Context())
		if err != nil || string(twin.Desired) != `{"a":1,"$version":4}` || string(twin.Reported) != `{"$version":2}` {
			t.Fatalf("%s, %s, %v", twin.Desired, twin.Reported, err)
		}
		for want := range int64(3) {
			version, err := d.PatchReported(t.Context(), json.RawMessage(`{"x":null}`))
			if err != nil || version != want+1 || h.reported[want] != `{"x":null}` {
				t.Errorf("version %d, %v; reported %v", version, err, h.reported)
			}
		}
		h.set(func() { h.status = 400 })
		var status *client.StatusError
		if _, err := d.PatchReported(t.Context(), json.RawMessage(`{}`)); !errors.As(err, &status) || status.Status != 400 || status.Message != "no good" {
			t.Errorf("refused patch: %v", err)
		}
		h.set(func() { h.noReply = true })
		start := time.Now()
		if _, err := d.Twin(t.Context()); !errors.Is(err, client.ErrTimeout) || time.Since(start) != 30*time.Second {
			t.Errorf("no answer: %v after %v", err, time.Since(start))
		}
		h.set(func() { h.noReply, h.twin = false, `{"desired":null}` })
		if twin, err := d.Twin(t.Context()); err != nil || string(twin.Desired) != "{}" || string(twin.Reported) != "{}" {
			t.Errorf("empty twin: %s, %s, %v", twin.Desired, twin.Reported, err)
		}
		h.set(func() { h.twin = `[]` })
		if _, err := d.Twin(t.Context()); err == nil {
			t.Error("array for a twin is accepted")
		}
	})
}

func TestTwinAcrossALostConnection(t *testing.T) {
	for _, retry := range []bool{false, true} {
		t.Run(fmt.Sprintf("retry %v", retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t)
				defer h.close()
				h.noReply = true
				o := h.options()
				o.Retry = retry
				d := h.start(o, nil)
				defer d.end(t)
				d.connected(t)
				got := make(chan error)
				go func() {
					_, err := d.Twin(t.Context())
					got <- err
				}()
				synctest.Wait()
				h.forget() // the answer's subscription must be made anew
				h.set(func() { h.noReply = false })
				switch err := <-got; {
				case retry && err != nil, !retry && !errors.Is(err, client.ErrConnectionLost):
					t.Error(err)
				}
				if !retry {
					if _, err := d.Twin(t.Context()); !errors.Is(err, client.ErrNotConnected) {
						t.Errorf("while away: %v", err)
					}
				}
			})
		})
	}
}

func TestDesiredChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		var got log
		d := h.start(h.options(), func(c *client.Client) {
			c.OnDesired(func(_ context.Context, patch json.RawMessage, version int64) {
				got.add(fmt.Sprintf("%d %s", version, patch))
			})
		})
		defer d.end(t)
		d.connected(t)
		h.publish(topic.Topic{Kind: topic.DesiredChange, Version: 5}, `{"a":null,"$version":5}`)
		h.publish(topic.Topic{Kind: topic.DesiredChange}, `{"a":1,"$version":6}`)
		synctest.Wait()
		h.forget()
		synctest.Wait()
		d.connected(t)
		h.publish(topic.Topic{Kind: topic.DesiredChange, Version: 7}, `{"$version":7}`)
		synctest.Wait()
		if !got.is(`5 {"a":null,"$version":5}`, `6 {"a":1,"$version":6}`, `7 {"$version":7}`) {
			t.Errorf("patches %v", &got)
		}
	})
}

func TestMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		release := make(chan struct{})
		d := h.start(h.options(), func(c *client.Client) {
			c.OnMethod(func(_ context.Context, r iothub.MethodRequest) iothub.MethodResponse {
				switch r.Name {
				case "wait":
					<-release
				case "large":
					return iothub.MethodResponse{Status: 200, Payload: make([]byte, iothub.MaxMethodPayload+1)}
				}
				return iothub.MethodResponse{Status: 201, Payload: r.Payload}
			})
		})
		defer d.end(t)
		d.connected(t)
		call := func(name, id, payload string) {
			h.publish(topic.Topic{Kind: topic.MethodRequest, Name: name, RequestID: id}, payload)
		}
		call("echo", "a", `{"x":1}`)
		call("large", "b", ``)
		synctest.Wait()
		if r := h.responses["a"]; r.Status != 201 || string(r.Payload) != `{"x":1}` {
			t.Errorf("response %+v", r)
		}
		if r := h.responses["b"]; r.Status != 500 || len(r.Payload) > 0 {
			t.Errorf("large response: status %d", r.Status)
		}
		// 16 run, 16 wait, the next is refused; also when all come at once.
		for _, id := range names(0, 33) {
			call("wait", id, `null`)
		}
		synctest.Wait()
		if r := h.responses["32"]; r.Status != 429 || len(h.responses) != 3 {
			t.Errorf("call 33: %+v; %d responses", r, len(h.responses))
		}
		close(release)
		synctest.Wait()
		for _, id := range names(0, 32) {
			if h.responses[id].Status != 201 {
				t.Errorf("call %s: %+v", id, h.responses[id])
			}
		}
	})
}
