package judge_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/judge"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/verifytest"
)

var image = verify.Descriptor{
	MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 100,
	Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}

func TestCertificatesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := verifytest.NewAuthority("signer", 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Sign(t.Context(), image, "application/jose+json")
		if err != nil {
			t.Fatal(err)
		}
		r := verify.Request{Rule: verify.Notation, Repository: "reg.example.com/a", Image: image, Trust: [][]byte{a.Root}, Signatures: []verify.Signature{s}}
		if v := judge.Judge(t.Context(), r); !v.Trusted || !strings.Contains(v.By, "CN=signer") {
			t.Fatalf("%+v", v)
		}
		time.Sleep(25 * time.Hour) // the clock of the bubble
		if v := judge.Judge(t.Context(), r); v.Trusted || !strings.Contains(v.Reason, "expired") && !strings.Contains(v.Reason, "validity period") {
			t.Fatalf("after the certificate's end: %+v", v)
		}
	})
}

func TestUselessTrust(t *testing.T) {
	for _, tc := range []struct {
		rule  verify.Rule
		trust string
		want  string
	}{
		{verify.Notation, "", "no certificate"},
		{verify.Notation, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "where certificates belong"},
		{verify.Notation, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "trust file 1"},
		{verify.Cosign, "", "no public key"},
		{verify.Cosign, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "where public keys belong"},
		{verify.Any, "", "asks for no signature"},
	} {
		v := judge.Judge(t.Context(), verify.Request{Rule: tc.rule, Image: image, Trust: [][]byte{[]byte(tc.trust)}})
		if v.Trusted || !strings.Contains(v.Reason, tc.want) {
			t.Errorf("%s %q: %+v, want %q", tc.rule, tc.trust, v, tc.want)
		}
	}
}

// FuzzJudge: nothing that a registry may hold is trusted, and nothing brings the
// judge down.
func FuzzJudge(f *testing.F) {
	a, err := verifytest.NewAuthority("signer", 24*time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	key, err := verifytest.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	stranger, err := verifytest.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	bundle, err := stranger.Bundle(image, verifytest.SignPredicate)
	if err != nil {
		f.Fatal(err)
	}
	store, err := verifytest.NewSigstore()
	if err != nil {
		f.Fatal(err)
	}
	keyless, err := store.Bundle(image, "https://build.example.com/other", "https://token.example.com", verifytest.SignPredicate, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("bundle", "", keyless.Payload, "")
	f.Add("notation", "application/jose+json", []byte(`{"payload":"","protected":""}`), "")
	f.Add("notation", "application/cose", []byte{0xd2, 0x84}, "")
	f.Add("bundle", "", bundle.Payload, "")
	f.Add("simple-signing", "", []byte(`{}`), "AAAA")
	f.Fuzz(func(t *testing.T, form, mediaType string, payload []byte, sig string) {
		s := []verify.Signature{{Form: form, MediaType: mediaType, Payload: payload, Signature: sig}}
		for rule, trust := range map[verify.Rule][]byte{verify.Notation: a.Root, verify.Cosign: key.Public} {
			if judge.Judge(t.Context(), verify.Request{Rule: rule, Repository: "reg.example.com/a", Image: image, Trust: [][]byte{trust}, Signatures: s}).Trusted {
				t.Fatalf("%s trusts %q", rule, payload)
			}
		}
		if judge.Judge(t.Context(), verify.Request{
			Rule: verify.Cosign, Repository: "reg.example.com/a", Image: image, Trust: [][]byte{store.Root}, Signatures: s,
			Identities: []string{"issuer=https://token.example.com, subject=https://build.example.com/team/*"},
		}).Trusted {
			t.Fatalf("a root trusts %q", payload)
		}
	})
}
