// Package seal encrypts what the edge hub keeps on disk: identities with their
// keys, and twins. The data key is random, lives in the store in a form that only
// the security daemon can open (workload API, encrypt), and is in memory while the
// hub runs. Records are sealed with AES-256-GCM under a fresh random nonce, bound to
// their name.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// Vault seals and opens with a key that the hub itself does not have on disk. It
// is the workload API.
type Vault interface {
	Encrypt(ctx context.Context, plaintext, iv []byte) ([]byte, error)
	Decrypt(ctx context.Context, ciphertext, iv []byte) ([]byte, error)
}

// ErrUnreadable tells that a record was not sealed with this key, for this name, or
// is damaged.
var ErrUnreadable = errors.New("record cannot be opened")

const (
	keySize   = 32
	nonceSize = 12
	keyName   = "data-key"
)

// Sealer seals records. It may be used concurrently.
type Sealer struct{ aead cipher.AEAD }

// sealedKey is what the store holds of the data key.
type sealedKey struct {
	IV         []byte `json:"iv"`
	Ciphertext []byte `json:"ciphertext"`
}

// Open returns the sealer with the bucket's data key, making one at the first use.
// A key that the vault cannot open (the daemon's master key has changed) is an
// error that wraps ErrUnreadable; see Renew.
func Open(ctx context.Context, vault Vault, bucket store.Bucket) (*Sealer, error) {
	raw, err := bucket.Get(keyName)
	if errors.Is(err, store.ErrNotFound) {
		return Renew(ctx, vault, bucket)
	}
	if err != nil {
		return nil, fmt.Errorf("read data key: %w", err)
	}
	var k sealedKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("read data key: %w: %w", ErrUnreadable, err)
	}
	key, err := vault.Decrypt(ctx, k.Ciphertext, k.IV)
	if err != nil {
		return nil, fmt.Errorf("open data key: %w: %w", ErrUnreadable, err)
	}
	return New(key)
}

// Renew makes a new data key. Records sealed with an earlier one cannot be opened
// any more.
func Renew(ctx context.Context, vault Vault, bucket store.Bucket) (*Sealer, error) {
	random := make([]byte, keySize+nonceSize)
	rand.Read(random) //nolint:errcheck // never fails (crypto/rand)
	key, iv := random[:keySize], random[keySize:]
	ciphertext, err := vault.Encrypt(ctx, key, iv)
	if err != nil {
		return nil, fmt.Errorf("seal data key: %w", err)
	}
	raw, err := json.Marshal(sealedKey{IV: iv, Ciphertext: ciphertext})
	if err != nil {
		return nil, fmt.Errorf("seal data key: %w", err)
	}
	if err := bucket.Put(ctx, keyName, raw); err != nil {
		return nil, fmt.Errorf("store data key: %w", err)
	}
	return New(key)
}

// New returns a sealer with this key, which must have 32 bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("data key: %d bytes, want %d", len(key), keySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal returns the sealed form of a record with this name.
func (s *Sealer) Seal(name string, plaintext []byte) []byte {
	nonce := make([]byte, nonceSize, nonceSize+len(plaintext)+s.aead.Overhead())
	rand.Read(nonce) //nolint:errcheck // never fails (crypto/rand)
	return s.aead.Seal(nonce, nonce, plaintext, []byte(name))
}

// Open returns the record, or an error that wraps ErrUnreadable.
func (s *Sealer) Open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, fmt.Errorf("%w: too short", ErrUnreadable)
	}
	plaintext, err := s.aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], []byte(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return plaintext, nil
}

// Bucket is a store bucket whose values are sealed.
type Bucket struct {
	store.Bucket
	Sealer *Sealer
}

// Get returns the opened value, store.ErrNotFound or ErrUnreadable.
func (b Bucket) Get(key string) ([]byte, error) {
	sealed, err := b.Bucket.Get(key)
	if err != nil {
		return nil, err
	}
	return b.Sealer.Open(key, sealed)
}

// Put seals and stores the value; it is on disk when Put returns nil.
func (b Bucket) Put(ctx context.Context, key string, value []byte) error {
	return b.Bucket.Put(ctx, key, b.Sealer.Seal(key, value))
}

// Scan calls fn for each value that can be opened; others are passed to bad.
func (b Bucket) Scan(prefix string, fn func(key string, value []byte) error, bad func(key string, err error)) error {
	return b.Bucket.Scan(prefix, func(key string, sealed []byte) error {
		value, err := b.Sealer.Open(key, sealed)
		if err != nil {
			bad(key, err)
			return nil
		}
		return fn(key, value)
	})
}
