package tpm_test

import (
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name  string
		opt   tpm.Options
		valid bool
	}{
		{"device", tpm.Options{TCTI: "device", AuthKeyIndex: 0x100}, true},
		{"device with path", tpm.Options{TCTI: "device:/dev/tpm1"}, true},
		{"socket", tpm.Options{TCTI: "swtpm:path=/run/tpm"}, true},
		{"network", tpm.Options{TCTI: "swtpm:host=127.0.0.1,port=2321"}, true},
		{"relative path", tpm.Options{TCTI: "device:tpm1"}, false},
		{"unknown kind", tpm.Options{TCTI: "mssim:host=x"}, false},
		{"unknown parameter", tpm.Options{TCTI: "swtpm:hots=x"}, false},
		{"index too large", tpm.Options{TCTI: "device", AuthKeyIndex: 0x800000}, false},
		{"index of the storage root key", tpm.Options{TCTI: "device", AuthKeyIndex: 1}, false},
		{"index of the endorsement key", tpm.Options{TCTI: "device", AuthKeyIndex: 0x10001}, false},
	} {
		if _, err := tpm.New(c.opt); (err == nil) != c.valid {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTPMThatIsNotThere(t *testing.T) {
	c, err := tpm.New(tpm.Options{TCTI: "swtpm:path=" + t.TempDir() + "/none", AuthKeyIndex: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(nil); err == nil || !strings.Contains(err.Error(), "open TPM") {
		t.Error(err)
	}
	if err := c.Import([]byte("no package")); err == nil || !strings.Contains(err.Error(), "credential package") {
		t.Error(err)
	}
}

func FuzzPackage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 1, 0, 1, 2, 0, 1, 3, 0, 0, 0, 1, 5, 0, 0})
	f.Add([]byte("\x00\x01a\x00\x01b\x00\x01c\x00\x01d\x00\x2e\x00\x08\x00\x0b\x00\x04\x04\x40\x00\x00\x00\x05\x00\x0b\x00\x20012345678901234567890123456789AB"))
	f.Fuzz(func(_ *testing.T, blob []byte) {
		_ = tpm.ParsePackage(blob)
	})
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]uint32{
		"tpm:handle=0x81000200": 0x81000200, "tpm:handle=2164261376": 0x81000200, "tpm:handle=0x81FFFFFF": 0x81FFFFFF,
		"tpm:": 0, "tpm:handle=": 0, "tpm:handle=0x200": 0, "tpm:handle=0x82000000": 0, "tpm:handle=0x181000200": 0, "tpm:index=1": 0,
		"tpm:handle=0x81000001": 0, "tpm:handle=0x81010001": 0, "pkcs11:object=a": 0,
	} {
		if got, err := tpm.ParseURI(uri); got != want || (err == nil) != (want != 0) {
			t.Errorf("%s: 0x%x, %v", uri, got, err)
		}
	}
}

func TestTextsThatNoTPMHasWrapped(t *testing.T) {
	c, err := tpm.New(tpm.Options{TCTI: "swtpm:path=" + t.TempDir() + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "key", "-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"} {
		if _, err := c.OpenKey(t.Context(), []byte(text)); !errors.Is(err, tpm.ErrText) {
			t.Errorf("key %q: %v", text, err)
		}
		if _, err := c.Unseal([]byte(text)); !errors.Is(err, tpm.ErrText) {
			t.Errorf("sealed %q: %v", text, err)
		}
	}
	if _, err := c.Seal(nil); err == nil || strings.Contains(err.Error(), "open TPM") {
		t.Errorf("sealed nothing: %v", err)
	}
}

func FuzzWrapped(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("0\x1a\x06\x06\x67\x81\x05\x0a\x01\x03\xa0\x03\x01\x01\xff\x02\x05\x00\x81\x00\x00\x01\x04\x02\x00\x00\x04\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
		if err := tpm.ParseWrapped(text); err != nil && !errors.Is(err, tpm.ErrText) {
			t.Error(err)
		}
	})
}
