package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
)

// box is a sealer that can be replaced by another device's, and fail.
type box struct {
	mask byte
	down error
}

var errNotMine = errors.New("sealed by another box")

func (b box) Seal(secret []byte) ([]byte, error) {
	out := []byte("-----BEGIN BOX-----\n" + string(rune('A'+b.mask)))
	for _, c := range secret {
		out = append(out, c^b.mask)
	}
	return out, b.down
}

func (b box) Unseal(sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte("-----BEGIN BOX-----\n"+string(rune('A'+b.mask))))
	if !ok {
		return nil, errNotMine
	}
	out := make([]byte, len(rest))
	for i, c := range rest {
		out[i] = c ^ b.mask
	}
	return out, b.down
}

func moduleKey(t *testing.T, dir string, s keys.Sealer) string {
	t.Helper()
	r, err := keys.Open(dir, keys.Options{Sealer: s})
	if err != nil {
		t.Fatal(err)
	}
	primary, _ := r.ModuleKeys("m", "1")
	return primary
}

func TestMasterKeysAreSealedAndStayTheSame(t *testing.T) {
	for name, first := range map[string]keys.Sealer{"sealed from the beginning": box{mask: 7}, "sealed later": nil} {
		dir := t.TempDir()
		before := moduleKey(t, dir, first)
		plain := map[string][]byte{}
		for _, file := range []string{"identity-master", "encryption-master"} {
			plain[file], _ = os.ReadFile(filepath.Join(dir, file))
		}
		for range 2 {
			if after := moduleKey(t, dir, box{mask: 7}); after != before {
				t.Errorf("%s: another key", name)
			}
		}
		for file, old := range plain {
			path := filepath.Join(dir, file)
			now, err := os.ReadFile(path)
			st, statErr := os.Stat(path)
			if err := errors.Join(err, statErr); err != nil || st.Mode().Perm() != 0o600 || !bytes.HasPrefix(now, []byte("-----BEGIN ")) {
				t.Fatalf("%s: %s: %v, %x", name, file, err, now)
			}
			if first == nil && bytes.Contains(now, old) {
				t.Errorf("%s: %s lies open", name, file)
			}
		}
	}
}

func TestMasterKeysThatCannotBeUnsealedStay(t *testing.T) {
	dir := t.TempDir()
	moduleKey(t, dir, box{mask: 7})
	path := filepath.Join(dir, "identity-master")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sealer keys.Sealer
		want   string
	}{
		"nothing that unseals": {nil, path + " is sealed, and nothing is configured that opens it"},
		"another device":       {box{mask: 8}, path + ": " + errNotMine.Error()},
		"not reachable":        {box{mask: 7, down: errors.New("no TPM device")}, "no TPM device"},
	} {
		if _, err := keys.Open(dir, keys.Options{Sealer: c.sealer}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, want) {
			t.Fatalf("%s: the file was changed", name)
		}
	}
}

func TestKeyThatCannotBeSealedStaysOpen(t *testing.T) {
	dir := t.TempDir()
	before := moduleKey(t, dir, nil)
	if _, err := keys.Open(dir, keys.Options{Sealer: box{down: errors.New("no TPM device")}}); err == nil {
		t.Error("opened without the sealer")
	}
	if moduleKey(t, dir, nil) != before {
		t.Error("the key is lost")
	}
}

func TestMasterKeysBeginWithThoseOfFiles(t *testing.T) {
	theirs := filepath.Join(t.TempDir(), "theirs")
	write := func(path string, data []byte, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(theirs, bytes.Repeat([]byte{9}, 32), 0o640)
	want, err := keys.New(bytes.Repeat([]byte{9}, 32), bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, sealer := range map[string]keys.Sealer{"open": nil, "sealed": box{mask: 7}} {
		dir := t.TempDir()
		o := keys.Options{Sealer: sealer, Identity: theirs, Encryption: theirs}
		for range 2 {
			got, err := keys.Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			p1, _ := want.ModuleKeys("m", "1")
			if p2, _ := got.ModuleKeys("m", "1"); p1 != p2 {
				t.Errorf("%s: another identity key", name)
			}
			sealed, _ := want.Encrypt("m", "1", []byte("iv"), []byte("text"))
			if text, err := got.Decrypt("m", "1", []byte("iv"), sealed); err != nil || string(text) != "text" {
				t.Errorf("%s: another encryption key: %v", name, err)
			}
			o.Identity = filepath.Join(dir, "gone since")
		}
	}
}

func TestImportsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		mode os.FileMode
		had  bool
		want string
	}{
		"another key is there": {bytes.Repeat([]byte{9}, 32), 0o600, true, "holds another key, and what was made with it would be lost"},
		"short":                {[]byte("short"), 0o600, false, "has 5 bytes, want 32"},
		"open to all":          {bytes.Repeat([]byte{9}, 32), 0o604, false, "accessible to others"},
		"missing":              {nil, 0, false, "file does not exist"},
	} {
		dir := t.TempDir()
		if c.had {
			moduleKey(t, dir, nil)
		}
		theirs := filepath.Join(dir, "theirs")
		if c.data != nil {
			if err := errors.Join(os.WriteFile(theirs, c.data, 0o600), os.Chmod(theirs, c.mode)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := keys.Open(dir, keys.Options{Encryption: theirs}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), theirs) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := os.Stat(filepath.Join(dir, "encryption-master")); (err == nil) != c.had {
			t.Errorf("%s: key was made: %v", name, err)
		}
	}
}

func TestOldSealedDataOpens(t *testing.T) {
	r, err := keys.New(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"secret", ""} {
		sealed, err := r.Encrypt("m", "10", []byte("vector"), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		tag := len(sealed) - 16
		old := append(append([]byte{1}, sealed[tag:]...), sealed[1:tag]...) // version 1: the tag comes first
		if got, err := r.Decrypt("m", "10", []byte("vector"), old); err != nil || string(got) != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if _, err := r.Decrypt("m", "11", []byte("vector"), old); !errors.Is(err, keys.ErrDecrypt) {
			t.Errorf("another generation: %v", err)
		}
	}
	for _, bad := range [][]byte{{1}, append([]byte{1}, make([]byte, 15)...), append([]byte{3}, make([]byte, 40)...)} {
		if _, err := r.Decrypt("m", "10", []byte("vector"), bad); !errors.Is(err, keys.ErrDecrypt) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}
