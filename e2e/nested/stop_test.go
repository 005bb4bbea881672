//go:build e2e

package nested_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// TestHubEndsInOrder asks the built hub to end, with a client connected whose messages
// are under way, with the cloud and without.
func TestHubEndsInOrder(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	r, err := hubrig.New(t.Context(), hubrig.Options{Dir: t.TempDir(), Bin: bin, Say: t.Logf, Modules: []string{"m"},
		Routes: map[string]string{"toCloud": "FROM /messages/* INTO $upstream"}})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rig: r}
	storage := t.TempDir()
	for _, cloud := range []bool{true, false} {
		hub, err := r.StartHub(storage)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hub.Kill)
		w.eventually("connection of the module", func() error {
			w.client, err = mqttload.Dial(t.Context(), r.Login("m"))
			return err
		})
		if !cloud {
			r.KillCloud()
		}
		for i := range 50 {
			if err := w.client.Publish("devices/"+hubrig.EdgeID+"/modules/m/messages/events/", fmt.Append(nil, i), func() {}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.client.Flush(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := hub.Stop(time.Minute); err != nil {
			t.Errorf("with a cloud %v: %v", cloud, err)
		}
		t.Logf("with a cloud %v: ended after %v", cloud, time.Since(start).Round(time.Millisecond))
		select {
		case <-w.client.Done():
		case <-time.After(patience):
			t.Error("the client is not told")
		}
		w.client.Close()
	}
}
