package daemon_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// cloudDPS is a provisioning service that knows one registration, by its key or by
// its certificate.
type cloudDPS struct {
	*httptest.Server
	key sas.Key

	mu       sync.Mutex
	hub      string
	device   string
	down     bool
	refuse   bool
	calls    int
	payload  string
	offer    string // what it serves as a payload
	peers    []string
	serials  []string      // of their certificates
	assigned chan struct{} // gets one for every registration
}

func newDPS(t *testing.T) *cloudDPS {
	t.Helper()
	key, err := sas.ParseKey(deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloudDPS{key: key, hub: "hub-a.test", device: "dev-1", assigned: make(chan struct{}, 16)}
	c.Server = httptest.NewUnstartedServer(c)
	c.TLS = requestClientCert()
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

func (c *cloudDPS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	token, err := sas.Parse(r.Header.Get("Authorization"))
	proven := err == nil && token.Verify(c.key) && token.KeyName == "registration"
	if len(r.TLS.PeerCertificates) > 0 {
		proven = true
		c.peers = append(c.peers, r.TLS.PeerCertificates[0].Subject.CommonName)
		c.serials = append(c.serials, r.TLS.PeerCertificates[0].SerialNumber.String())
	}
	switch {
	case r.URL.Path == "/payload":
		_, _ = io.WriteString(w, c.offer)
	case c.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case c.refuse:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errorCode":404201,"trackingId":"t-7","message":"no enrollment"}`)
	case !proven:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errorCode":401002,"trackingId":"t-7","message":"Unauthorized"}`)
	case r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/scope1/registrations/reg-1/register"):
		body, _ := io.ReadAll(r.Body)
		var doc struct{ Payload json.RawMessage }
		_ = json.Unmarshal(body, &doc)
		c.payload = string(doc.Payload)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"operationId":"op","status":"assigning"}`)
	default:
		_, _ = fmt.Fprintf(w, `{"operationId":"op","status":"assigned","registrationState":{"registrationId":"reg-1","assignedHub":%q,"deviceId":%q,"status":"assigned"}}`, c.hub, c.device)
		select {
		case c.assigned <- struct{}{}:
		default:
		}
	}
}

func (c *cloudDPS) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// dpsDevice is a device that is provisioned by the service.
func dpsDevice(t *testing.T, c *cloudDPS) *device {
	t.Helper()
	d := newDevice(t)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
payload = { uri = "file://%s/payload.json" }
[provisioning.attestation]
method = "symmetric_key"
registration_id = "reg-1"
symmetric_key = { value = %q }`, c.URL, d.dir, deviceKey)
	d.trust(t, c.Server)
	if err := os.WriteFile(filepath.Join(d.dir, "payload.json"), []byte(`{"model":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// trust makes the device trust a server.
func (d *device) trust(t *testing.T, s *httptest.Server) {
	t.Helper()
	path := filepath.Join(d.dir, "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d.top += fmt.Sprintf("trust_bundle_cert = \"file://%s\"\n", path)
}

// hubOf returns the hub and the device that the agent was told.
func (d *device) hubOf(t *testing.T) string {
	t.Helper()
	d.until(t, "edgeAgent", runtime.StatusRunning)
	spec, _ := d.engine.Spec("edgeAgent")
	var hub, id string
	for _, e := range spec.Options.Env {
		if v, ok := strings.CutPrefix(e, "IOTEDGE_IOTHUBHOSTNAME="); ok {
			hub = v
		}
		if v, ok := strings.CutPrefix(e, "IOTEDGE_DEVICEID="); ok {
			id = v
		}
	}
	return hub + "/" + id
}

func TestProvisionedByDPSThenOffline(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Fatalf("agent belongs to %s", got)
	}
	if c.payload != `{"model":"x"}` {
		t.Errorf("payload %s", c.payload)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.down, c.calls = true, 0 })
	first, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil {
		t.Fatal(err)
	}
	stop = d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if same, err := d.engine.Get(t.Context(), "edgeAgent"); err != nil || same.Instance != first.Instance {
		t.Errorf("agent was made anew: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if c.calls != 0 {
		t.Errorf("%d calls of a device that is provisioned", c.calls)
	}
	if out := d.log.String(); strings.Contains(out, deviceKey) {
		t.Error("key in the log")
	}
}

func TestPayloadThatCannotBeSentEndsTheStart(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "x", "huge": `"` + strings.Repeat("x", 64<<10) + `"`} {
		c := newDPS(t)
		d := dpsDevice(t, c)
		if err := os.WriteFile(filepath.Join(d.dir, "payload.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := d.config(t)
		unlock, err := daemon.LockHome(cfg.HomeDir)
		if err != nil {
			t.Fatal(err)
		}
		if err := daemon.Run(t.Context(), d.options(cfg)); err == nil || !strings.Contains(err.Error(), "payload.json is") {
			t.Errorf("%s: %v", name, err)
		}
		unlock()
	}
}

func TestPayloadFromAURL(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	c.set(func() { c.offer = `{"model":"y"}` })
	d.source = strings.Replace(d.source, "file://"+d.dir+"/payload.json", c.URL+"/payload", 1)
	stop := d.run(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if c.payload != `{"model":"y"}` {
		t.Errorf("payload %s", c.payload)
	}
}

func TestReprovisioningOnRequestMovesTheDevice(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	c.set(func() { c.hub = "hub-b.test" })
	if _, err := managementv1.NewSystemClient(d.dial(t, "run/mgmt.sock")).Reprovision(t.Context(), &managementv1.ReprovisionRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, daemon.ErrReprovision) {
		t.Fatal(err)
	}
	stop = d.run(t)
	if got := d.hubOf(t); got != "hub-b.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	if !strings.Contains(d.log.String(), "removing all modules") {
		t.Error("modules of the other hub were kept")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestAlwaysOnStartup(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	d.top += "auto_reprovisioning_mode = \"AlwaysOnStartup\"\n"
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.hub = "hub-b.test" })
	stop = d.run(t)
	if got := d.hubOf(t); got != "hub-b.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.refuse = true })
	cfg := d.config(t)
	unlock, err := daemon.LockHome(cfg.HomeDir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	err = daemon.Run(t.Context(), d.options(cfg))
	if err == nil || !strings.Contains(err.Error(), "error 404201: no enrollment (tracking id t-7)") {
		t.Fatalf("started although refused: %v", err)
	}
}

func TestHubThatRefusesTheDeviceLeadsToTheNewOne(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	<-c.assigned
	c.set(func() { c.hub = "hub-b.test" })
	d.registry.mu.Lock()
	d.registry.refused = &rest.Error{Status: http.StatusUnauthorized}
	d.registry.mu.Unlock()
	_, err := managementv1.NewIdentitiesClient(d.dial(t, "run/mgmt.sock")).List(t.Context(), &managementv1.ListIdentitiesRequest{})
	if err == nil {
		t.Fatal("listed although refused")
	}
	if err := d.ended(t, stop); !errors.Is(err, daemon.ErrReprovision) {
		t.Fatalf("ended with %v", err)
	}
	d.registry.mu.Lock()
	d.registry.refused = nil
	d.registry.mu.Unlock()
	stop = d.run(t)
	if got := d.hubOf(t); got != "hub-b.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRegistrationByACertificateThatALocalCAIssues(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	cert, key := writeCA(t, d.dir)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "x509"
identity_cert = { method = "local_ca", common_name = "reg-1" }
[cert_issuance.local_ca]
cert = "file://%s"
pk = "file://%s"
[edge_ca]
method = "local_ca"
expiry_days = 30`, c.URL, cert, key)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Fatalf("agent belongs to %s", got)
	}
	if len(c.peers) == 0 || c.peers[0] != "reg-1" {
		t.Errorf("registered by %q", c.peers)
	}
	for _, name := range []string{"device-id", "edge_ca"} {
		d.exists(t, "home/keys/"+name+".pem")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRenewedIdentityIsRegisteredAgain(t *testing.T) {
	c := newDPS(t)
	d := dpsDevice(t, c)
	cert, key := writeCA(t, d.dir)
	// Certificates end with the CA, in 23 hours; this makes them due after 2 seconds.
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "x509"
[provisioning.attestation.identity_cert]
method = "local_ca"
common_name = "reg-1"
auto_renew = { threshold = "82798 s", retry = "1 s" }
[cert_issuance.local_ca]
cert = "file://%s"
pk = "file://%s"`, c.URL, cert, key)
	stop := d.run(t)
	d.eventually(t, "registration with a second certificate", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.serials) > 0 && c.serials[len(c.serials)-1] != c.serials[0]
	})
	d.logs(t, "assignment is unchanged")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// exists waits for a file that is made in the background.
func (d *device) exists(t *testing.T, path string) {
	t.Helper()
	d.eventually(t, path, func() bool {
		_, err := os.Stat(filepath.Join(d.dir, path))
		return err == nil
	})
}

// logs waits for a text in the log.
func (d *device) logs(t *testing.T, text string) {
	t.Helper()
	d.eventually(t, text, func() bool { return strings.Contains(d.log.String(), text) })
}

func (d *device) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("never: %s\n%s", what, &d.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
