// Package keys holds the device's two master keys and what is computed from
// them: module keys, signatures with them, and sealed module data. No caller
// ever gets a master key; derived module keys leave only as base64 text for the
// cloud registry.
//
// Files below the key directory, mode 0600, 32 random bytes each:
//
//	identity-master     derives module keys (spec security-daemon 9.2)
//	encryption-master   seals module data   (spec security-daemon 3.1, 10)
//
// Losing identity-master means that every module identity must be registered
// again; losing encryption-master makes sealed data unreadable. Both are created
// once and never rewritten.
package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/breakwater-iot/breakwater/daemon/internal/atomicfile"
)

const (
	identityFile   = "identity-master"
	encryptionFile = "encryption-master"
	masterSize     = 32
)

// ErrDecrypt says that data was not sealed with this key for this module,
// generation and initialization vector, or was changed since.
var ErrDecrypt = errors.New("decryption failed")

// ErrVector says that an initialization vector cannot be used.
var ErrVector = errors.New("initialization vector must not be empty")

// Ring is the device's key ring. It is immutable and safe for concurrent use.
type Ring struct {
	identity   []byte
	encryption cipher.Block
}

// Open reads the master keys below dir, and creates the directory (0700) and the
// keys that do not exist yet. A key file of another size or readable by others is
// an error: it is not repaired, because a wrong key looks like a stolen device to
// the cloud.
func Open(dir string) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create key directory: %w", err)
	}
	identity, err := master(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, fmt.Errorf("identity master key: %w", err)
	}
	encryption, err := master(filepath.Join(dir, encryptionFile))
	if err != nil {
		return nil, fmt.Errorf("encryption master key: %w", err)
	}
	return New(identity, encryption)
}

// New makes a ring of two master keys of 32 bytes. The slices are copied.
func New(identity, encryption []byte) (*Ring, error) {
	if len(identity) != masterSize || len(encryption) != masterSize {
		return nil, fmt.Errorf("master keys must have %d bytes", masterSize)
	}
	block, err := aes.NewCipher(encryption)
	if err != nil {
		return nil, fmt.Errorf("encryption master key: %w", err)
	}
	return &Ring{identity: append([]byte(nil), identity...), encryption: block}, nil
}

func master(path string) ([]byte, error) {
	key, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh := make([]byte, masterSize)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	// Another process may have been faster: then its key counts.
	if err := atomicfile.Create(path, fresh, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return load(path)
}

func load(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is accessible to others (mode %04o, want 0600)", path, st.Mode().Perm())
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(key) != masterSize {
		return nil, fmt.Errorf("%s has %d bytes, want %d", path, len(key), masterSize)
	}
	return key, nil
}

// ModuleKeys returns the module's primary and secondary key in base64, as they
// are registered in the cloud. They are secrets: send them nowhere else and do
// not log them. The same arguments give the same keys for ever; another
// generation gives others.
func (r *Ring) ModuleKeys(module, generation string) (primary, secondary string) {
	enc := base64.StdEncoding
	return enc.EncodeToString(r.derive(module, generation, "primary")),
		enc.EncodeToString(r.derive(module, generation, "secondary"))
}

// Sign returns HMAC-SHA256 of data with the module's primary key.
func (r *Ring) Sign(module, generation string, data []byte) []byte {
	return mac(r.derive(module, generation, "primary"), data)
}

func (r *Ring) derive(module, generation, kind string) []byte {
	return mac(r.identity, []byte(module+":"+generation+":"+kind))
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
