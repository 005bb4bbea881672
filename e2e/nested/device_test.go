//go:build e2e

package nested_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// below is a cloud, an edgehub below it, and a whole device below that.
type below struct {
	t      *testing.T
	rig    *hubrig.Rig
	child  *hubrig.Child
	device *hubrig.Device

	mu      sync.Mutex
	origins map[string]int // devices of what has arrived in the cloud
}

func newBelow(t *testing.T) *below {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	w := &below{t: t, origins: map[string]int{}}
	w.rig, err = hubrig.New(t.Context(), hubrig.Options{Dir: t.TempDir(), Bin: filepath.Join(root, "bin"), Say: t.Logf, Routes: map[string]string{"toCloud": "FROM /messages/* INTO $upstream"}})
	t.Cleanup(func() {
		if err := w.rig.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.rig.Monitor(w.arrive); err != nil {
		t.Fatal(err)
	}
	if w.child, err = w.rig.AddChild(t.Context(), childID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.rig.IoTHub(t.Context(), "deploy", "--device", childID, filepath.Join(root, "deploy", "manifests", "development.json")); err != nil {
		t.Fatal(err)
	}
	w.device, err = w.child.NewDevice(t.Context(), root)
	t.Cleanup(func() {
		if err := w.device.Close(); err != nil {
			t.Error(err)
		}
		for _, log := range []string{w.device.Log(), w.rig.HubLog()} {
			if text, err := os.ReadFile(log); err == nil && t.Failed() {
				t.Logf("%s:\n%s", log, text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *below) arrive(line string) {
	var e struct{ Event struct{ Origin string } }
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		w.t.Errorf("event %s: %v", line, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.origins[e.Event.Origin]++
}

func (w *below) startParent() *hubrig.Process {
	w.t.Helper()
	hub, err := w.rig.StartHub(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(hub.Kill)
	return hub
}

func (w *below) eventually(what string, check func() error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	if err := rig.Eventually(ctx, 300*time.Millisecond, what, check); err != nil {
		w.t.Fatal(err)
	}
}

// says waits for a line of edged.
func (w *below) says(text string) {
	w.t.Helper()
	w.eventually("log of edged", func() error {
		log, err := os.ReadFile(w.device.Log())
		if err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("no %q", text)
		}
		return err
	})
}

// TestDeviceBelowADevice brings up edged, edgeAgent, edgeHub and two modules below an
// edgehub that is their only way to the cloud, after a parent that was of no use.
func TestDeviceBelowADevice(t *testing.T) {
	w := newBelow(t)
	key := base64.StdEncoding.EncodeToString(w.child.Key())
	for _, step := range []struct {
		name, key string
		roots     []byte
		parent    bool // it runs from now on
		text      string
	}{
		{"the parent is away", key, w.rig.ParentRoot(), false, "connection refused"},
		{"the parent does not know the device's key", base64.StdEncoding.EncodeToString(make([]byte, 32)), w.rig.ParentRoot(), true, "registry refused access"},
		{"the parent is not trusted", key, otherRoot(t), true, "certificate signed by unknown authority"},
	} {
		if step.parent && step.text == "registry refused access" {
			w.startParent()
		}
		if err := os.RemoveAll(w.device.Log()); err != nil {
			t.Fatal(err)
		}
		if err := w.device.Start(step.key, step.roots); err != nil {
			t.Fatal(err)
		}
		w.says(step.text)
		if err := w.device.Stop(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	if err := w.device.Start(key, w.rig.ParentRoot()); err != nil {
		t.Fatal(err)
	}
	w.eventually("telemetry from below", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.origins[childID] < 5 {
			return fmt.Errorf("arrived: %v", w.origins)
		}
		return nil
	})
	w.environments()
	w.checks()
}

func (w *below) environments() {
	parent, own := w.rig.EdgeAddress(), w.child.HostName()
	for module, want := range map[string]map[string]string{
		"edgeAgent": {"IOTEDGE_GATEWAYHOSTNAME": parent, "EdgeDeviceHostName": own},
		"edgeHub":   {"IOTEDGE_GATEWAYHOSTNAME": parent, "EdgeDeviceHostName": own},
		"filter":    {"IOTEDGE_GATEWAYHOSTNAME": own, "IOTEDGE_PARENTHOSTNAME": parent},
	} {
		env, err := w.device.Environment(w.t.Context(), module)
		if err != nil {
			w.t.Error(err)
		}
		for k, v := range want {
			if env[k] != v {
				w.t.Errorf("%s: %s=%q, want %q", module, k, env[k], v)
			}
		}
	}
}

// checks runs those of edgectl that concern the parent.
func (w *below) checks() {
	out, err := w.device.EdgeCtl(w.t.Context(), "check", "--config-file", w.device.ConfigFile(), "--ntp-server", "127.0.0.1:9", "--output", "json")
	var report struct {
		Checks map[string]struct {
			Result  string
			Details []string
		}
	}
	if jerr := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &report); jerr != nil {
		w.t.Fatalf("%v, %v: %s", err, jerr, out)
	}
	for _, id := range []string{
		"parent_hostname", "container-resolve-parent-hostname", "host-connect-iothub-amqp", "host-connect-iothub-https", "host-connect-iothub-mqtt",
		"container-connect-upstream-amqp", "container-connect-upstream-https", "container-connect-upstream-mqtt",
	} {
		if c := report.Checks[id]; c.Result != "ok" {
			w.t.Errorf("%s is %s: %v", id, c.Result, c.Details)
		}
	}
}

// otherRoot is a root that nobody uses.
func otherRoot(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
