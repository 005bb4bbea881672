package rig

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// manual is the configuration of a device that knows its connection string.
func manual(connectionString string) string {
	return fmt.Sprintf("[provisioning]\nsource = \"manual\"\nconnection_string = %q\n", connectionString)
}

// Attest enrolls the edge device at the provisioning service and returns what it needs to
// prove itself: the table provisioning.attestation of its configuration.
type Attest func(ctx context.Context) (string, error)

// BringProvisioned brings up cloud, device and modules as Bring does, with a device
// that knows nothing but the address of the provisioning service and what attest gives
// it. There is no leaf.
func (r *Rig) BringProvisioned(ctx context.Context, attest Attest) (AgentReport, error) {
	if err := r.StartCloud(ctx); err != nil {
		return AgentReport{}, err
	}
	if err := r.enroll(ctx, attest); err != nil {
		return AgentReport{}, err
	}
	if err := r.pushAndSay(ctx); err != nil {
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

// Reprovision asks the device to be provisioned anew, enrolls it meanwhile as attest
// does, and starts it again, as its service manager would. It returns the exit status of
// the daemon that was asked.
func (r *Rig) Reprovision(ctx context.Context, attest Attest) (status int, err error) {
	r.say("reprovisioning the device")
	if _, err := r.EdgeCtl(ctx, "system", "reprovision"); err != nil {
		return 0, err
	}
	select {
	case <-r.edged.Done():
	case <-ctx.Done():
		return 0, fmt.Errorf("end of edged: %w", ctx.Err())
	}
	if err := r.enroll(ctx, attest); err != nil {
		return 0, err
	}
	return r.edged.ExitCode(), r.StartDevice()
}

func (r *Rig) enroll(ctx context.Context, attest Attest) error {
	attestation, err := attest(ctx)
	if err != nil {
		return err
	}
	return r.WriteDeviceConfig(fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = "https://%s"
id_scope = "0ne00000000"

[provisioning.attestation]
%s`, HubName, attestation))
}

// WithCertificate enrolls the device with a certificate of its own.
func (r *Rig) WithCertificate(ctx context.Context) (string, error) {
	certificate, key, err := r.deviceCertificate()
	if err != nil {
		return "", err
	}
	r.say("enrolling %s with its certificate", EdgeID)
	if _, err := r.IoTHub(ctx, "enrollment", "add", EdgeID, "--edge", "--certificate", certificate); err != nil {
		return "", err
	}
	return fmt.Sprintf("method = \"x509\"\nregistration_id = %q\nidentity_cert = \"file://%s\"\nidentity_pk = \"file://%s\"\n",
		EdgeID, certificate, key), nil
}

// WithGroupKey enrolls a group, and gives the device its key of it.
func (r *Rig) WithGroupKey(ctx context.Context) (string, error) {
	const group = "plant"
	r.say("enrolling the group %s", group)
	if _, err := r.IoTHub(ctx, "enrollment-group", "add", group, "--edge"); err != nil {
		return "", err
	}
	key, err := r.IoTHub(ctx, "enrollment-group", "key", group, EdgeID)
	if err != nil {
		return "", err
	}
	return symmetric(EdgeID, strings.TrimSpace(key)), nil
}

// WithKey enrolls the device alone, under a registration id of its own, with a key.
func (r *Rig) WithKey(ctx context.Context) (string, error) {
	const registration = "line-7"
	r.say("enrolling %s as %s with its key", EdgeID, registration)
	out, err := r.IoTHub(ctx, "enrollment", "add", registration, "--edge", "--device-id", EdgeID)
	if err != nil {
		return "", err
	}
	var enrollment struct {
		Attestation struct {
			SymmetricKey struct {
				PrimaryKey string `json:"primaryKey"`
			} `json:"symmetricKey"`
		} `json:"attestation"`
	}
	if err := json.Unmarshal([]byte(out), &enrollment); err != nil {
		return "", fmt.Errorf("enrollment %s: %w", registration, err)
	}
	return symmetric(registration, enrollment.Attestation.SymmetricKey.PrimaryKey), nil
}

func symmetric(registration, key string) string {
	return fmt.Sprintf("method = \"symmetric_key\"\nregistration_id = %q\nsymmetric_key = { value = %q }\n", registration, key)
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
