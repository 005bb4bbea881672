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
	r, err := keys.Open(dir, s)
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
		if _, err := keys.Open(dir, c.sealer); err == nil || !strings.Contains(err.Error(), c.want) {
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
	if _, err := keys.Open(dir, box{down: errors.New("no TPM device")}); err == nil {
		t.Error("opened without the sealer")
	}
	if moduleKey(t, dir, nil) != before {
		t.Error("the key is lost")
	}
}
