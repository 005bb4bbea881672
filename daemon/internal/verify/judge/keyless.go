package judge

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// keyless judges signatures by keys that lived for one signature only: a certificate
// says whose it was, and a log or a time stamp that it was used while that was valid.
// Authorities and logs are those of files on the device; nothing is asked of them.
type keyless struct {
	verifiers []*sigverify.Verifier
	policy    []sigverify.PolicyOption
}

// newKeyless returns nil if there is no root. A file of roots is told from one of keys
// by its form.
func newKeyless(r verify.Request) (*keyless, error) {
	k := &keyless{}
	for i, data := range r.Trust {
		if !verify.IsTrustedRoot(data) {
			continue
		}
		trusted, err := root.NewTrustedRootFromJSON(data)
		if err != nil {
			return nil, fmt.Errorf("trust file %d: %w", i+1, err)
		}
		options := []sigverify.VerifierOption{sigverify.WithTransparencyLog(1), sigverify.WithObserverTimestamps(1)}
		if len(trusted.CTLogs()) > 0 {
			options = append(options, sigverify.WithSignedCertificateTimestamps(1))
		}
		v, err := sigverify.NewVerifier(trusted, options...)
		if err != nil {
			return nil, fmt.Errorf("trust file %d: %w", i+1, err)
		}
		k.verifiers = append(k.verifiers, v)
	}
	if len(k.verifiers) == 0 {
		return nil, nil
	}
	for _, text := range r.Identities {
		issuer, subject, err := verify.ParseIdentity(text)
		if err != nil {
			return nil, err
		}
		id, err := sigverify.NewShortCertificateIdentity("", issuer, "", subject)
		if err != nil {
			return nil, fmt.Errorf("identity %q: %w", text, err)
		}
		k.policy = append(k.policy, sigverify.WithCertificateIdentity(id))
	}
	if len(k.policy) == 0 {
		return nil, errors.New("the policy names no identities: everybody has a certificate of such an authority")
	}
	return k, nil
}

// byCertificate tells bundles of keyless signatures from those by a key.
func byCertificate(data []byte) bool {
	var b struct {
		Material struct {
			Certificate json.RawMessage `json:"certificate"`
			Chain       json.RawMessage `json:"x509CertificateChain"`
		} `json:"verificationMaterial"`
	}
	return json.Unmarshal(data, &b) == nil && (len(b.Material.Certificate) > 0 || len(b.Material.Chain) > 0)
}

// judge returns who signed.
func (k *keyless) judge(data []byte, digest string) (string, error) {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	algorithm, text, _ := strings.Cut(digest, ":")
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) == 0 {
		return "", fmt.Errorf("digest %q of the image", digest)
	}
	policy := sigverify.NewPolicy(sigverify.WithArtifactDigest(algorithm, sum), k.policy...)
	var errs []error
	for _, v := range k.verifiers {
		result, err := v.Verify(&b, policy)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if result.Statement == nil || result.Statement.GetPredicateType() != signPredicate {
			return "", fmt.Errorf("signed statement is a %q", result.Statement.GetPredicateType())
		}
		if result.Signature == nil || result.Signature.Certificate == nil {
			return "", errors.New("it was not made with a certificate")
		}
		c := result.Signature.Certificate
		return c.SubjectAlternativeName + " of " + c.Issuer, nil
	}
	return "", errors.Join(errs...)
}

// onlyKeys leaves out the files of roots.
func onlyKeys(files [][]byte) (out [][]byte) {
	for _, data := range files {
		if !verify.IsTrustedRoot(data) {
			out = append(out, bytes.Clone(data))
		}
	}
	return out
}
