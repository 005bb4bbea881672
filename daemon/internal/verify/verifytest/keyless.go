package verifytest

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// Sigstore is a certificate authority for keys of one signature, with a log.
type Sigstore struct {
	// Root is its trusted_root.json, without logs of certificates; RootWithLog with one,
	// which no certificate is in.
	Root, RootWithLog []byte
	authority         *ca.VirtualSigstore
}

// NewSigstore makes one.
func NewSigstore() (*Sigstore, error) {
	authority, err := ca.NewVirtualSigstore()
	if err != nil {
		return nil, err
	}
	s := &Sigstore{authority: authority}
	if s.Root, err = trustedRoot(authority, nil); err != nil {
		return nil, err
	}
	s.RootWithLog, err = trustedRoot(authority, authority.CTLogs())
	return s, err
}

func trustedRoot(a *ca.VirtualSigstore, ct map[string]*root.TransparencyLog) ([]byte, error) {
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, a.FulcioCertificateAuthorities(), binary(ct), a.TimestampingAuthorities(), binary(a.RekorLogs()))
	if err != nil {
		return nil, err
	}
	return r.MarshalJSON()
}

// binary gives logs the form of their ids that a file has.
func binary(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
	for id, l := range logs {
		if raw, err := hex.DecodeString(id); err == nil {
			l.ID = raw
		}
	}
	return logs
}

// Bundle makes a keyless signature of an image in the form of cosign 3, or with another
// predicate an attestation. Without logged it has not the proof that the log holds it.
func (s *Sigstore) Bundle(image verify.Descriptor, subject, issuer, predicate string, logged bool) (verify.Signature, error) {
	_, digest, _ := strings.Cut(image.Digest, ":")
	st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, digest, predicate)
	e, err := s.authority.AttestAtTime(subject, issuer, []byte(st), time.Now().Add(5*time.Minute), logged)
	if err != nil {
		return verify.Signature{}, err
	}
	content, err := e.SignatureContent()
	if err != nil {
		return verify.Signature{}, err
	}
	material, err := e.VerificationContent()
	if err != nil {
		return verify.Signature{}, err
	}
	envelope := content.EnvelopeContent().RawEnvelope()
	sig, err := envelope.DecodeB64Payload()
	if err != nil {
		return verify.Signature{}, err
	}
	return pack(e, material.Certificate(), sig, content.Signature(), envelope.PayloadType)
}

func pack(e sigverify.SignedEntity, cert *x509.Certificate, payload, sig []byte, payloadType string) (verify.Signature, error) {
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: payload, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}
	entries, err := e.TlogEntries()
	if err != nil {
		return verify.Signature{}, err
	}
	for _, entry := range entries {
		if pb := entry.TransparencyLogEntry(); pb.GetKindVersion() == nil {
			pb.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
		}
		b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, entry.TransparencyLogEntry())
	}
	stamps, err := e.Timestamps()
	if err != nil {
		return verify.Signature{}, err
	}
	b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{}
	for _, stamp := range stamps {
		b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps = append(
			b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: stamp})
	}
	data, err := protojson.Marshal(b)
	return verify.Signature{Form: verify.FormBundle, Payload: data}, err
}

// Alter changes a bundle by its JSON.
func Alter(s verify.Signature, change func(bundle map[string]any)) (verify.Signature, error) {
	var m map[string]any
	if err := json.Unmarshal(s.Payload, &m); err != nil {
		return s, err
	}
	change(m)
	data, err := json.Marshal(m)
	s.Payload = data
	return s, err
}
