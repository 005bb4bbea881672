package dps_test

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/dps"
)

// refusedOrNil fails unless an error is one that tells the client what is wrong.
func refusedOrNil(t *testing.T, err error) {
	t.Helper()
	var refused *dps.Error
	if err != nil && (!errors.As(err, &refused) || refused.Status != 400) {
		t.Error(err)
	}
}

func FuzzParseEnrollment(f *testing.F) {
	f.Add("r", []byte(`{"registrationId":"r","attestation":{"type":"symmetricKey"},"initialTwin":{"tags":{}}}`))
	f.Add("r", []byte(`{"attestation":{"x509":{"clientCertificates":{"primary":{"certificate":"MIIB"}},"caReferences":{"primary":"x"}}}}`))
	f.Add("r", []byte(`{"attestation":{"tpm":{"endorsementKey":"AToAAQAL"}},"parentScopes":[]}`))
	f.Fuzz(func(t *testing.T, id string, body []byte) {
		refusedOrNil(t, dps.ParseEnrollment(id, body))
		refusedOrNil(t, dps.ParseGroup(id, body))
	})
}

func FuzzParseRegistration(f *testing.F) {
	f.Add("r", []byte(`{"registrationId":"r","payload":{"a":1},"tpm":{"endorsementKey":"a","storageRootKey":"b"}}`))
	f.Fuzz(func(t *testing.T, id string, body []byte) { refusedOrNil(t, dps.ParseRegistration(id, body)) })
}

func FuzzStorageKey(f *testing.F) {
	template := tpm2.RSAEKTemplate
	f.Add(tpm2.Marshal(tpm2.New2B(template)))
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append([]byte{0xff}, make([]byte, 255)...)})
	f.Add(tpm2.Marshal(tpm2.New2B(template)))
	f.Add(tpm2.Marshal(tpm2.New2B(tpm2.ECCSRKTemplate)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := base64.StdEncoding.EncodeToString(raw)
		if dps.ParseStorageKey(text) == nil {
			// Whatever is taken for a key can be used, or is an error.
			_ = dps.WrapFor(text, make([]byte, 32))
		}
	})
}
