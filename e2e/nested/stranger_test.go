//go:build e2e

package nested_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// TestStrangerForWhomTheCloudVouches has a device that is not below the gateway come in
// there, as AuthenticationMode says, and its messages reach the cloud.
func TestStrangerForWhomTheCloudVouches(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	r, err := hubrig.New(t.Context(), hubrig.Options{Dir: t.TempDir(), Bin: bin, Say: t.Logf,
		Routes: map[string]string{"toCloud": "FROM /messages/* INTO $upstream"}})
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
	good, err := r.CreateDevice(t.Context(), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte{good[0] + 1}, good[1:]...)
	for _, tt := range []struct {
		env  []string
		lets bool
	}{
		{nil, false},
		{[]string{"AuthenticationMode=CloudAndScope"}, true},
		{[]string{"AuthenticationMode=Cloud", "UpstreamProtocol=Mqtt"}, true},
	} {
		name := fmt.Sprint(tt.env)
		hub, err := r.StartHub(t.TempDir(), tt.env...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hub.Kill)
		dial := func(key []byte) error {
			w.client, err = mqttload.Dial(t.Context(), r.DeviceLogin("stranger", key))
			return err
		}
		// A hub that is not ready answers otherwise: its cloud may be away, for one.
		w.eventually(name+": answer", func() error {
			err := dial(good)
			if refused := mqttload.RefusedError(0); !tt.lets && errors.As(err, &refused) && refused == 5 {
				return nil
			}
			if tt.lets {
				return err
			}
			return fmt.Errorf("let in, or no answer: %w", err)
		})
		if tt.lets {
			w.publish("devices/stranger/messages/events/", name)
			w.eventually(name+": message", func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.arrived[name] != "stranger" {
					return fmt.Errorf("in the cloud are %v", w.arrived)
				}
				return nil
			})
			w.client.Close()
			if refused := mqttload.RefusedError(0); !errors.As(dial(bad), &refused) || refused != 5 {
				t.Errorf("%s: with a wrong key: %v", name, err)
			}
		}
		if err := hub.Stop(time.Minute); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
