//go:build e2e

package c2d_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
	"github.com/breakwater-iot/breakwater/e2e/rig"
)

const (
	leaf     = "leaf"
	patience = 30 * time.Second
)

// world is a hub with its cloud, and a leaf device.
type world struct {
	t   *testing.T
	rig *hubrig.Rig
	key []byte
}

func newWorld(t *testing.T, upstream string) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	r, err := hubrig.New(t.Context(), hubrig.Options{Dir: t.TempDir(), Bin: bin, Say: t.Logf, Routes: map[string]string{}})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rig: r}
	_, text, _ := strings.Cut(w.iothub("device", "create", leaf, "--parent", hubrig.EdgeID), ";SharedAccessKey=")
	if w.key, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err != nil {
		t.Fatal(err)
	}
	hub, err := r.StartHub(t.TempDir(), "UpstreamProtocol="+upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hub.Kill()
		if text, err := os.ReadFile(r.HubLog()); err == nil && t.Failed() {
			t.Logf("log of the hub:\n%s", text)
		}
	})
	return w
}

func (w *world) iothub(args ...string) string {
	w.t.Helper()
	out, err := w.rig.IoTHub(w.t.Context(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) send(body string) {
	w.t.Helper()
	w.iothub("message", "send", leaf, "--body", body, "--id", "id-"+body, "--ack", "full", "--property", "p="+body)
}

// waiting is how many messages the cloud keeps for the leaf.
func (w *world) waiting() int {
	w.t.Helper()
	var doc struct {
		Count int `json:"cloudToDeviceMessageCount"`
	}
	if err := json.Unmarshal([]byte(w.iothub("device", "show", leaf)), &doc); err != nil {
		w.t.Fatal(err)
	}
	return doc.Count
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

// device is the leaf while it is connected. It acknowledges a message when take
// returns.
type device struct {
	w       *world
	c       *mqttload.Client
	got     chan string
	release chan struct{}
	gone    chan struct{}
	once    sync.Once
}

func (w *world) connect() *device {
	w.t.Helper()
	d := &device{w: w, got: make(chan string, 100), release: make(chan struct{}, 100), gone: make(chan struct{})}
	o := w.rig.Login("") // for the addresses
	o.ClientID, o.Persistent = leaf, true
	o.Username = w.rig.CloudAddress() + "/" + leaf + "/?api-version=2021-04-12"
	o.Password = hubrig.Token(w.rig.CloudAddress()+"/devices/"+leaf, w.key, time.Now().Add(time.Hour))
	o.OnMessage = func(topic string, payload []byte) {
		bag, err := url.ParseQuery(topic[strings.LastIndex(topic, "/")+1:])
		if err != nil {
			w.t.Error(err)
		}
		d.got <- fmt.Sprint(string(payload), " ", bag.Get("$.mid"), " ", bag.Get("p"), " ", bag.Get("$.to"))
		select {
		case <-d.release:
		case <-d.gone:
		}
	}
	w.eventually("connection of the leaf", func() (err error) {
		d.c, err = mqttload.Dial(w.t.Context(), o)
		return err
	})
	w.t.Cleanup(d.close)
	return d
}

// subscribe is needed once: the session lasts.
func (d *device) subscribe() {
	d.w.t.Helper()
	ctx, cancel := context.WithTimeout(d.w.t.Context(), patience)
	defer cancel()
	if err := d.c.Subscribe(ctx, "devices/"+leaf+"/messages/devicebound/#"); err != nil {
		d.w.t.Fatal(err)
	}
}

func (d *device) close() {
	d.once.Do(func() {
		close(d.gone)
		d.c.Close()
	})
}

// take waits for this message, before it is acknowledged.
func (d *device) take(body string) {
	d.w.t.Helper()
	select {
	case got := <-d.got:
		if want := body + " id-" + body + " " + body + " /devices/leaf/messages/deviceBound"; got != want && !strings.EqualFold(got, want) {
			d.w.t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(patience):
		d.w.t.Fatalf("message %s does not come", body)
	}
}

func TestMessagesOfTheCloudGetToADeviceBehindTheHub(t *testing.T) {
	for _, upstream := range []string{"Mqtt", "Amqp"} {
		t.Run(upstream, func(t *testing.T) {
			w := newWorld(t, upstream)
			w.send("early")
			d := w.connect()
			d.subscribe()
			d.take("early")
			if n := w.waiting(); n != 1 {
				t.Errorf("the cloud keeps %d before the device has acknowledged", n)
			}
			d.release <- struct{}{}
			settled := func() error {
				if n := w.waiting(); n != 0 {
					return fmt.Errorf("the cloud keeps %d", n)
				}
				return nil
			}
			w.eventually("settlement", settled)

			w.send("unsettled") // the device goes without an acknowledgement
			d.take("unsettled")
			d.close()
			w.send("away")
			if n := w.waiting(); n != 2 {
				t.Errorf("the cloud keeps %d while the device is away", n)
			}
			d = w.connect()
			d.take("unsettled")
			d.release <- struct{}{}
			d.take("away")
			d.release <- struct{}{}
			w.eventually("settlement", settled)

			w.rig.KillCloud()
			if err := w.rig.RestartCloud(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.send("late")
			d.take("late")
			d.release <- struct{}{}
			w.eventually("settlement", settled)
			w.feedback("early", "unsettled", "away", "late")
		})
	}
}

// feedback reads that of successes.
func (w *world) feedback(bodies ...string) {
	w.t.Helper()
	want := map[string]bool{}
	for _, b := range bodies {
		want["id-"+b] = true
	}
	w.eventually("feedback", func() error {
		for _, line := range strings.Split(w.iothub("message", "feedback"), "\n") {
			if line == "" {
				continue
			}
			var r struct{ OriginalMessageID, StatusCode, DeviceID string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				w.t.Fatal(err)
			}
			if !want[r.OriginalMessageID] || r.StatusCode != "Success" || r.DeviceID != leaf {
				w.t.Errorf("feedback %+v", r)
			}
			delete(want, r.OriginalMessageID)
		}
		if len(want) > 0 {
			return fmt.Errorf("none of %v", want)
		}
		return nil
	})
}
