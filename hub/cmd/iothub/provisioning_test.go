package main

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func certificateFile(t *testing.T, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDevicesWithCertificates(t *testing.T) {
	h := startHub(t)
	ca := certtest.New(t, "ca", time.Now(), nil)
	leaf := ca.Leaf(t, "d", time.Now())
	file := certificateFile(t, leaf.Raw)
	s1, s256 := devicecert.Thumbprints(leaf)
	if out := h.must("device", "create", "d", "--auth", "x509", "--certificate", file, "--secondary-thumbprint", s1); !strings.Contains(out, "x509=true") {
		t.Error(out)
	}
	if out := h.must("device", "show", "d"); !strings.Contains(out, s256) || !strings.Contains(out, s1) {
		t.Error(out)
	}
	h.must("device", "create", "e", "--auth", "x509-ca")
	if out := h.must("device", "show", "e"); !strings.Contains(out, "certificateAuthority") {
		t.Error(out)
	}
	for name, args := range map[string][]string{
		"thumbprint without x509": {"--primary-thumbprint", s1},
		"both forms":              {"--auth", "x509", "--certificate", file, "--primary-thumbprint", s1},
		"no certificate in it":    {"--auth", "x509", "--certificate", certificateFile(t, []byte("x"))},
	} {
		if _, errOut, code := h.do(append([]string{"device", "create", "f"}, args...)...); code != exitUsage {
			t.Errorf("%s: exit %d: %s", name, code, errOut)
		}
	}
	h.must("certificate", "add", "ca", certificateFile(t, ca.Cert.Raw), "--unverified")
	if out := h.must("certificate", "list"); !strings.Contains(out, "ca    false") || !strings.Contains(out, "CN=ca") {
		t.Error(out)
	}
	code := strings.TrimSpace(h.must("certificate", "code", "ca"))
	if _, _, exit := h.do("certificate", "verify", "ca", file); exit != exitRefused {
		t.Errorf("wrong proof: exit %d", exit)
	}
	h.must("certificate", "verify", "ca", certificateFile(t, ca.Leaf(t, code, time.Now()).Raw))
	if out := h.must("certificate", "list", "--output", "json"); !strings.Contains(out, `"isVerified": true`) {
		t.Error(out)
	}
	h.must("certificate", "delete", "ca")
	if out := h.must("certificate", "list", "--output", "json"); strings.TrimSpace(out) != "[]" {
		t.Error(out)
	}
}

func TestEnrollments(t *testing.T) {
	h := startHub(t)
	ca := certtest.New(t, "ca", time.Now(), nil)
	caFile, leafFile := certificateFile(t, ca.Cert.Raw), certificateFile(t, ca.Leaf(t, "c", time.Now()).Raw)
	h.must("device", "create", "edge", "--edge")
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	out := h.must("enrollment", "add", "r", "--device-id", "d", "--edge", "--parent", "edge", "--primary-key", key,
		"--initial-twin", `{"tags":{"a":1}}`, "--reprovision", "reset")
	var e rest.Enrollment
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.DeviceID != "d" || !e.Capabilities.IoTEdge || len(e.ParentScopes) != 1 ||
		e.Attestation.SymmetricKey.PrimaryKey.Reveal() != key || e.Attestation.SymmetricKey.SecondaryKey == "" ||
		!e.ReprovisionPolicy.UpdateHubAssignment || e.ReprovisionPolicy.MigrateDeviceData {
		t.Errorf("%s, %v", out, err)
	}
	h.must("enrollment", "add", "c", "--certificate", leafFile, "--disabled", "--reprovision", "never")
	if table := h.must("enrollment", "list"); !strings.Contains(table, "x509") || !strings.Contains(table, "disabled") || !strings.Contains(table, "no") {
		t.Error(table)
	}
	if out := h.must("enrollment", "show", "c"); !strings.Contains(out, `"clientCertificates"`) {
		t.Error(out)
	}
	h.must("enrollment", "delete", "c")
	h.must("enrollment-group", "add", "keys", "--primary-key", key)
	want := sas.Key(make([]byte, 32)).Derive("dev1").Base64()
	if got := strings.TrimSpace(h.must("enrollment-group", "key", "keys", "dev1")); got != want {
		t.Errorf("derived key %s", got)
	}
	h.must("enrollment-group", "add", "certs", "--certificate", caFile)
	h.must("enrollment-group", "add", "refs", "--authority", "ca1", "--authority", "ca2")
	if table := h.must("enrollment-group", "list"); strings.Count(table, "x509") != 2 {
		t.Error(table)
	}
	if out := h.must("enrollment-group", "show", "refs"); !strings.Contains(out, `"secondary": "ca2"`) {
		t.Error(out)
	}
	if out := h.must("enrollment-group", "show", "refs", "--registrations"); strings.TrimSpace(out) != "[]" {
		t.Error(out)
	}
	h.must("enrollment-group", "delete", "refs")
	for name, args := range map[string][]string{
		"keys and certificates": {"enrollment", "add", "x", "--primary-key", key, "--certificate", leafFile},
		"TPM and keys":          {"enrollment", "add", "x", "--primary-key", key, "--endorsement-key", "AA"},
		"parent is a leaf":      {"enrollment-group", "add", "x", "--parent", "leaf"},
		"twin is no JSON":       {"enrollment", "add", "x", "--initial-twin", "x"},
	} {
		if name == "parent is a leaf" {
			h.must("device", "create", "leaf")
		}
		if _, errOut, code := h.do(args...); code != exitUsage {
			t.Errorf("%s: exit %d: %s", name, code, errOut)
		}
	}
	for name, args := range map[string][]string{
		"endorsement key": {"enrollment", "add", "x", "--endorsement-key", "AA"},
		"twice":           {"enrollment", "add", "r"},
		"unknown":         {"enrollment-group", "show", "refs"},
	} {
		if _, errOut, code := h.do(args...); code != exitRefused {
			t.Errorf("%s: exit %d: %s", name, code, errOut)
		}
	}
}
