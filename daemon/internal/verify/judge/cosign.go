package judge

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// key is a public key that is trusted.
type key struct {
	verifier signature.Verifier
	name     string
}

// newCosign checks that a trusted key signed a statement about the image's digest, or
// an identity that is trusted, by a certificate.
func newCosign(r verify.Request) (func(context.Context, verify.Signature) (string, error), error) {
	identities, err := newKeyless(r)
	if err != nil {
		return nil, err
	}
	keys, err := publicKeys(onlyKeys(r.Trust), identities == nil)
	if err != nil {
		return nil, err
	}
	return func(_ context.Context, s verify.Signature) (string, error) {
		switch s.Form {
		case verify.FormSimpleSigning:
			return simpleSigning(keys, s, r.Image.Digest)
		case verify.FormBundle:
			if identities != nil && byCertificate(s.Payload) {
				return identities.judge(s.Payload, r.Image.Digest)
			}
			return keyBundle(keys, s.Payload, r.Image.Digest)
		}
		return "", fmt.Errorf("signature of form %q", s.Form)
	}, nil
}

func publicKeys(files [][]byte, needed bool) ([]key, error) {
	var out []key
	for i, data := range files {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
			if err != nil {
				return nil, fmt.Errorf("trust file %d: a %s where public keys belong: %w", i+1, block.Type, err)
			}
			v, err := signature.LoadVerifier(pub, crypto.SHA256)
			if err != nil {
				return nil, fmt.Errorf("trust file %d: %w", i+1, err)
			}
			id, err := cryptoutils.SKID(pub)
			if err != nil {
				return nil, fmt.Errorf("trust file %d: %w", i+1, err)
			}
			out = append(out, key{v, fmt.Sprintf("key %x", id)})
		}
	}
	if len(out) == 0 && needed {
		return nil, errors.New("the trust files hold no public key")
	}
	return out, nil
}

// signedBy finds the key that made a signature.
func signedBy(keys []key, message, sig []byte) (string, error) {
	for _, k := range keys {
		if k.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil {
			return k.name, nil
		}
	}
	return "", errors.New("it is by no key that is trusted, or was altered")
}

// simpleSigning is the form of cosign up to version 2: a signature over a document
// that names the digest.
func simpleSigning(keys []key, s verify.Signature, digest string) (string, error) {
	sig, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	by, err := signedBy(keys, s.Payload, sig)
	if err != nil {
		return "", err
	}
	var doc struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.Payload, &doc); err != nil {
		return "", fmt.Errorf("signed document: %w", err)
	}
	if t := doc.Critical.Type; t != "cosign container image signature" {
		return "", fmt.Errorf("signed document is a %q", t)
	}
	if doc.Critical.Image.Digest != digest {
		return "", fmt.Errorf("it is for another image, %s", doc.Critical.Image.Digest)
	}
	return by, nil
}

// inToto is the type of what a bundle signs, and signPredicate that of what cosign
// says of an image in it. Attestations, such as of where an image comes from, have
// the same form and are no signatures.
const (
	inToto        = "application/vnd.in-toto+json"
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// keyBundle is the form of cosign from version 3: an envelope (DSSE) around a statement
// whose subject is the digest.
func keyBundle(keys []key, data []byte, digest string) (string, error) {
	var b struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	e := b.Envelope
	if e.PayloadType != inToto || len(e.Signatures) != 1 {
		return "", fmt.Errorf("bundle: %d signatures over %q", len(e.Signatures), e.PayloadType)
	}
	signed := fmt.Sprintf("DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
	by, err := signedBy(keys, []byte(signed), e.Signatures[0].Sig)
	if err != nil {
		return "", err
	}
	var st struct {
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(e.Payload, &st); err != nil {
		return "", fmt.Errorf("signed statement: %w", err)
	}
	if st.PredicateType != signPredicate {
		return "", fmt.Errorf("signed statement is a %q", st.PredicateType)
	}
	algorithm, hex, _ := strings.Cut(digest, ":")
	for _, s := range st.Subject {
		if hex != "" && s.Digest[algorithm] == hex {
			return by, nil
		}
	}
	return "", errors.New("it is for another image")
}
