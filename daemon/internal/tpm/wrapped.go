package tpm

import (
	"context"
	"crypto"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Errors of what was wrapped by a TPM.
var (
	// ErrForeign: another TPM wrapped it, or this one before it was cleared. It is lost.
	ErrForeign = errors.New("tpm: wrapped by another TPM, or by this one before it was cleared")
	// ErrText: the text holds nothing that a TPM has wrapped.
	ErrText = errors.New("tpm: no PEM block of a wrapped key")
)

// blockType is that of PEM blocks of what a TPM has wrapped. Form and name are those
// that OpenSSL's TPM providers use.
const blockType = "TSS2 PRIVATE KEY"

// Kinds of blocks.
var (
	oidKey    = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} // a key to be loaded
	oidSealed = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5} // data
)

// wrapped is an object that only the TPM with its parent can load.
type wrapped struct {
	Kind      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// object is a wrapped one, read.
type object struct {
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
}

func wrap(kind asn1.ObjectIdentifier, made *tpm2.CreateResponse) ([]byte, error) {
	der, err := asn1.Marshal(wrapped{
		Kind: kind, EmptyAuth: true, Parent: int64(srkHandle),
		Public: tpm2.Marshal(made.OutPublic), Private: tpm2.Marshal(made.OutPrivate),
	})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}), nil
}

// unwrap reads the first block of a PEM text that a TPM has wrapped. The error wraps
// ErrText.
func unwrap(kind asn1.ObjectIdentifier, text []byte) (object, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != blockType {
			continue
		}
		var w wrapped
		tail, err := asn1.Unmarshal(block.Bytes, &w)
		if err != nil || len(tail) > 0 || !w.Kind.Equal(kind) || w.Parent != int64(srkHandle) {
			return object{}, fmt.Errorf("%w: malformed, of another kind, or below another parent than 0x%x", ErrText, uint32(srkHandle))
		}
		public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](w.Public)
		if err != nil {
			return object{}, fmt.Errorf("%w: public area: %w", ErrText, err)
		}
		private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](w.Private)
		if err != nil {
			return object{}, fmt.Errorf("%w: private area: %w", ErrText, err)
		}
		return object{*public, *private}, nil
	}
	return object{}, ErrText
}

// NewKey makes a private key on P-256, and the PEM text that OpenKey finds it by: the
// key as this TPM has wrapped it for itself, which is of no use elsewhere. It takes no
// place in the TPM.
func (t *TPM) NewKey(ctx context.Context) (key crypto.Signer, text []byte, err error) {
	err = t.with(func(c transport.TPM) error {
		srk, err := t.storageRoot(c)
		if err != nil {
			return err
		}
		made, err := create(c, srk, signingTemplate(), nil)
		if err != nil {
			return err
		}
		text, err = wrap(oidKey, made)
		return err
	})
	if err == nil {
		key, err = t.OpenKey(ctx, text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: new key: %w", err)
	}
	return key, text, nil
}

// OpenKey returns the key of a PEM text of NewKey; blocks of other kinds are skipped. The
// error wraps ErrForeign or ErrText if there is no use in trying again.
func (t *TPM) OpenKey(_ context.Context, text []byte) (crypto.Signer, error) {
	o, err := unwrap(oidKey, text)
	if err != nil {
		return nil, err
	}
	use := func(c transport.TPM, f func(tpm2.AuthHandle) error) error {
		srk, err := t.storageRoot(c)
		if err != nil {
			return err
		}
		return loaded(c, srk, o.public, o.private, f)
	}
	key, err := t.signer(o.public, use)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	err = t.with(func(c transport.TPM) error { return use(c, func(tpm2.AuthHandle) error { return nil }) })
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	return key, nil
}

// Seal returns a PEM text of a secret of 1 to 128 bytes that this TPM alone can unseal.
func (t *TPM) Seal(secret []byte) (text []byte, err error) {
	if len(secret) == 0 {
		return nil, errors.New("tpm: seal: nothing to seal")
	}
	err = t.with(func(c transport.TPM) error {
		srk, err := t.storageRoot(c)
		if err != nil {
			return err
		}
		made, err := create(c, srk, tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
		}, secret, privately(srk, tpm2.AESEncryption(128, tpm2.EncryptIn)))
		if err != nil {
			return err
		}
		text, err = wrap(oidSealed, made)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: seal: %w", err)
	}
	return text, nil
}

// Unseal returns what Seal was given. The error wraps ErrForeign or ErrText if there is no
// use in trying again.
func (t *TPM) Unseal(text []byte) (secret []byte, err error) {
	o, err := unwrap(oidSealed, text)
	if err != nil {
		return nil, err
	}
	err = t.with(func(c transport.TPM) error {
		srk, err := t.storageRoot(c)
		if err != nil {
			return err
		}
		return loaded(c, srk, o.public, o.private, func(key tpm2.AuthHandle) error {
			answer, err := tpm2.Unseal{ItemHandle: key}.Execute(c, privately(srk, tpm2.AESEncryption(128, tpm2.EncryptOut)))
			if err == nil {
				secret = answer.OutData.Buffer
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return secret, nil
}

// privately is a session that encrypts a secret on its way to the chip or from it, where
// somebody with a probe could read it.
func privately(srk root, way tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, way, tpm2.Salted(srkHandle, srk.public))
}
