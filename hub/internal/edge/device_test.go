package edge_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func login(t *testing.T, id iothub.Identity, with sas.Key, life time.Duration) head.Login {
	t.Helper()
	token, err := sas.New(sas.DeviceResource(hubName, id), time.Now().Add(life), "", with.Sign)
	if err != nil {
		t.Fatal(err)
	}
	return head.Login{Identity: id, Protocol: "mqtt", Token: token, HubName: hubName, Product: "test/1"}
}

// device is a connected client, as a head would show it.
type device struct {
	t       *testing.T
	id      iothub.Identity
	session head.Session
	fall    string // bodies that are not settled, "" for none, "*" for all
	hook    func(body string)

	mu      sync.Mutex
	got     []string // "input:body"
	open    []func(head.Outcome) bool
	outcome head.Outcome
	patches []string
	calls   []string
	answer  func(name string) (int, json.RawMessage, bool)
	reason  error
	closed  bool
	last    *iothub.Message
}

func (r *rig) connect(id iothub.Identity, features ...head.Feature) *device {
	r.t.Helper()
	d, err := r.try(login(r.t, id, key, 3*time.Hour))
	if err != nil {
		r.t.Fatalf("connect %s: %v", id, err)
	}
	for _, f := range features {
		d.session.Subscribe(f)
	}
	synctest.Wait()
	return d
}

func (r *rig) try(l head.Login) (*device, error) {
	d := &device{t: r.t, id: l.Identity}
	s, err := r.hub.Connect(r.t.Context(), l, d)
	d.session = s
	return d, err
}

// end closes the connection, as a head does.
func (d *device) end(reason error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.closed, d.reason = true, reason
	open := d.open
	d.open = nil
	d.mu.Unlock()
	for _, settle := range open {
		settle(head.Lost)
	}
	d.session.Close(reason)
}

func (d *device) Deliver(input string, m *iothub.Message, settled func(head.Outcome) bool) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		settled(head.Lost)
		return
	}
	d.got = append(d.got, input+":"+string(m.Body))
	d.last = m
	if d.fall == "*" || d.fall != "" && d.fall == string(m.Body) {
		d.open = append(d.open, settled)
		d.mu.Unlock()
		return
	}
	outcome, hook := d.outcome, d.hook
	d.mu.Unlock()
	if hook != nil {
		hook(string(m.Body))
	}
	settled(outcome)
}

func (d *device) DesiredChanged(patch json.RawMessage, _ int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.patches = append(d.patches, string(patch))
}

func (d *device) InvokeMethod(name string, payload json.RawMessage, answer func(int, json.RawMessage)) func() {
	d.mu.Lock()
	d.calls = append(d.calls, name+" "+string(payload))
	reply := d.answer
	d.mu.Unlock()
	if reply != nil {
		if status, body, ok := reply(name); ok {
			go answer(status, body)
		}
	}
	return func() {}
}

func (d *device) Disconnect(reason error) {
	go d.end(reason)
}

func (d *device) list() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.got, " ")
}

func (d *device) why() error {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason
}

func (d *device) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// send sends messages and waits for their acknowledgement.
func (d *device) send(output string, bodies ...string) {
	d.t.Helper()
	for _, body := range bodies {
		m := &iothub.Message{Body: []byte(body)}
		if output != "" {
			m.System.Set(iothub.OutputName, output)
		}
		if err := d.sendMessage(m); err != nil {
			d.t.Errorf("send %s: %v", body, err)
		}
	}
	synctest.Wait()
}

func (d *device) sendMessage(m *iothub.Message) error {
	result := make(chan error, 1)
	d.session.Telemetry(d.t.Context(), m, func(err error) { result <- err })
	return <-result
}
