package judge_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/judge"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/verifytest"
)

const (
	robot  = "https://build.example.com/team/app/release"
	issuer = "https://token.example.com"
)

func TestKeylessSignatures(t *testing.T) {
	must := func(s verify.Signature, err error) verify.Signature {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store, err := verifytest.NewSigstore()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := verifytest.NewSigstore()
	if err != nil {
		t.Fatal(err)
	}
	key, err := verifytest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other := image
	other.Digest = "sha256:" + strings.Repeat("ab", 32)
	good := must(store.Bundle(image, robot, issuer, verifytest.SignPredicate, true))
	altered := must(verifytest.Alter(good, func(b map[string]any) {
		envelope := b["dsseEnvelope"].(map[string]any)
		text, _ := base64.StdEncoding.DecodeString(envelope["payload"].(string))
		envelope["payload"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(text), `"predicate":{}`, `"predicate":{"x":1}`, 1)))
	}))
	unlogged := must(verifytest.Alter(good, func(b map[string]any) {
		delete(b["verificationMaterial"].(map[string]any), "tlogEntries")
	}))
	undated := must(verifytest.Alter(good, func(b map[string]any) {
		delete(b["verificationMaterial"].(map[string]any), "timestampVerificationData")
	}))
	want := "issuer=" + issuer + ", subject=" + robot
	for name, tc := range map[string]struct {
		signature  verify.Signature
		trust      [][]byte
		identities []string
		refused    string // "" is trusted
	}{
		"good":                     {good, [][]byte{store.Root}, []string{want}, ""},
		"a pattern":                {good, [][]byte{store.Root}, []string{"issuer=" + issuer + ", subject=https://build.example.com/team/*"}, ""},
		"one of two identities":    {good, [][]byte{store.Root}, []string{"issuer=https://a.b, subject=x@a.b", want}, ""},
		"one of two roots":         {good, [][]byte{stranger.Root, store.Root}, []string{want}, ""},
		"beside a key":             {good, [][]byte{key.Public, store.Root}, []string{want}, ""},
		"a key beside a root":      {must(key.Bundle(image, verifytest.SignPredicate)), [][]byte{key.Public, store.Root}, []string{want}, ""},
		"another subject":          {good, [][]byte{store.Root}, []string{"issuer=" + issuer + ", subject=https://build.example.com/other/*"}, "none of 1"},
		"a dot is a dot":           {good, [][]byte{store.Root}, []string{"issuer=" + issuer + ", subject=https://build.example.com/team.app/release"}, "none of 1"},
		"the beginning of one":     {good, [][]byte{store.Root}, []string{"issuer=" + issuer + ", subject=https://build.example.com/team"}, "none of 1"},
		"another issuer":           {good, [][]byte{store.Root}, []string{"issuer=https://token.example.org, subject=" + robot}, "none of 1"},
		"nobody named":             {good, [][]byte{store.Root}, nil, "names no identities"},
		"everybody named":          {good, [][]byte{store.Root}, []string{"issuer=*, subject=*"}, "lets in everybody"},
		"another image":            {must(store.Bundle(other, robot, issuer, verifytest.SignPredicate, true)), [][]byte{store.Root}, []string{want}, "none of 1"},
		"an attestation":           {must(store.Bundle(image, robot, issuer, "https://slsa.dev/provenance/v1", true)), [][]byte{store.Root}, []string{want}, "slsa.dev"},
		"another authority":        {must(stranger.Bundle(image, robot, issuer, verifytest.SignPredicate, true)), [][]byte{store.Root}, []string{want}, "none of 1"},
		"altered":                  {altered, [][]byte{store.Root}, []string{want}, "none of 1"},
		"not in the log":           {unlogged, [][]byte{store.Root}, []string{want}, "none of 1"},
		"not dated":                {undated, [][]byte{store.Root}, []string{want}, "timestamps"},
		"without proof of the log": {must(store.Bundle(image, robot, issuer, verifytest.SignPredicate, false)), [][]byte{store.Root}, []string{want}, "none of 1"},
		"certificate not logged":   {good, [][]byte{store.RootWithLog}, []string{want}, "none of 1"},
		"keys alone":               {good, [][]byte{key.Public}, nil, "by no key that is trusted"},
		"a useless root":           {good, [][]byte{[]byte(`{"mediaType":"x"}`)}, []string{want}, "trust file 1"},
		"rubbish by a certificate": {verify.Signature{Form: verify.FormBundle, Payload: []byte(`{"verificationMaterial":{"certificate":{}}}`)}, [][]byte{store.Root}, []string{want}, "bundle"},
	} {
		v := judge.Judge(t.Context(), verify.Request{
			Rule: verify.Cosign, Repository: "reg.example.com/a", Image: image, Trust: tc.trust, Identities: tc.identities, Signatures: []verify.Signature{tc.signature},
		})
		switch {
		case tc.refused == "" && !v.Trusted:
			t.Errorf("%s: refused: %s", name, v.Reason)
		case tc.refused != "" && (v.Trusted || !strings.Contains(v.Reason, tc.refused)):
			t.Errorf("%s: %+v, want a refusal for %q", name, v, tc.refused)
		}
		if name == "good" && v.By != robot+" of "+issuer {
			t.Errorf("by %q", v.By)
		}
	}
}
