//go:build device

package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// verifies has a key sign in each form that TLS and certificates use.
func verifies(t *testing.T, key crypto.Signer) {
	t.Helper()
	digest := sha256.Sum256([]byte("to be signed"))
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(pub, digest[:], sig) {
			t.Errorf("EC signature: %v", err)
		}
	case *rsa.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
			t.Errorf("PKCS #1 signature: %v", err)
		}
		pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		sig, err = key.Sign(rand.Reader, digest[:], pss)
		if err == nil {
			err = rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, pss)
		}
		if err != nil {
			t.Errorf("PSS signature: %v", err)
		}
	default:
		t.Errorf("key of type %T", pub)
	}
}

func TestKeysAtHandles(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
	if _, err := c.Signer(t.Context(), "tpm:handle=0x81000200"); err == nil || !strings.Contains(err.Error(), "tpm:handle=0x81000200: there is no key") {
		t.Errorf("handle that is free: %v", err)
	}
	if _, err := c.HMAC(t.Context(), "tpm:handle=0x81000200", nil); err == nil || !strings.Contains(err.Error(), "there is no key") {
		t.Errorf("handle that is free: %v", err)
	}
	tpmtest.PutRSA(t, tcti, 0x81000200)
	tpmtest.PutHMAC(t, tcti, 0x81000201, []byte("the device's key"))
	theirs, err := c.Signer(t.Context(), "tpm:handle=0x81000200")
	if err != nil {
		t.Fatal(err)
	}
	verifies(t, theirs)
	same, err := c.Generate(t.Context(), "tpm:handle=0x81000200")
	if err != nil || !theirs.Public().(*rsa.PublicKey).Equal(same.Public()) {
		t.Errorf("a key that was there is replaced: %v", err)
	}
	want, _ := sas.Key("the device's key").Sign([]byte("x"))
	if got, err := c.HMAC(t.Context(), "tpm:handle=0x81000201", []byte("x")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("HMAC: %x, %v", got, err)
	}
	if _, err := c.Signer(t.Context(), "tpm:handle=0x81000201"); err == nil {
		t.Error("a secret key is taken for a private one")
	}
	if _, err := c.HMAC(t.Context(), "tpm:handle=0x81000200", []byte("x")); err == nil {
		t.Error("a private key is taken for a secret one")
	}
	made, err := c.Generate(t.Context(), "tpm:handle=0x81000202")
	if err != nil {
		t.Fatal(err)
	}
	verifies(t, made)
	again, err := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100}).Signer(t.Context(), "tpm:handle=0x81000202")
	if err != nil || !made.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Errorf("made key is not found again: %v", err)
	}
	if got := tpmtest.Handles(t, tcti); !slices.Equal(got, []uint32{0x81000001, 0x81000200, 0x81000201, 0x81000202}) {
		t.Errorf("in the TPM: %x", got)
	}
}

func TestWrappedKeysTakeNoPlaceInTheTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
	var texts [][]byte
	for range 5 {
		key, text, err := c.NewKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		verifies(t, key)
		again, err := open(t, tpm.Options{TCTI: tcti}).OpenKey(t.Context(), append([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), text...))
		if err != nil || !key.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
			t.Fatalf("key is not found again: %v", err)
		}
		verifies(t, again)
		texts = append(texts, text)
	}
	if bytes.Equal(texts[0], texts[1]) {
		t.Error("two keys are the same")
	}
	sealed, err := c.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Unseal(sealed); err != nil || string(got) != "secret" {
		t.Errorf("unsealed %q, %v", got, err)
	}
	if _, err := c.Unseal(texts[0]); !errors.Is(err, tpm.ErrText) {
		t.Errorf("a key is unsealed: %v", err)
	}
	if _, err := c.OpenKey(t.Context(), sealed); !errors.Is(err, tpm.ErrText) {
		t.Errorf("sealed data is a key: %v", err)
	}
	if _, err := c.Seal(make([]byte, 129)); err == nil {
		t.Error("sealed more than a TPM takes")
	}
	if got := tpmtest.Handles(t, tcti); !slices.Equal(got, []uint32{0x81000001}) {
		t.Errorf("left in the TPM: %x", got)
	}
}

func TestWhatAnotherTPMHasWrappedIsLost(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := open(t, tpm.Options{TCTI: tcti})
	key, text, err := c.NewKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	other := tpmtest.Start(t)
	tpmtest.Clear(t, tcti)
	for name, where := range map[string]string{"cleared": tcti, "another": other} {
		c := open(t, tpm.Options{TCTI: where})
		if _, err := c.OpenKey(t.Context(), text); !errors.Is(err, tpm.ErrForeign) {
			t.Errorf("%s TPM: key: %v", name, err)
		}
		if _, err := c.Unseal(sealed); !errors.Is(err, tpm.ErrForeign) {
			t.Errorf("%s TPM: sealed: %v", name, err)
		}
		if got := tpmtest.Handles(t, where); !slices.Equal(got, []uint32{0x81000001}) {
			t.Errorf("%s TPM holds %x", name, got)
		}
	}
	digest := sha256.Sum256(nil)
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrForeign) {
		t.Errorf("key in use when the TPM was cleared: %v", err)
	}
}
