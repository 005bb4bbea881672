package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// record is a file of the store: what is known of an image in a repository. Two
// repositories may hold the same image, and have different policies.
type record struct {
	Repository string     `json:"repository"`
	Image      Descriptor `json:"image"`
	// Policy is the fingerprint of the policy that was satisfied.
	Policy     string      `json:"policy"`
	By         string      `json:"by,omitempty"`
	Time       time.Time   `json:"time"`
	Signatures []Signature `json:"signatures"`
}

// store is a directory that only the daemon's user may enter. Who can write there
// can write the daemon's keys as well.
type store struct{ dir string }

// path names the file by digest and repository.
func (s store) path(repository, digest string) string {
	sum := sha256.Sum256([]byte(repository))
	return filepath.Join(s.dir, fileDigest(digest)+"-"+hex.EncodeToString(sum[:8])+".json")
}

func fileDigest(digest string) string { return strings.ReplaceAll(digest, ":", "-") }

// load returns a zero record if there is none.
func (s store) load(repository, digest string) (record, error) {
	var r record
	data, err := os.ReadFile(s.path(repository, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("verdict: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("verdict %s: %w", s.path(repository, digest), err)
	}
	if r.Repository != repository || r.Image.Digest != digest {
		return record{}, fmt.Errorf("verdict %s is about another image", s.path(repository, digest))
	}
	return r, nil
}

func (s store) save(r record) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	if err := atomicfile.Write(s.path(r.Repository, r.Image.Digest), data, 0o600); err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	return nil
}

// forget removes what is known of a digest.
func (s store) forget(digest string) error {
	names, err := filepath.Glob(filepath.Join(s.dir, fileDigest(digest)+"-*.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
