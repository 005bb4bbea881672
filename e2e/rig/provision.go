package rig

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// manual is the configuration of a device that knows its connection string.
func manual(connectionString string) string {
	return fmt.Sprintf("[provisioning]\nsource = \"manual\"\nconnection_string = %q\n", connectionString)
}

// BringProvisioned brings up cloud, device and modules as Bring does, with a device
// that knows nothing but the address of the provisioning service and a certificate
// that is enrolled there. There is no leaf.
func (r *Rig) BringProvisioned(ctx context.Context) (AgentReport, error) {
	if err := r.StartCloud(ctx); err != nil {
		return AgentReport{}, err
	}
	certificate, key, err := r.deviceCertificate()
	if err != nil {
		return AgentReport{}, err
	}
	r.say("enrolling %s with its certificate", EdgeID)
	if _, err := r.IoTHub(ctx, "enrollment", "add", EdgeID, "--edge", "--certificate", certificate); err != nil {
		return AgentReport{}, err
	}
	if err := r.pushAndSay(ctx); err != nil {
		return AgentReport{}, err
	}
	if err := r.WriteDeviceConfig(fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = "https://%s"
id_scope = "0ne00000000"

[provisioning.attestation]
method = "x509"
registration_id = %q
identity_cert = "file://%s"
identity_pk = "file://%s"
`, HubName, EdgeID, certificate, key)); err != nil {
		return AgentReport{}, err
	}
	if err := r.StartDevice(); err != nil {
		return AgentReport{}, err
	}
	if err := poll(ctx, 200*time.Millisecond, "wait for the registration", func() (bool, error) {
		if r.edged.Ended() {
			return false, final{fmt.Errorf("edged ended: %w; see %s", r.edged.err, r.logPath("edged"))}
		}
		_, err := r.IoTHub(ctx, "device", "show", EdgeID)
		return err == nil, err
	}); err != nil {
		return AgentReport{}, err
	}
	if err := r.Deploy(ctx, r.Manifest); err != nil {
		return AgentReport{}, err
	}
	return r.WaitDeployed(ctx)
}

// deviceCertificate makes a certificate and its key for the edge device.
func (r *Rig) deviceCertificate() (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("certificate of the device: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: EdgeID},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return "", "", fmt.Errorf("certificate of the device: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("key of the device: %w", err)
	}
	if err := os.MkdirAll(r.deviceDir(), 0o755); err != nil {
		return "", "", fmt.Errorf("certificate of the device: %w", err)
	}
	certificate, key = filepath.Join(r.deviceDir(), "identity.pem"), filepath.Join(r.deviceDir(), "identity.key.pem")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: privateDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return "", "", fmt.Errorf("certificate of the device: %w", err)
		}
	}
	return certificate, key, nil
}
