//go:build device

package daemon_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func newChip(t *testing.T, tcti string) *tpm.TPM {
	t.Helper()
	chip, err := tpm.New(tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
	if err != nil {
		t.Fatal(err)
	}
	return chip
}

// wrapped fails for a key that lies open.
func (d *device) wrapped(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if text := d.read(t, name); !bytes.HasPrefix(text, []byte("-----BEGIN TSS2 PRIVATE KEY-----\n")) {
			t.Errorf("%s is not wrapped by the TPM:\n%.60q", name, text)
		}
	}
}

const allInTPM = "\n[aziot_keys]\ntpm_new_keys = true\ntpm_master_keys = true\n"

func TestEveryKeyInTheTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := newDPS(t)
	tpmtest.PutHMAC(t, tcti, 0x81000200, c.key)
	d := dpsDevice(t, c)
	d.chip = newChip(t, tcti)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "reg-1"
symmetric_key = { uri = "tpm:handle=0x81000200" }
[edge_ca]
method = "local_ca"
[cert_issuance.local_ca.cert]
method = "self_signed"`, c.URL) + allInTPM
	for range 2 { // made, and found again
		stop := d.run(t)
		if got := d.hubOf(t); got != "hub-a.test/dev-1" {
			t.Errorf("agent belongs to %s", got)
		}
		d.exists(t, "home/certs/edge_ca.pem")
		d.until(t, "edgeAgent", runtime.StatusRunning)
		d.engine.AddProcess(os.Getpid(), "edgeAgent")
		out, err := workloadv1.NewWorkloadClient(d.dial(t, "home/mnt/edgeAgent.sock")).CreateServerCertificate(t.Context(),
			&workloadv1.ServerCertificateRequest{ModuleId: "$edgeAgent", GenerationId: "637000000000000007", CommonName: "gateway"})
		if err != nil || !strings.Contains(out.GetCertificate(), "BEGIN CERTIFICATE") {
			t.Errorf("issued by the TPM: %v", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		d.wrapped(t, "keys/identity-master", "keys/encryption-master", "keys/local-ca.pem", "keys/edge_ca.pem")
	}
	if strings.Contains(d.log.String(), "made anew") {
		t.Errorf("something was lost:\n%s", &d.log)
	}
	if got := tpmtest.Handles(t, tcti); !slices.Equal(got, []uint32{0x81000001, 0x81000200}) {
		t.Errorf("in the TPM: %x", got)
	}
	d.keepsTerms(t)
}

func TestKeysForAnESTServerInTheTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	d, e, c := estDevice(t)
	d.chip, d.more = newChip(t, tcti), allInTPM
	stop := d.run(t)
	if got := d.hubOf(t); got != "hub-a.test/dev-1" {
		t.Errorf("agent belongs to %s", got)
	}
	d.exists(t, "home/certs/edge_ca.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if calls := e.Calls(); !strings.HasPrefix(calls, "/simpleenroll bootstrap,/cacerts bootstrap,/simpleenroll reg-1,/cacerts reg-1") {
		t.Errorf("calls %s", calls)
	}
	if len(c.peers) == 0 || c.peers[0] != "reg-1" {
		t.Errorf("registered by %q", c.peers)
	}
	d.wrapped(t, "keys/est-device-id.pem", "keys/device-id.pem", "keys/edge_ca.pem")
}

func TestClearedTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	d := newDevice(t)
	d.chip = newChip(t, tcti)
	d.more = allInTPM
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	first, err := d.engine.Get(t.Context(), "edgeAgent")
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	masters, ca := d.read(t, "keys/identity-master"), d.read(t, "certs/edge_ca.pem")
	tpmtest.Clear(t, tcti)
	err = daemon.Run(t.Context(), d.options(d.config(t)))
	if err == nil || !strings.Contains(err.Error(), "wrapped by another TPM, or by this one before it was cleared; to begin with new ones, remove "+d.dir+"/home/keys/*-master and ") {
		t.Fatalf("started with %v", err)
	}
	if !bytes.Equal(d.read(t, "keys/identity-master"), masters) {
		t.Error("the sealed key was changed")
	}
	for _, name := range []string{"keys/identity-master", "keys/encryption-master", "cache"} {
		if err := os.RemoveAll(filepath.Join(d.dir, "home", name)); err != nil {
			t.Fatal(err)
		}
	}
	stop = d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if again, err := d.engine.Get(t.Context(), "edgeAgent"); err != nil || again.Instance == first.Instance {
		t.Errorf("agent runs on with the keys of before: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	d.wrapped(t, "keys/identity-master", "keys/encryption-master", "keys/edge_ca.pem")
	if bytes.Equal(d.read(t, "certs/edge_ca.pem"), ca) || !strings.Contains(d.log.String(), "certificate is made anew") {
		t.Errorf("edge CA without its key is used:\n%s", &d.log)
	}
}

func TestDeviceMovesItsKeysIntoTheTPM(t *testing.T) {
	d := newDevice(t)
	stop := d.run(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	plain, ca := d.read(t, "keys/identity-master"), d.read(t, "certs/edge_ca.pem")
	d.chip, d.more = newChip(t, tpmtest.Start(t)), allInTPM
	stop = d.run(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	d.wrapped(t, "keys/identity-master", "keys/encryption-master")
	key, err := d.chip.Unseal(d.read(t, "keys/identity-master"))
	if err != nil || !bytes.Equal(key, plain) {
		t.Errorf("another master key: %v", err)
	}
	if !bytes.Equal(d.read(t, "certs/edge_ca.pem"), ca) {
		t.Error("a good edge CA was replaced before its renewal")
	}
}

// writeTPMCA makes a CA for a day, with its key at a handle.
func (d *device) writeTPMCA(t *testing.T, uri string) string {
	t.Helper()
	key, err := d.chip.Generate(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plant CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(23 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return d.write(t, "ca.pem", "CERTIFICATE", der)
}

// The CA that issues has its key at a handle; the keys of what it issues rotate.
func TestRenewalsLeaveNothingInTheTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := newDPS(t)
	d := dpsDevice(t, c)
	d.chip = newChip(t, tcti)
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
[edge_ca]
method = "local_ca"
auto_renew = { rotate_key = false, threshold = "82798 s", retry = "1 s" }
[cert_issuance.local_ca]
cert = "file://%s"
pk = "tpm:handle=0x81000202"`, c.URL, d.writeTPMCA(t, "tpm:handle=0x81000202")) + allInTPM
	stop := d.run(t)
	d.exists(t, "home/keys/edge_ca.pem")
	var keys []string
	edge := map[string]bool{}
	d.eventually(t, "three keys of the identity", func() bool {
		block, _, _ := bytes.Cut(d.read(t, "keys/device-id.pem"), []byte("-----END TSS2"))
		if key := string(block); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
		block, _, _ = bytes.Cut(d.read(t, "keys/edge_ca.pem"), []byte("-----END TSS2"))
		edge[string(block)] = true
		return len(keys) == 3
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if len(edge) != 1 || !strings.Contains(d.log.String(), "edge CA renewed") {
		t.Errorf("%d keys of the edge CA, which stays:\n%s", len(edge), &d.log)
	}
	if len(c.peers) == 0 || c.peers[0] != "reg-1" {
		t.Errorf("registered by %q", c.peers)
	}
	if got := tpmtest.Handles(t, tcti); !slices.Equal(got, []uint32{0x81000001, 0x81000202}) {
		t.Errorf("left in the TPM: %x", got)
	}
}

// As on a token, a key that the config names is made if its place is free, and stays.
func TestNamedKeyInTheTPMStays(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := newDPS(t)
	d := dpsDevice(t, c)
	d.chip = newChip(t, tcti)
	d.source = fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = %q
id_scope = "scope1"
[provisioning.attestation]
method = "x509"
identity_pk = "tpm:handle=0x81000203"
[provisioning.attestation.identity_cert]
method = "local_ca"
common_name = "reg-1"
auto_renew = { threshold = "82798 s", retry = "1 s" }
[cert_issuance.local_ca]
cert = "file://%s"
pk = "tpm:handle=0x81000202"`, c.URL, d.writeTPMCA(t, "tpm:handle=0x81000202"))
	stop := d.run(t)
	var serials []string
	d.eventually(t, "a second certificate", func() bool {
		chain, err := pki.ParseCertificates(d.read(t, "certs/device-id.pem"))
		if err != nil {
			t.Fatal(err)
		}
		key, err := d.chip.Signer(t.Context(), "tpm:handle=0x81000203")
		if err != nil || !pki.SameKey(key.Public(), chain[0].PublicKey) {
			t.Fatalf("certificate of another key: %v", err)
		}
		if n := chain[0].SerialNumber.String(); !slices.Contains(serials, n) {
			serials = append(serials, n)
		}
		return len(serials) == 2
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := tpmtest.Handles(t, tcti); !slices.Equal(got, []uint32{0x81000001, 0x81000202, 0x81000203}) {
		t.Errorf("in the TPM: %x", got)
	}
}
