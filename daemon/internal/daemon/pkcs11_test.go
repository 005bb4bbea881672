//go:build device

package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11/hsmtest"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func TestKeysOnATokenRegisterTheDeviceAndSignForModules(t *testing.T) {
	token, secret := hsmtest.Start(t)
	c := newDPS(t)
	c.key = secret
	d := newDevice(t)
	d.token = token
	d.trust(t, c.Server)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "reg-1"
symmetric_key = { uri = "pkcs11:token=edge;object=device%%20id?pin-value=1234" }
[aziot_keys]
pkcs11_lib_path = %q
pkcs11_base_slot = "pkcs11:token=edge?pin-value=1234"`, c.URL, hsmtest.Library)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "home", "keys", "edge_ca.pem"))
	if err != nil || strings.Contains(string(text), "PRIVATE KEY") {
		t.Errorf("the edge CA's key is not on the token: %v", err)
	}
	d.until(t, "edgeAgent", runtime.StatusRunning)
	d.engine.AddProcess(os.Getpid(), "edgeAgent")
	out, err := workloadv1.NewWorkloadClient(d.dial(t, "home/mnt/edgeAgent.sock")).CreateServerCertificate(t.Context(),
		&workloadv1.ServerCertificateRequest{ModuleId: "$edgeAgent", GenerationId: "637000000000000007", CommonName: "gateway"})
	if err != nil || !strings.Contains(out.GetCertificate(), "BEGIN CERTIFICATE") {
		t.Errorf("issued by the token: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	d.keepsTerms(t)
	if strings.Contains(d.log.String(), "1234") {
		t.Error("PIN in the log")
	}
}

// The keys that [preloaded_keys] names are those of CAs which are made on the device.
func TestPreloadedKeysOfIssuedCAs(t *testing.T) {
	token, _ := hsmtest.Start(t)
	d := newDevice(t)
	d.token = token
	d.more = fmt.Sprintf(`
[aziot_keys]
pkcs11_lib_path = %q
[preloaded_keys]
aziot-edged-ca = "pkcs11:token=edge;object=my%%20ca?pin-value=1234"
local-ca = "pkcs11:token=edge;object=my%%20local%%20ca?pin-value=1234"
[edge_ca]
method = "local_ca"
[cert_issuance.local_ca.cert]
method = "self_signed"`, hsmtest.Library)
	stop := d.run(t)
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for name, object := range map[string]string{"edge_ca": "my%20ca", "local-ca": "my%20local%20ca"} {
		if text := d.read(t, "keys/"+name+".pem"); strings.Contains(string(text), "PRIVATE KEY") {
			t.Errorf("%s: key is not on the token", name)
		}
		key, err := token.Signer(t.Context(), "pkcs11:token=edge;object="+object+"?pin-value=1234")
		if err != nil || !pki.SameKey(key.Public(), d.chain(t, name)[0].PublicKey) {
			t.Errorf("%s: another key: %v", name, err)
		}
	}
}
