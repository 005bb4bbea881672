//go:build e2e

package nested_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
	"github.com/breakwater-iot/breakwater/e2e/rig"
)

const (
	childID  = "child"
	leaf     = "leaf"
	patience = 40 * time.Second
)

// world is a cloud, two hubs one above the other, and a leaf below both.
type world struct {
	t     *testing.T
	rig   *hubrig.Rig
	child *hubrig.Child

	mu       sync.Mutex
	arrived  map[string]string // in the cloud: sender by body
	messages []string          // at the leaf: topic and body
	client   *mqttload.Client
}

func newWorld(t *testing.T, upstream string) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	toCloud := map[string]string{"toCloud": "FROM /messages/* INTO $upstream"}
	r, err := hubrig.New(t.Context(), hubrig.Options{Dir: t.TempDir(), Bin: bin, Say: t.Logf, Routes: toCloud})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rig: r, arrived: map[string]string{}}
	if err := r.Monitor(w.arrive); err != nil {
		t.Fatal(err)
	}
	if w.child, err = r.AddChild(t.Context(), childID, toCloud); err != nil {
		t.Fatal(err)
	}
	for _, start := range []func(string, ...string) (*hubrig.Process, error){r.StartHub, w.child.StartHub} {
		hub, err := start(t.TempDir(), "UpstreamProtocol="+upstream)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hub.Kill)
	}
	t.Cleanup(func() {
		for _, log := range []string{r.HubLog(), w.child.HubLog()} {
			if text, err := os.ReadFile(log); err == nil && t.Failed() {
				t.Logf("%s:\n%s", log, text)
			}
		}
	})
	return w
}

// arrive notes an event of the cloud.
func (w *world) arrive(line string) {
	var e struct {
		Event struct {
			Origin  string
			Payload json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		w.t.Errorf("event %s: %v", line, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived[strings.Trim(string(e.Event.Payload), `"`)] = e.Event.Origin
}

func (w *world) iothub(args ...string) string {
	w.t.Helper()
	out, err := w.rig.IoTHub(w.t.Context(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// eventually waits until check returns nil.
func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := rig.Eventually(ctx, 100*time.Millisecond, what, check); err != nil {
		w.t.Fatal(err)
	}
}

// connect brings the leaf in, which answers methods and hears of its twin.
func (w *world) connect(key []byte) {
	w.t.Helper()
	o := w.child.Login(leaf, key)
	o.OnMessage = func(topic string, payload []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.messages = append(w.messages, topic+" "+string(payload))
		if _, rid, ok := strings.Cut(topic, "$rid="); ok && strings.HasPrefix(topic, "$iothub/methods/POST/ping/") {
			go w.publish("$iothub/methods/res/207/?$rid="+rid, `{"pong":true}`)
		}
	}
	w.eventually("connection of the leaf", func() error {
		c, err := mqttload.Dial(w.t.Context(), o)
		w.client = c
		return err
	})
	w.t.Cleanup(w.client.Close)
	for _, filter := range []string{"$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"} {
		if err := w.client.Subscribe(w.t.Context(), filter); err != nil {
			w.t.Fatal(err)
		}
	}
}

// publish sends, and waits for the acknowledgement.
func (w *world) publish(topic, body string) {
	acked := make(chan struct{})
	err := w.client.Publish(topic, []byte(body), func() { close(acked) })
	if err == nil {
		err = w.client.Flush()
	}
	if err != nil {
		w.t.Error(err)
		return
	}
	select {
	case <-acked:
	case <-w.client.Done():
		w.t.Errorf("%s: %v", topic, w.client.Err())
	case <-time.After(patience):
		w.t.Errorf("%s is not acknowledged", topic)
	}
}

func (w *world) send(bodies ...string) {
	for _, b := range bodies {
		w.publish("devices/"+leaf+"/messages/events/$.ct=text%2Fplain&$.ce=utf-8", b)
	}
}

// inCloud waits until the cloud has got messages, from the leaf.
func (w *world) inCloud(bodies ...string) {
	w.t.Helper()
	w.eventually("telemetry", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, b := range bodies {
			if w.arrived[b] != leaf {
				return fmt.Errorf("%s: sender %q; all: %v", b, w.arrived[b], w.arrived)
			}
		}
		return nil
	})
}

// heard waits until the leaf has got a message whose topic begins so, and that holds
// the text.
func (w *world) heard(topic, text string) {
	w.t.Helper()
	w.eventually("message to the leaf", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if slices.ContainsFunc(w.messages, func(m string) bool { return strings.HasPrefix(m, topic) && strings.Contains(m, text) }) {
			return nil
		}
		return fmt.Errorf("none of %q with %s in %q", topic, text, w.messages)
	})
}

// reported waits for a reported property of the leaf in the cloud.
func (w *world) reported(member string) {
	w.t.Helper()
	w.eventually("reported properties", func() error {
		if twin := w.iothub("twin", "show", leaf); !strings.Contains(strings.ReplaceAll(twin, " ", ""), member) {
			return fmt.Errorf("no %s in %s", member, twin)
		}
		return nil
	})
}

func TestLeafBelowTwoGateways(t *testing.T) {
	for _, upstream := range []string{"Amqp", "Mqtt"} {
		t.Run(upstream, func(t *testing.T) {
			w := newWorld(t, upstream)
			key, err := w.rig.CreateDevice(t.Context(), leaf, "--parent", childID)
			if err != nil {
				t.Fatal(err)
			}
			w.connect(key)

			w.send("one")
			w.inCloud("one")
			w.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"before":1}`)
			w.heard("$iothub/twin/res/204/?$rid=1", "")
			w.reported(`"before":1`)
			w.eventually("method", func() error {
				out, err := w.rig.IoTHub(t.Context(), "method", leaf, "ping", "--payload", "{}")
				if err == nil && !(strings.Contains(out, "207") && strings.Contains(out, "pong")) {
					err = fmt.Errorf("answer %s", out)
				}
				return err
			})
			w.iothub("twin", "patch", leaf, "--desired", `{"colour":"red"}`)
			w.heard("$iothub/twin/PATCH/properties/desired/", `"colour":"red"`)

			w.rig.KillCloud()
			w.send("two", "three")
			w.publish("$iothub/twin/PATCH/properties/reported/?$rid=2", `{"meanwhile":2}`)
			w.heard("$iothub/twin/res/204/?$rid=2", "")
			w.publish("$iothub/twin/GET/?$rid=3", "")
			w.heard("$iothub/twin/res/200/?$rid=3", `"colour":"red"`)
			if err := w.rig.RestartCloud(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.send("four")
			w.inCloud("two", "three", "four")
			w.reported(`"meanwhile":2`)
			w.manageModules()
		})
	}
}

// manageModules makes a module of the child as its daemon does, by way of the parent.
func (w *world) manageModules() {
	w.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: w.rig.EdgeTLS(), DisableKeepAlives: true}}
	call := func(method, path, body string) (int, string) {
		q, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+w.rig.EdgeAddress()+"/devices/"+childID+path+"?api-version=2021-04-12", bytes.NewReader([]byte(body)))
		if err != nil {
			w.t.Fatal(err)
		}
		q.Header.Set("Authorization", hubrig.Token(w.rig.CloudAddress()+"/devices/"+childID, w.child.Key(), time.Now().Add(time.Hour)))
		answer, err := client.Do(q)
		if err != nil {
			w.t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	made := `{"moduleId":"made","deviceId":"child","managedBy":"IotEdge"}`
	if status, text := call(http.MethodPut, "/modules/made", made); status != http.StatusOK || !strings.Contains(text, `"primaryKey"`) {
		w.t.Errorf("put: %d %s", status, text)
	}
	if status, text := call(http.MethodGet, "/modules", ""); status != http.StatusOK || !strings.Contains(text, `"made"`) {
		w.t.Errorf("list: %d %s", status, text)
	}
	if err := w.rig.Get(w.t.Context(), "devices/child/modules/made", nil); err != nil {
		w.t.Error(err)
	}
	if status, text := call(http.MethodPut, "/modules/made", made); status != http.StatusConflict {
		w.t.Errorf("put again: %d %s", status, text)
	}
	if status, text := call(http.MethodDelete, "/modules/made", ""); status/100 != 2 {
		w.t.Errorf("delete: %d %s", status, text)
	}
	if err := w.rig.Get(w.t.Context(), "devices/child/modules/made", nil); err == nil {
		w.t.Error("the module is still there")
	}
}
