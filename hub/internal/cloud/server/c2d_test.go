package server_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// inbox collects the cloud-to-device messages of a device.
type inbox struct {
	mu   sync.Mutex
	got  map[string]int
	more chan struct{}
}

func newInbox() *inbox { return &inbox{got: map[string]int{}, more: make(chan struct{}, 1)} }

func (b *inbox) take(_ paho.Client, m paho.Message) {
	b.mu.Lock()
	b.got[string(m.Payload())]++
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

func (b *inbox) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// listen connects a device whose session lasts, and subscribes.
func (b *inbox) listen(t *testing.T, r *running, d rest.Device) paho.Client {
	t.Helper()
	c := r.connect(d, func() {}, func(o *paho.ClientOptions) { o.SetCleanSession(false).SetDefaultPublishHandler(b.take) })
	if token := c.Subscribe("devices/"+d.DeviceID+"/messages/devicebound/#", 1, b.take); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("subscribe: %v", token.Error())
	}
	return c
}

// TestKilledHubLosesNoMessageToADevice kills the hub while a service sends and a
// device receives. Every message that the hub has taken must have come to the device,
// or come after the restart.
func TestKilledHubLosesNoMessageToADevice(t *testing.T) {
	dir := t.TempDir()
	hub, cmd := startChild(t, dir)
	d := hub.device("dev")
	box := newInbox()
	box.listen(t, hub, d)
	client := hub.client()
	enough := make(chan struct{})
	taken := make(chan int, 1)
	go func() {
		n := 0
		for {
			err := client.SendMessage(t.Context(), iothub.DeviceIdentity("dev"), &iothub.Message{Body: fmt.Append(nil, n)})
			if rest.StatusOf(err) == http.StatusForbidden {
				continue // the device is slower
			}
			if err != nil {
				taken <- n
				return
			}
			if n++; n == 300 {
				close(enough)
			}
		}
	}()
	select {
	case <-enough:
	case <-time.After(patience / 3): // a slow disk has taken fewer by then
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	n := <-taken
	if n == 0 {
		t.Fatal("nothing was taken")
	}
	before := box.count()
	hub, _ = startChild(t, dir)
	c := box.listen(t, hub, d)
	defer c.Disconnect(0)
	// Messages come in order: when a last one is there, so are those before it.
	if err := hub.client().SendMessage(t.Context(), iothub.DeviceIdentity("dev"), &iothub.Message{Body: []byte("last")}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for last := false; !last; {
		select {
		case <-box.more:
		case <-deadline:
			t.Fatal("the last message does not come")
		}
		box.mu.Lock()
		last = box.got["last"] > 0
		box.mu.Unlock()
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	for i := range n {
		if box.got[fmt.Sprint(i)] == 0 {
			t.Errorf("message %d of %d is lost", i, n)
		}
	}
	t.Logf("%d messages taken, %d delivered before the end", n, before)
}
