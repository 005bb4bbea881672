package edgedtest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"sync/atomic"
)

// Sealer encrypts with AES-GCM under a key made from a word. It counts its calls.
type Sealer struct {
	Key   string
	Seals atomic.Int64
	Fail  atomic.Bool // refuse to seal
}

func (s *Sealer) aead(iv []byte) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte(s.Key))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	if len(iv) == 0 {
		return nil, errors.New("empty initialization vector")
	}
	return cipher.NewGCMWithNonceSize(block, len(iv))
}

// Seal encrypts.
func (s *Sealer) Seal(_ context.Context, plaintext, iv []byte) ([]byte, error) {
	s.Seals.Add(1)
	if s.Fail.Load() {
		return nil, errors.New("sealing is refused")
	}
	a, err := s.aead(iv)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, iv, plaintext, nil), nil
}

// Open decrypts.
func (s *Sealer) Open(_ context.Context, sealed, iv []byte) ([]byte, error) {
	a, err := s.aead(iv)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, bytes.Clone(iv), sealed, nil)
}
