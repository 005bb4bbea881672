package tpmtest

import (
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// dial opens the TPM of Start.
func dial(t *testing.T, tcti string) transport.TPMCloser {
	t.Helper()
	c, err := linuxudstpm.Open(strings.TrimPrefix(tcti, "swtpm:path="))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Clear clears a TPM: all keys of its owner are lost, and what they wrapped.
func Clear(t *testing.T, tcti string) {
	t.Helper()
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(dial(t, tcti))
	must(t, err)
}

// Handles returns what is in a TPM: persistent and transient objects, and sessions.
func Handles(t *testing.T, tcti string) (out []uint32) {
	t.Helper()
	for _, first := range []uint32{0x81000000, 0x80000000, 0x02000000, 0x03000000} {
		answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(dial(t, tcti))
		must(t, err)
		handles, err := answer.CapabilityData.Data.Handles()
		must(t, err)
		for _, h := range handles.Handle {
			out = append(out, uint32(h))
		}
	}
	return out
}

// PutRSA makes an RSA key for signatures at a handle, as an operator does.
func PutRSA(t *testing.T, tcti string, at uint32) {
	t.Helper()
	put(t, tcti, at, tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
	}, nil)
}

// PutHMAC puts a secret key for HMAC-SHA256 at a handle.
func PutHMAC(t *testing.T, tcti string, at uint32, key []byte) {
	t.Helper()
	public, _ := hmacKey(t, key)
	public.ObjectAttributes.FixedTPM, public.ObjectAttributes.FixedParent = true, true
	public.Unique = tpm2.TPMUPublicID{}
	put(t, tcti, at, *public, key)
}

// put makes a primary object persistent.
func put(t *testing.T, tcti string, at uint32, template tpm2.TPMTPublic, secret []byte) {
	t.Helper()
	c := dial(t, tcti)
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	cmd := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(template)}
	if secret != nil {
		cmd.InSensitive = tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}}
	}
	made, err := cmd.Execute(c)
	must(t, err)
	_, err = tpm2.EvictControl{
		Auth: owner, ObjectHandle: tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, PersistentHandle: tpm2.TPMHandle(at),
	}.Execute(c)
	must(t, err)
	_, err = tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(c)
	must(t, err)
}
