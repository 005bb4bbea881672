package keys

import (
	"crypto/cipher"
	"fmt"
	"slices"
)

// First bytes of sealed data (spec security-daemon 10). What follows is the ciphertext and
// its tag of 16 bytes; in the old form, which an imported key may have sealed, the tag comes
// first.
const (
	sealVersion    = 2
	oldSealVersion = 1
	tagSize        = 16
)

// Encrypt seals plaintext for one module and generation with AES-256-GCM. The
// caller chooses the initialization vector, of any length but zero, and must give
// the same one to Decrypt; the interface of the original leaves its uniqueness to
// the caller. The error is ErrVector for an empty one.
func (r *Ring) Encrypt(module, generation string, iv, plaintext []byte) ([]byte, error) {
	aead, err := r.aead(iv)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1, 1+len(plaintext)+aead.Overhead())
	out[0] = sealVersion
	return aead.Seal(out, iv, plaintext, aad(module, generation)), nil
}

// Decrypt opens what Encrypt sealed for the same module, generation and vector.
// Every other input gives an error that wraps ErrDecrypt or ErrVector.
func (r *Ring) Decrypt(module, generation string, iv, sealed []byte) ([]byte, error) {
	aead, err := r.aead(iv)
	if err != nil {
		return nil, err
	}
	switch {
	case len(sealed) > tagSize && sealed[0] == oldSealVersion:
		sealed = slices.Concat(sealed[1+tagSize:], sealed[1:1+tagSize])
	case len(sealed) > 0 && sealed[0] == sealVersion:
		sealed = sealed[1:]
	default:
		return nil, fmt.Errorf("%w: unknown format", ErrDecrypt)
	}
	plaintext, err := aead.Open(nil, iv, sealed, aad(module, generation))
	if err != nil {
		return nil, ErrDecrypt
	}
	return plaintext, nil
}

func (r *Ring) aead(iv []byte) (cipher.AEAD, error) {
	if len(iv) == 0 {
		return nil, ErrVector
	}
	aead, err := cipher.NewGCMWithNonceSize(r.encryption, len(iv))
	if err != nil {
		return nil, fmt.Errorf("cipher: %w", err)
	}
	return aead, nil
}

// aad is the module id followed by the generation id, with nothing between, as
// in the original. The API lets a module name only its own current generation,
// so that no pair of modules can reach the same text.
func aad(module, generation string) []byte { return []byte(module + generation) }
