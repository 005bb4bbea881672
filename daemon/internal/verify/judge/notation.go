package judge

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

const storeName = "device"

// roots is a trust store of the request's certificates.
type roots []*x509.Certificate

// GetCertificates implements truststore.X509TrustStore.
func (r roots) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	if kind != truststore.TypeCA || name != storeName {
		return nil, nil
	}
	return r, nil
}

// newNotation checks integrity, chain, expiry of the signature, and that the
// certificates are valid now. Revocation is not asked for: it would need a network,
// and a device is often without one.
func newNotation(r verify.Request) (func(context.Context, verify.Signature) (string, error), error) {
	certs, err := certificates(r.Trust)
	if err != nil {
		return nil, err
	}
	identities := []string{"*"}
	if len(r.Identities) > 0 {
		identities = nil
		for _, id := range r.Identities {
			identities = append(identities, "x509.subject:"+id)
		}
	}
	doc := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: "device", RegistryScopes: []string{"*"}, TrustStores: []string{"ca:" + storeName}, TrustedIdentities: identities,
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			Override:          map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
		},
	}}}
	v, err := verifier.New(doc, roots(certs), nil)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: r.Image.MediaType, Digest: digest.Digest(r.Image.Digest), Size: r.Image.Size}
	return func(ctx context.Context, s verify.Signature) (string, error) {
		if s.Form != verify.FormNotation {
			return "", fmt.Errorf("signature of form %q", s.Form)
		}
		outcome, err := v.Verify(ctx, desc, s.Payload, notation.VerifierVerifyOptions{
			ArtifactReference: r.Repository + "@" + r.Image.Digest, SignatureMediaType: s.MediaType,
		})
		if err != nil {
			return "", err
		}
		return outcome.EnvelopeContent.SignerInfo.CertificateChain[0].Subject.String(), nil
	}, nil
}

func certificates(files [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, data := range files {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("trust file %d: a %s where certificates belong", i+1, block.Type)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("trust file %d: %w", i+1, err)
			}
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the trust files hold no certificate")
	}
	return out, nil
}
