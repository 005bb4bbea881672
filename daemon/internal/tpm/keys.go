package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Signer returns the private key at the handle of a URI, RSA or EC.
func (t *TPM) Signer(_ context.Context, uri string) (crypto.Signer, error) {
	return t.atHandle(uri, false)
}

// Generate returns the private key at the handle of a URI, and makes one on P-256
// there if the handle is free. It cannot be read out of the TPM.
func (t *TPM) Generate(_ context.Context, uri string) (crypto.Signer, error) {
	return t.atHandle(uri, true)
}

func (t *TPM) atHandle(uri string, create bool) (crypto.Signer, error) {
	n, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	at := tpm2.TPMHandle(n)
	var out crypto.Signer
	err = t.with(func(c transport.TPM) error {
		pub, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
		if err != nil && missing(err) && create {
			if err := t.makeAt(c, at); err != nil {
				return err
			}
			pub, err = tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
		}
		switch {
		case err != nil && missing(err):
			return errors.New("there is no key")
		case err != nil:
			return err
		}
		key := tpm2.AuthHandle{Handle: at, Name: pub.Name, Auth: tpm2.PasswordAuth(nil)}
		out, err = t.signer(pub.OutPublic, func(_ transport.TPM, f func(tpm2.AuthHandle) error) error { return f(key) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	return out, nil
}

// makeAt makes a key for signatures at a free handle.
func (t *TPM) makeAt(c transport.TPM, at tpm2.TPMHandle) error {
	srk, err := t.storageRoot(c)
	if err != nil {
		return err
	}
	made, err := create(c, srk, signingTemplate(), nil)
	if err != nil {
		return err
	}
	return loaded(c, srk, made.OutPublic, made.OutPrivate, func(key tpm2.AuthHandle) error {
		return t.persist(c, key.Handle, key.Name, at)
	})
}

// HMAC returns the HMAC-SHA256 of data with the secret key at the handle of a URI.
func (t *TPM) HMAC(_ context.Context, uri string, data []byte) ([]byte, error) {
	n, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	out, err := t.hmacAt(tpm2.TPMHandle(n), data)
	if errors.Is(err, errFree) {
		err = errors.New("there is no key")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	return out, nil
}

var errFree = errors.New("handle is free")

// hmacAt signs with the secret key at a handle; errFree says that there is none.
func (t *TPM) hmacAt(at tpm2.TPMHandle, data []byte) (out []byte, err error) {
	err = t.with(func(c transport.TPM) error {
		pub, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
		if err != nil && missing(err) {
			return errFree
		}
		if err != nil {
			return fmt.Errorf("read key: %w", err)
		}
		key := tpm2.AuthHandle{Handle: at, Name: pub.Name, Auth: tpm2.PasswordAuth(nil)}
		if out, err = hmac(c, key, data); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		return nil
	})
	return out, err
}

// root is the storage root key, the parent of keys.
type root struct {
	tpm2.AuthHandle
	public tpm2.TPMTPublic
}

// storageRoot returns the parent of keys, and makes it if it is missing.
func (t *TPM) storageRoot(c transport.TPM) (root, error) {
	pub, err := t.ensure(c, srkHandle, tpm2.TPMRHOwner, t.opt.Owner, tpm2.RSASRKTemplate)
	if err != nil {
		return root{}, fmt.Errorf("storage root key: %w", err)
	}
	area, err := pub.Contents()
	if err != nil {
		return root{}, fmt.Errorf("storage root key: %w", err)
	}
	name, err := tpm2.ObjectName(area)
	if err != nil {
		return root{}, fmt.Errorf("storage root key: %w", err)
	}
	return root{tpm2.AuthHandle{Handle: srkHandle, Name: *name, Auth: tpm2.PasswordAuth(nil)}, *area}, nil
}

// signingTemplate is a key on P-256: every TPM has that curve and makes such a key at
// once, while RSA takes many up to a minute.
func signingTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
	}
}

// create makes an object below the storage root key, of secret if it is not nil.
func create(c transport.TPM, srk root, template tpm2.TPMTPublic, secret []byte, s ...tpm2.Session) (*tpm2.CreateResponse, error) {
	cmd := tpm2.Create{ParentHandle: srk.AuthHandle, InPublic: tpm2.New2B(template)}
	if secret != nil {
		cmd.InSensitive = tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}}
	}
	made, err := cmd.Execute(c, s...)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	return made, nil
}

// loaded runs f with an object that is in the TPM for that time only.
func loaded(c transport.TPM, srk root, public tpm2.TPM2BPublic, private tpm2.TPM2BPrivate, f func(tpm2.AuthHandle) error) error {
	object, err := tpm2.Load{ParentHandle: srk.AuthHandle, InPublic: public, InPrivate: private}.Execute(c)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return ErrForeign
	}
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	key := tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: tpm2.PasswordAuth(nil)}
	return errors.Join(f(key), flush(c, object.ObjectHandle))
}

// signer is a private key in the TPM.
type signer struct {
	tpm    *TPM
	public crypto.PublicKey
	// use calls f with the key's handle.
	use func(c transport.TPM, f func(tpm2.AuthHandle) error) error
}

func (t *TPM) signer(public tpm2.TPM2BPublic, use func(transport.TPM, func(tpm2.AuthHandle) error) error) (*signer, error) {
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	if !area.ObjectAttributes.SignEncrypt || area.ObjectAttributes.Restricted {
		return nil, errors.New("the key is not for signatures")
	}
	pub, err := tpm2.Pub(*area)
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	switch pub.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return &signer{tpm: t, public: pub, use: use}, nil
	}
	return nil, fmt.Errorf("keys of type %T are not used", pub)
}

// Public returns the public key.
func (s *signer) Public() crypto.PublicKey { return s.public }

var hashes = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign signs a digest; the TPM makes the random numbers.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, ok := hashes[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("tpm: sign: hash %v is not used", opts.HashFunc())
	}
	scheme := tpm2.TPMAlgECDSA
	_, pss := opts.(*rsa.PSSOptions)
	if _, ok := s.public.(*rsa.PublicKey); ok {
		scheme = tpm2.TPMAlgRSASSA
		if pss {
			scheme = tpm2.TPMAlgRSAPSS
		}
	}
	var made tpm2.TPMTSignature
	err := s.tpm.with(func(c transport.TPM) error {
		return s.use(c, func(key tpm2.AuthHandle) error {
			answer, err := tpm2.Sign{
				KeyHandle: key, Digest: tpm2.TPM2BDigest{Buffer: digest},
				InScheme:   tpm2.TPMTSigScheme{Scheme: scheme, Details: tpm2.NewTPMUSigScheme(scheme, &tpm2.TPMSSchemeHash{HashAlg: hash})},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
			}.Execute(c)
			if err == nil {
				made = answer.Signature
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: sign: %w", err)
	}
	out, err := encode(made)
	if err != nil {
		return nil, fmt.Errorf("tpm: sign: %w", err)
	}
	if rsaKey, ok := s.public.(*rsa.PublicKey); ok && pss {
		// TLS wants a salt as long as the digest, and some TPMs have no choice of it.
		if rsa.VerifyPSS(rsaKey, opts.HashFunc(), digest, out, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) != nil {
			return nil, errors.New("tpm: sign: this TPM makes RSA-PSS signatures that TLS does not take: use an EC key")
		}
	}
	return out, nil
}

// encode brings a signature into the form of crypto.Signer.
func encode(s tpm2.TPMTSignature) ([]byte, error) {
	switch s.SigAlg {
	case tpm2.TPMAlgECDSA:
		p, err := s.Signature.ECDSA()
		if err != nil {
			return nil, err
		}
		return asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(p.SignatureR.Buffer), new(big.Int).SetBytes(p.SignatureS.Buffer),
		})
	case tpm2.TPMAlgRSASSA:
		p, err := s.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return bytes.Clone(p.Sig.Buffer), nil
	case tpm2.TPMAlgRSAPSS:
		p, err := s.Signature.RSAPSS()
		if err != nil {
			return nil, err
		}
		return bytes.Clone(p.Sig.Buffer), nil
	}
	return nil, fmt.Errorf("signature of scheme 0x%x", uint16(s.SigAlg))
}
