// Package keys holds the device's two master keys and what is computed from
// them: module keys, signatures with them, and sealed module data. No caller
// ever gets a master key; derived module keys leave only as base64 text for the
// cloud registry.
//
// Files below the key directory, mode 0600, 32 random bytes each, or what a sealer makes
// of them:
//
//	identity-master     derives module keys (spec security-daemon 9.2)
//	encryption-master   seals module data   (spec security-daemon 3.1, 10)
//
// Losing identity-master means that every module identity must be registered
// again; losing encryption-master makes sealed data unreadable. Both are created
// once, and rewritten only to be sealed.
package keys

import (
	"bytes"
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

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
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

// Sealer wraps secrets so that it alone can unwrap them; *tpm.TPM is one. What it makes is
// never as long as a master key.
type Sealer interface {
	Seal(secret []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// Options configures Open; all are optional.
type Options struct {
	// Sealer seals the keys on disk; nil means that they lie open.
	Sealer Sealer
	// Identity and Encryption are files of 32 bytes, which keys that do not exist yet
	// begin with; empty means random bytes. One that differs from the key that is there
	// is an error; one that is gone since is not.
	Identity, Encryption string
}

// Ring is the device's key ring. It is immutable and safe for concurrent use.
type Ring struct {
	identity   []byte
	encryption cipher.Block
}

// Open reads the master keys below dir, and creates the directory (0700) and the
// keys that do not exist yet. With a sealer they are sealed on disk: those that are not
// yet are replaced. Without one sealed keys are an error. A key file of another size or
// readable by others is one too: it is not repaired, because a wrong key looks like a
// stolen device to the cloud.
func Open(dir string, o Options) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create key directory: %w", err)
	}
	identity, err := master(filepath.Join(dir, identityFile), o.Identity, o.Sealer)
	if err != nil {
		return nil, fmt.Errorf("identity master key: %w", err)
	}
	encryption, err := master(filepath.Join(dir, encryptionFile), o.Encryption, o.Sealer)
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

// master returns the key at path. It is made if there is none: of the bytes of the file
// imported, if one is named.
func master(path, imported string, sealer Sealer) ([]byte, error) {
	begin, err := readImported(imported)
	if err != nil {
		return nil, err
	}
	key, err := load(path, sealer)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case begin != nil && !bytes.Equal(begin, key):
		return nil, fmt.Errorf("%s cannot be imported: %s holds another key, and what was made with it would be lost", imported, path)
	default:
		return key, nil
	}
	switch {
	case begin == nil && imported != "":
		return nil, fmt.Errorf("import %s: %w", imported, fs.ErrNotExist)
	case begin == nil:
		begin = make([]byte, masterSize)
		if _, err := rand.Read(begin); err != nil {
			return nil, fmt.Errorf("random bytes: %w", err)
		}
	}
	content := begin
	if sealer != nil {
		if content, err = sealer.Seal(begin); err != nil {
			return nil, err
		}
	}
	// Another process may have been faster: then its key counts.
	if err := atomicfile.Create(path, content, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return load(path, sealer)
}

// readImported returns the bytes of a file; nil if there is no such file.
func readImported(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if perm := st.Mode().Perm(); perm&0o007 != 0 {
		return nil, fmt.Errorf("import: %s is accessible to others (mode %04o, want 0600)", path, perm)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if len(key) != masterSize {
		return nil, fmt.Errorf("import: %s has %d bytes, want %d", path, len(key), masterSize)
	}
	return key, nil
}

func load(path string, sealer Sealer) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is accessible to others (mode %04o, want 0600)", path, st.Mode().Perm())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plain := len(content) == masterSize
	switch {
	case plain && sealer == nil:
		return content, nil
	case plain:
		return content, seal(path, content, sealer)
	case sealer == nil && bytes.HasPrefix(content, []byte("-----BEGIN ")):
		return nil, fmt.Errorf("%s is sealed, and nothing is configured that opens it", path)
	case sealer == nil:
		return nil, fmt.Errorf("%s has %d bytes, want %d", path, len(content), masterSize)
	}
	key, err := sealer.Unseal(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(key) != masterSize {
		return nil, fmt.Errorf("%s holds a key of %d bytes, want %d", path, len(key), masterSize)
	}
	return key, nil
}

// seal replaces a key that lies open, once it is known that it can be unsealed.
func seal(path string, key []byte, sealer Sealer) error {
	sealed, err := sealer.Seal(key)
	if err != nil {
		return err
	}
	back, err := sealer.Unseal(sealed)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, key) {
		return errors.New("what was sealed is not what is unsealed")
	}
	return atomicfile.Write(path, sealed, 0o600)
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
