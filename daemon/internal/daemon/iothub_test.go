//go:build device

package daemon_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
)

// realHub is the project's IoT hub, as built by make.
type realHub struct {
	program, data, port string
	root                []byte
}

const idScope = "0ne00TEST"

func startHub(t *testing.T) *realHub {
	t.Helper()
	program, err := filepath.Abs("../../../bin/iothub")
	if err != nil {
		t.Fatal(err)
	}
	h := &realHub{program: program, data: t.TempDir()}
	var out syncBuffer
	cmd := exec.Command(program, "serve", "--data", h.data, "--hostname", "localhost", "--address", "127.0.0.1",
		"--https-port", "0", "--mqtt-port", "0", "--amqp-port", "0", "--id-scope", idScope, "--dps-assign-delay", "1s")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("iothub (make build makes it): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ready := regexp.MustCompile(`(?m)^iothub ready .* https=127\.0\.0\.1:(\d+) `)
	for deadline := time.Now().Add(30 * time.Second); h.port == ""; time.Sleep(20 * time.Millisecond) {
		if m := ready.FindStringSubmatch(out.String()); m != nil {
			h.port = m[1]
		} else if time.Now().After(deadline) {
			t.Fatalf("iothub does not become ready: %s", &out)
		}
	}
	if h.root, err = os.ReadFile(filepath.Join(h.data, "root.pem")); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *realHub) address() string { return "localhost:" + h.port }

// do runs a command against the hub and returns what it prints.
func (h *realHub) do(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(h.program, append(args, "--data", h.data, "--host", h.address())...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("iothub %v: %v\n%s", args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func TestProvisioningAtTheIoTHub(t *testing.T) {
	h := startHub(t)
	for _, c := range []struct {
		name string
		// enroll makes the enrollment of reg and returns [provisioning.attestation].
		enroll func(t *testing.T, d *device, reg string) string
	}{
		{"symmetric key", func(t *testing.T, _ *device, reg string) string {
			h.do(t, "enrollment", "add", reg, "--edge", "--primary-key", deviceKey)
			return fmt.Sprintf("method = \"symmetric_key\"\nregistration_id = %q\nsymmetric_key = { value = %q }", reg, deviceKey)
		}},
		{"key derived from that of a group", func(t *testing.T, _ *device, reg string) string {
			h.do(t, "enrollment-group", "add", "group", "--edge", "--primary-key", deviceKey)
			key := h.do(t, "enrollment-group", "key", "group", reg)
			return fmt.Sprintf("method = \"symmetric_key\"\nregistration_id = %q\nsymmetric_key = { value = %q }", reg, key)
		}},
		{"certificate in files", func(t *testing.T, d *device, reg string) string {
			cert, key := writePair(t, d.dir, &x509.Certificate{
				SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: reg}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			})
			h.do(t, "enrollment", "add", reg, "--edge", "--certificate", cert)
			return fmt.Sprintf("method = \"x509\"\nidentity_cert = \"file://%s\"\nidentity_pk = \"file://%s\"", cert, key)
		}},
		{"certificate of a local CA", func(t *testing.T, d *device, reg string) string {
			cert, key := writeCA(t, d.dir)
			h.do(t, "enrollment-group", "add", "plant", "--edge", "--certificate", cert)
			return fmt.Sprintf("method = \"x509\"\nidentity_cert = { method = \"local_ca\", common_name = %q }\n[cert_issuance.local_ca]\ncert = \"file://%s\"\npk = \"file://%s\"", reg, cert, key)
		}},
		{"TPM", func(t *testing.T, d *device, reg string) string {
			chip, err := tpm.New(tpm.Options{TCTI: tpmtest.Start(t), AuthKeyIndex: 0x100})
			if err != nil {
				t.Fatal(err)
			}
			ek, _, err := chip.PublicKeys()
			if err != nil {
				t.Fatal(err)
			}
			d.chip = chip
			h.do(t, "enrollment", "add", reg, "--edge", "--endorsement-key", base64.StdEncoding.EncodeToString(ek))
			return fmt.Sprintf("method = \"tpm\"\nregistration_id = %q", reg)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t)
			reg := "reg-" + strings.ReplaceAll(strings.ToLower(c.name), " ", "-")
			roots := filepath.Join(d.dir, "roots.pem")
			if err := os.WriteFile(roots, h.root, 0o600); err != nil {
				t.Fatal(err)
			}
			d.top = fmt.Sprintf("trust_bundle_cert = \"file://%s\"\n", roots)
			d.source = fmt.Sprintf("[provisioning]\nsource = \"dps\"\nglobal_endpoint = \"https://%s\"\nid_scope = %q\n[provisioning.attestation]\n%s",
				h.address(), idScope, c.enroll(t, d, reg))
			stop := d.run(t)
			if got := d.hubOf(t); got != "localhost/"+reg {
				t.Errorf("agent belongs to %s", got)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			h.checkRegistry(t, d, reg)
		})
	}
}

// checkRegistry makes a module identity with the device's credential.
func (h *realHub) checkRegistry(t *testing.T, d *device, reg string) {
	t.Helper()
	cfg := d.config(t)
	id, paths := cfg.Identity, credential.Keys{}
	var held *pki.Holder
	if id.Issue.Method != "" {
		var err error
		held, err = pki.OpenHolder(t.Context(), pki.HolderOptions{
			Name: "device-id", Dir: cfg.HomeDir, Policy: renewal.Default(), Template: pki.Template{Subject: pkix.Name{CommonName: reg}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var chip interface{ Sign([]byte) ([]byte, error) }
	if id.Method == config.TPMKey {
		chip = d.chip
	}
	own, err := credential.Open(t.Context(), id, paths, held, chip)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.root)
	client, err := daemon.NewRegistry(daemon.RegistryOptions{Hub: "localhost", Host: h.address(), Device: reg, Credential: own, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ring, err := keys.Open(filepath.Join(cfg.HomeDir, "keys"), keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := identity.New(identity.Options{
		Registry: client, Keys: ring, Hub: "localhost", Device: reg, CacheFile: filepath.Join(d.dir, "identities.json"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := m.Create(t.Context(), "sensor", "")
	if err != nil || made.GenerationID == "" {
		t.Fatalf("%+v, %v", made, err)
	}
	all, err := m.List(t.Context())
	if err != nil || len(all) != 3 { // with the two of the runtime
		t.Errorf("%+v, %v", all, err)
	}
}
