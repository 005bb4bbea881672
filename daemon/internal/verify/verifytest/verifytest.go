// Package verifytest signs images for tests, with the libraries of the signing
// tools, and puts the signatures where those put them.
package verifytest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// Authority is a root and one certificate for signing code below it.
type Authority struct {
	Root []byte // PEM
	key  *ecdsa.PrivateKey
	leaf []*x509.Certificate
}

// NewAuthority makes one whose signing certificate is valid for a time from now.
func NewAuthority(subject string, valid time.Duration) (*Authority, error) {
	now := time.Now()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{"Test"}, CommonName: subject + " root", Province: []string{"BY"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{"Test"}, CommonName: subject, Province: []string{"BY"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	chain, err := x509.ParseCertificates(append(leafDER, rootDER...))
	if err != nil {
		return nil, err
	}
	return &Authority{
		Root: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), key: key, leaf: chain,
	}, nil
}

// Sign makes a Notary Project signature of mediaType for an image.
func (a *Authority) Sign(ctx context.Context, image verify.Descriptor, mediaType string) (verify.Signature, error) {
	s, err := signer.NewGenericSigner(a.key, a.leaf)
	if err != nil {
		return verify.Signature{}, err
	}
	desc := ocispec.Descriptor{MediaType: image.MediaType, Digest: digest.Digest(image.Digest), Size: image.Size}
	envelope, _, err := s.Sign(ctx, desc, notation.SignerSignOptions{SignatureMediaType: mediaType})
	return verify.Signature{Form: verify.FormNotation, MediaType: mediaType, Payload: envelope}, err
}

// Key is a signing key as cosign has them.
type Key struct {
	Public []byte // PEM
	signer signature.SignerVerifier
}

// NewKey makes one.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	s, err := signature.LoadSignerVerifier(private, crypto.SHA256)
	return &Key{Public: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), signer: s}, err
}

// Sign makes a signature in the form of cosign 2.
func (k *Key) Sign(image verify.Descriptor) (verify.Signature, error) {
	doc := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, image.Digest)
	sig, err := k.signer.SignMessage(strings.NewReader(doc))
	return verify.Signature{Form: verify.FormSimpleSigning, Payload: []byte(doc), Signature: base64.StdEncoding.EncodeToString(sig)}, err
}

// Bundle makes a signature in the form of cosign 3, or with another predicate an
// attestation.
func (k *Key) Bundle(image verify.Descriptor, predicate string) (verify.Signature, error) {
	const kind = "application/vnd.in-toto+json"
	_, hex, _ := strings.Cut(image.Digest, ":")
	st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, hex, predicate)
	sig, err := k.signer.SignMessage(strings.NewReader(fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(st), st)))
	if err != nil {
		return verify.Signature{}, err
	}
	data, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "test"}},
		"dsseEnvelope":         map[string]any{"payload": []byte(st), "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}}},
	})
	return verify.Signature{Form: verify.FormBundle, Payload: data}, err
}

// SignPredicate is what cosign 3 says of an image that it signs.
const SignPredicate = "https://sigstore.dev/cosign/sign/v1"

// Raw is content with a media type that can be pushed.
type Raw struct {
	Data []byte
	Type types.MediaType
}

// RawManifest implements remote.Taggable.
func (r Raw) RawManifest() ([]byte, error) { return r.Data, nil }

// MediaType says how to push it.
func (r Raw) MediaType() (types.MediaType, error) { return r.Type, nil }

// Push puts a signature into the image's repository, as a referrer or, in the form
// of cosign 2, under the tag.
func Push(repo name.Repository, image verify.Descriptor, s verify.Signature) error {
	if s.Form == verify.FormSimpleSigning {
		return push(repo, repo.Tag(strings.Replace(image.Digest, ":", "-", 1)+".sig"), nil, s)
	}
	return Refer(repo, image, s)
}

// Refer puts a signature into the repository as a referrer of the image.
func Refer(repo name.Repository, image verify.Descriptor, s verify.Signature) error {
	return push(repo, nil, &image, s)
}

func push(repo name.Repository, ref name.Reference, subject *verify.Descriptor, s verify.Signature) error {
	artifact, layerType, notes := "application/vnd.cncf.notary.signature", s.MediaType, map[string]string(nil)
	switch s.Form {
	case verify.FormSimpleSigning:
		artifact, layerType = "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.dev.cosign.simplesigning.v1+json"
		notes = map[string]string{"dev.cosignproject.cosign/signature": s.Signature}
	case verify.FormBundle:
		artifact, layerType = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle.v0.3+json"
	}
	descs := make([]map[string]any, 0, 2)
	for _, part := range []struct {
		data  []byte
		kind  string
		notes map[string]string
	}{{[]byte("{}"), artifact, nil}, {s.Payload, layerType, notes}} {
		layer := static.NewLayer(part.data, types.MediaType(part.kind))
		if err := remote.WriteLayer(repo, layer); err != nil {
			return err
		}
		h, size, err := v1.SHA256(bytes.NewReader(part.data))
		if err != nil {
			return err
		}
		d := map[string]any{"mediaType": part.kind, "digest": h.String(), "size": size}
		if part.notes != nil {
			d["annotations"] = part.notes
		}
		descs = append(descs, d)
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": artifact,
		"config": descs[0], "layers": descs[1:],
	}
	if subject != nil {
		m["subject"] = subject
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	raw := Raw{data, types.OCIManifestSchema1}
	if ref == nil {
		h, _, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			return err
		}
		ref = repo.Digest(h.String())
	}
	return remote.Put(ref, raw)
}
