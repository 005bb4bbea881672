package daemon_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/est/esttest"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// write puts a PEM file into the device's folder.
func (d *device) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// estDevice is a device whose certificates come from an EST server.
func estDevice(t *testing.T) (*device, *esttest.Server, *cloudDPS) {
	t.Helper()
	e := &esttest.Server{T: t, CA: esttest.NewCA(t)}
	server := httptest.NewUnstartedServer(e)
	server.TLS = requestClientCert()
	server.StartTLS()
	t.Cleanup(server.Close)
	c := newDPS(t)
	d := dpsDevice(t, c)
	bootstrap := e.CA.Client(t, "bootstrap")
	key, err := x509.MarshalPKCS8PrivateKey(bootstrap.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "x509"
registration_id = "reg-1"
identity_cert = { method = "est", common_name = "reg-1" }
[cert_issuance.est]
trusted_certs = ["file://%s"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://%s"
bootstrap_identity_pk = "file://%s"
[cert_issuance.est.urls]
default = "%s/.well-known/est"
[edge_ca]
method = "est"
common_name = "plant edge CA"
username = "operator"
password = "hunter3"`, c.URL, d.write(t, "est-root.pem", "CERTIFICATE", server.Certificate().Raw),
		d.write(t, "bootstrap.pem", "CERTIFICATE", bootstrap.Leaf.Raw), d.write(t, "bootstrap.key", "PRIVATE KEY", key), server.URL)
	return d, e, c
}

func TestCertificatesFromAnESTServer(t *testing.T) {
	d, e, c := estDevice(t)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The bootstrap certificate gets the EST identity, which gets the identity.
	calls := e.Calls()
	if !strings.HasPrefix(calls, "/simpleenroll bootstrap,/cacerts bootstrap,/simpleenroll reg-1,/cacerts reg-1") || !strings.Contains(calls, "/simpleenroll operator/hunter3") {
		t.Errorf("calls %s", calls)
	}
	if len(c.peers) == 0 || c.peers[0] != "reg-1" {
		t.Errorf("registered by %q", c.peers)
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "home", "certs", "edge_ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil || len(chain) != 3 || chain[0].Subject.CommonName != "plant edge CA" || !chain[2].Equal(e.CA.Root) {
		t.Errorf("edge CA %v, %v", chain, err)
	}
	if strings.Contains(d.log.String(), "hunter3") {
		t.Error("password in the log")
	}
	// Neither server is needed for another start.
	e.Set(func() { e.Refuse = map[string]int{"/simpleenroll": 503, "/simplereenroll": 503} })
	c.set(func() { c.down = true })
	stop = d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if e.Calls() != calls {
		t.Errorf("further calls: %s", e.Calls())
	}
}

func TestStartWithoutTheESTServer(t *testing.T) {
	d := newDevice(t)
	d.source = `[provisioning]
source = "manual"
iothub_hostname = "hub.example.net"
device_id = "edge1"
[provisioning.authentication]
method = "x509"
identity_cert = { method = "est" }
[cert_issuance.est.auth]
username = "u"
password = "p"
[cert_issuance.est.urls]
default = "https://127.0.0.1:1/.well-known/est"
[edge_ca]
method = "est"
common_name = "plant edge CA"`
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	for _, want := range []string{"there is no valid identity certificate", "there is no edge CA yet", "certificate not renewed"} {
		d.logs(t, want)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
