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
	"time"

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

// issuedLocalCA is an estDevice that asks the server for a local CA alone, which issues
// the rest.
func issuedLocalCA(t *testing.T) (*device, *esttest.Server, *cloudDPS) {
	t.Helper()
	d, e, c := estDevice(t)
	source, _, _ := strings.Cut(d.source, "[edge_ca]")
	d.source = strings.Replace(source, `method = "est", common_name`, `method = "local_ca", common_name`, 1) + `[edge_ca]
method = "local_ca"
[cert_issuance.local_ca.cert]
method = "est"
common_name = "gateway CA"`
	return d, e, c
}

// read returns a file below the device's home.
func (d *device) read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "home", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// chain reads certificates of the device.
func (d *device) chain(t *testing.T, name string) []*x509.Certificate {
	t.Helper()
	chain, err := pki.ParseCertificates(d.read(t, "certs/"+name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestLocalCAFromAnESTServer(t *testing.T) {
	d, e, c := issuedLocalCA(t)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The server issues the EST identity and the local CA, once.
	calls := e.Calls()
	if strings.Count(calls, "/simpleenroll") != 2 || len(c.peers) == 0 || c.peers[0] != "reg-1" {
		t.Errorf("calls %s, registered by %q", calls, c.peers)
	}
	local := d.chain(t, "local-ca")
	if len(local) != 3 || local[0].Subject.CommonName != "gateway CA" || local[0].MaxPathLen != 1 || !local[2].Equal(e.CA.Root) {
		t.Errorf("local CA %v", local)
	}
	for _, name := range []string{"device-id", "edge_ca"} {
		if chain := d.chain(t, name); len(chain) != 4 || !chain[1].Equal(local[0]) || chain[0].CheckSignatureFrom(local[0]) != nil {
			t.Errorf("%s: %v", name, chain)
		}
	}
	// It issues while the server is away, and outlives restarts.
	e.Set(func() { e.Refuse = map[string]int{"/simpleenroll": 503, "/simplereenroll": 503} })
	remove(t, d, "keys/edge_ca.pem")
	remove(t, d, "certs/edge_ca.pem")
	stop = d.run(t)
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if chain := d.chain(t, "edge_ca"); !chain[1].Equal(local[0]) || e.Calls() != calls {
		t.Errorf("edge CA %v, further calls: %s", chain, e.Calls())
	}
}

func TestLocalCAIsIssuedWhenTheESTServerIsBack(t *testing.T) {
	d, e, _ := issuedLocalCA(t)
	e.Set(func() { e.Refuse = map[string]int{"/simpleenroll": 503} })
	back := make(chan struct{})
	go func() {
		defer close(back)
		for t.Context().Err() == nil && !strings.Contains(d.log.String(), "device is not provisioned") {
			time.Sleep(20 * time.Millisecond)
		}
		e.Set(func() { e.Refuse = nil })
	}()
	stop := d.run(t) // ready when it is provisioned
	<-back
	d.logs(t, "there is no valid local CA")
	d.logs(t, "local CA: issue certificate local-ca")
	d.logs(t, "EST server answered 503")
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestLocalCAThatSignsItselfIsRenewed(t *testing.T) {
	d := newDevice(t)
	// Due after two seconds of its day.
	d.more = `
[edge_ca]
method = "local_ca"
[cert_issuance.local_ca.cert]
method = "self_signed"
expiry_days = 1
auto_renew = { threshold = "86398 s", retry = "1 s" }`
	stop := d.run(t)
	d.exists(t, "home/certs/edge_ca.pem")
	d.logs(t, "local CA renewed")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	local, edge := d.chain(t, "local-ca"), d.chain(t, "edge_ca")
	if local[0].Subject.CommonName != "local CA gateway.local" || len(local) != 1 || len(edge) != 2 || edge[0].CheckSignatureFrom(edge[1]) != nil {
		t.Errorf("local CA %v, edge CA %v", local[0].Subject, edge)
	}
}

func TestStartWithoutAnIssuedLocalCA(t *testing.T) {
	d := newDevice(t)
	d.more = `
[edge_ca]
method = "local_ca"
[cert_issuance.local_ca]
cert = { method = "est", url = "https://127.0.0.1:1/", username = "u", password = "hunter3" }`
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	for _, want := range []string{"there is no valid local CA", "there is no edge CA yet", "certificate=\"local CA\"", "certificate=\"edge CA\""} {
		d.logs(t, want)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(d.log.String(), "hunter3") {
		t.Error("password in the log")
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
