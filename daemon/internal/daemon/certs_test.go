package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func rootsOf(s *httptest.Server) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return roots
}

func requestClientCert() *tls.Config { return &tls.Config{ClientAuth: tls.RequestClientCert} }

// writeCA makes a CA for a day.
func writeCA(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	return writePair(t, dir, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plant CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(23 * time.Hour),
	})
}

// writePair makes a certificate that signs itself.
func writePair(t *testing.T, dir string, template *x509.Certificate) (cert, key string) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "pair.pem"), filepath.Join(dir, "pair.key")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestRegistryClientShowsTheDevicesCertificateAndNoToken(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "edge1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	var peer, header string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("Authorization")
		if len(r.TLS.PeerCertificates) > 0 {
			peer = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		_, _ = w.Write([]byte(`[]`))
	}))
	server.TLS = requestClientCert()
	server.StartTLS()
	defer server.Close()
	id := config.Identity{Method: config.X509, Cert: cert, CertPK: config.KeyURI(key)}
	own, err := credential.Open(t.Context(), id, credential.Keys{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := daemon.NewRegistry(daemon.RegistryOptions{
		Hub: "hub.test", Host: strings.TrimPrefix(server.URL, "https://"), Device: "edge1", Credential: own, Roots: rootsOf(server), Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.ListModules(t.Context(), "edge1"); err != nil || peer != "edge1" || header != "" {
		t.Errorf("%v, peer %q, token %q", err, peer, header)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := credential.Open(t.Context(), id, credential.Keys{}, nil, nil); err == nil || !strings.Contains(err.Error(), "accessible to others") {
		t.Errorf("key that all can read: %v", err)
	}
}

func TestManifestTrustBundleIsHandedOut(t *testing.T) {
	cert, _ := writeCA(t, t.TempDir())
	want, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ top, want string }{
		"configured": {"manifest_trust_bundle_cert = \"file://" + cert + "\"", string(want)},
		"not":        {"", ""},
	} {
		d := newDevice(t)
		d.top = c.top
		d.run(t)
		got, err := workloadv1.NewWorkloadClient(d.dial(t, "run/workload.sock")).GetManifestTrustBundle(t.Context(), &workloadv1.GetManifestTrustBundleRequest{})
		if err != nil || got.GetCertificate() != c.want {
			t.Errorf("%s: %q, %v", name, got.GetCertificate(), err)
		}
	}
}

func TestManifestTrustBundleMustHoldCertificates(t *testing.T) {
	d := newDevice(t)
	d.top = "manifest_trust_bundle_cert = \"/dev/null\""
	err := daemon.Run(t.Context(), d.options(d.config(t)))
	if err == nil || !strings.Contains(err.Error(), "manifest trust bundle: /dev/null: no PEM certificate") {
		t.Errorf("an empty bundle: %v", err)
	}
}

func TestKeysOfThePreloadedTables(t *testing.T) {
	d := newDevice(t)
	cert, key := writeCA(t, d.dir)
	files := map[string][]byte{"identity-master": bytes.Repeat([]byte{7}, 32), "encryption-master": bytes.Repeat([]byte{8}, 32)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.top = fmt.Sprintf("imported_master_encryption_key = \"%s/encryption-master\"", d.dir)
	d.more = fmt.Sprintf(`
[preloaded_keys]
aziot_identityd_master_id = "file://%s/identity-master"
aziot-edged-ca = "file://%s"
[preloaded_certs]
aziot-edged-ca = "file://%s"`, d.dir, key, cert)
	d.run(t)
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(d.dir, "home", "keys", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bundle, err := workloadv1.NewWorkloadClient(d.dial(t, "run/workload.sock")).GetTrustBundle(t.Context(), &workloadv1.GetTrustBundleRequest{})
	want, readErr := os.ReadFile(cert)
	if err := errors.Join(err, readErr); err != nil || bundle.GetCertificate() != string(want) {
		t.Errorf("edge CA: %v, %s", err, bundle.GetCertificate())
	}
}
