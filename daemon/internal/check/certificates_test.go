package check_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// pemFiles writes a certificate and its key to dir/name.pem and dir/name.key.
func pemFiles(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProbesOfAProvisionedDevice(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"home/provisioning", "home/certs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pemFiles(t, dir, "bootstrap")
	pemFiles(t, dir, "local")
	text := strings.ReplaceAll(`homedir = "DIR/home"
[provisioning]
source = "dps"
id_scope = "s"
[provisioning.attestation]
method = "x509"
registration_id = "r1"
identity_cert = { method = "est" }
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://DIR/bootstrap.pem"
bootstrap_identity_pk = "file://DIR/bootstrap.key"
[cert_issuance.est.urls]
default = "https://est.test/.well-known/est"
[cert_issuance.local_ca]
cert = "file://DIR/local.pem"
pk = "file://DIR/local.key"
`, "DIR", dir)
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := check.Device(check.DeviceOptions{ConfigFile: file})
	cfg, err := p.Config()
	if err != nil || cfg.Device.HubName != "" {
		t.Fatalf("%+v, %v", cfg.Device, err)
	}
	state := `{"registration":"https://global.azure-devices-provisioning.net/s/r1","hub":"hub.test","deviceId":"d1","assigned":"2026-01-02T03:04:05Z"}`
	if err := os.WriteFile(filepath.Join(dir, "home/provisioning/device.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err = p.Config(); err != nil || cfg.Device.Gateway != "hub.test" || cfg.Device.DeviceID != "d1" {
		t.Fatalf("%+v, %v", cfg.Device, err)
	}
	if _, err := p.Identity(cfg); !os.IsNotExist(err) {
		t.Errorf("identity that is not issued: %v", err)
	}
	names := func(certs []check.Certificate, err error) string {
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, c := range certs {
			out = append(out, c.Subject.CommonName)
		}
		return strings.Join(out, ",")
	}
	if got := names(p.EST(cfg)); got != "bootstrap" {
		t.Errorf("EST: %s", got)
	}
	pemFiles(t, filepath.Join(dir, "home/certs"), "est-device-id")
	pemFiles(t, filepath.Join(dir, "home/certs"), "device-id")
	if got := names(p.EST(cfg)); got != "bootstrap,est-device-id" {
		t.Errorf("EST: %s", got)
	}
	if got := names(p.Identity(cfg)) + "," + names(p.LocalCA(cfg)); got != "device-id,local" {
		t.Errorf("identity and local CA: %s", got)
	}
	if err := p.Pairs(t.Context(), cfg); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.Preloaded(t.Context(), cfg), p.KeyFiles(t.Context(), cfg)); err != nil {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(dir, "local.key"), filepath.Join(dir, "bootstrap.key")); err != nil {
		t.Fatal(err)
	}
	err = p.Pairs(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "bootstrap.pem: key does not belong") || !strings.Contains(err.Error(), "local.pem") {
		t.Errorf("wrong keys: %v", err)
	}
	if err := p.KeyFiles(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "key of "+dir+"/local.pem") {
		t.Errorf("missing key: %v", err)
	}
	cfg.Issuance.LocalCA = config.IssuingCA{Issue: cfg.Identity.Issue}
	if _, err := p.LocalCA(cfg); !os.IsNotExist(err) {
		t.Errorf("local CA that is not issued: %v", err)
	}
	pemFiles(t, filepath.Join(dir, "home/certs"), "local-ca")
	pemFiles(t, filepath.Join(dir, "home/certs"), "est-local-ca")
	if got := names(p.LocalCA(cfg)); got != "local-ca" {
		t.Errorf("issued local CA: %s", got)
	}
	if got := names(p.EST(cfg)); strings.Count(got, "est-") != 2 || !strings.Contains(got, "est-local-ca") {
		t.Errorf("EST: %s", got)
	}
	if cfg, err = p.Config(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "local.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Preloaded(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "local.pem") {
		t.Errorf("unreadable certificate: %v", err)
	}
}
