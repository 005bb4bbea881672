//go:build device

package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// tpmDPS is a provisioning service that registers whoever has the TPM.
func tpmDPS(t *testing.T, challenge, identity sas.Key) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var doc struct {
			TPM struct{ EndorsementKey, StorageRootKey []byte }
		}
		if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answer := map[string]any{}
		token, err := sas.Parse(r.Header.Get("Authorization"))
		if err != nil || !token.Verify(challenge) {
			answer["authenticationKey"] = tpmtest.Package(t, doc.TPM.EndorsementKey, doc.TPM.StorageRootKey, challenge, true)
			w.WriteHeader(http.StatusUnauthorized)
		} else {
			answer["status"] = "assigned"
			answer["registrationState"] = map[string]any{
				"assignedHub": "hub.test", "deviceId": "tpm-1",
				"tpm": map[string]any{"authenticationKey": tpmtest.Package(t, doc.TPM.EndorsementKey, doc.TPM.StorageRootKey, identity, true)},
			}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}
}

func TestProvisionedByATPM(t *testing.T) {
	challenge, identity := sas.Key("the challenge of the service"), sas.Key("the identity of the device")
	server := httptest.NewTLSServer(tpmDPS(t, challenge, identity))
	defer server.Close()
	tcti := tpmtest.Start(t)
	chip, err := tpm.New(tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(t)
	d.chip = chip
	d.trust(t, server)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "tpm"
registration_id = "reg-1"
[tpm]
tcti = %q`, server.URL, tcti)
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub.test/tpm-1" {
		t.Errorf("agent belongs to %s", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// From now on the TPM signs for the registry.
	own, err := credential.Open(t.Context(), d.config(t).Identity, credential.Keys{}, nil, chip)
	if err != nil {
		t.Fatal(err)
	}
	var header string
	hub := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`[]`))
	}))
	defer hub.Close()
	client, err := daemon.NewRegistry(daemon.RegistryOptions{
		Hub: "hub.test", Host: hub.Listener.Addr().String(), Device: "tpm-1", Credential: own, Roots: rootsOf(hub),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.ListModules(t.Context(), "tpm-1"); err != nil {
		t.Fatal(err)
	}
	if token, err := sas.Parse(header); err != nil || !token.Verify(identity) {
		t.Errorf("token %v, %v", token, err)
	}
}
