package keys_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
)

var fixedMaster = []byte("0123456789abcdef0123456789abcdef")

func fixedRing(t testing.TB) *keys.Ring {
	t.Helper()
	r, err := keys.New(fixedMaster, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The vectors of spec security-daemon 9.2, computed with OpenSSL:
//
//	printf 'moduleA:637000000000000000:primary' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
func TestDerivedKeyVectors(t *testing.T) {
	primary, secondary := fixedRing(t).ModuleKeys("moduleA", "637000000000000000")
	for _, c := range []struct{ name, got, want string }{
		{"primary", primary, "9d493ac421ebb42136e1a4373a24c76f4cea26a92c254555b07f319efd1a5304"},
		{"secondary", secondary, "c2602516dd53985d48631ca1dc30734663ca6d05413e0843d91e493ed6821dbd"},
	} {
		raw, err := base64.StdEncoding.DecodeString(c.got)
		if err != nil || hex.EncodeToString(raw) != c.want {
			t.Errorf("%s key is %x (%v), want %s", c.name, raw, err, c.want)
		}
	}
}

func TestSignUsesThePrimaryKey(t *testing.T) {
	r := fixedRing(t)
	primary, _ := r.ModuleKeys("m", "1")
	key, err := base64.StdEncoding.DecodeString(primary)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte("hub/devices/d/modules/m\n1700000000"))
	if got := r.Sign("m", "1", []byte("hub/devices/d/modules/m\n1700000000")); !bytes.Equal(got, h.Sum(nil)) {
		t.Fatalf("signature %x, want %x", got, h.Sum(nil))
	}
}

func TestDerivedKeysAreDeterministicAndDistinct(t *testing.T) {
	id := rapid.StringMatching(`[A-Za-z0-9$._-]{1,20}`)
	gen := rapid.StringMatching(`[0-9]{18}`)
	rapid.Check(t, func(t *rapid.T) {
		master := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "master")
		a, err := keys.New(master, master)
		if err != nil {
			t.Fatal(err)
		}
		b, err := keys.New(master, master)
		if err != nil {
			t.Fatal(err)
		}
		m1, g1 := id.Draw(t, "m1"), gen.Draw(t, "g1")
		m2, g2 := id.Draw(t, "m2"), gen.Draw(t, "g2")
		p1, s1 := a.ModuleKeys(m1, g1)
		if p, s := b.ModuleKeys(m1, g1); p != p1 || s != s1 {
			t.Fatal("same input, other keys")
		}
		if p1 == s1 {
			t.Fatal("primary equals secondary")
		}
		if m1 == m2 && g1 == g2 {
			return
		}
		if p2, s2 := a.ModuleKeys(m2, g2); p1 == p2 || s1 == s2 {
			t.Fatalf("%s:%s and %s:%s share a key", m1, g1, m2, g2)
		}
	})
}

func TestOpenKeepsKeysAcrossStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first, err := keys.Open(dir, keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := keys.Open(dir, keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p1, _ := first.ModuleKeys("m", "1")
	if p2, _ := second.ModuleKeys("m", "1"); p1 != p2 {
		t.Fatal("keys changed by a restart")
	}
	sealed, err := first.Encrypt("m", "1", []byte("iv"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Decrypt("m", "1", []byte("iv"), sealed); err != nil || string(got) != "text" {
		t.Fatalf("decrypt after restart: %q, %v", got, err)
	}
	checkModes(t, dir)
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("directory mode %v, %v", st.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d key files, %v; want 2", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
			t.Errorf("%s: mode %v size %d, %v", e.Name(), info.Mode(), info.Size(), err)
		}
	}
}

func TestOpenInTwoPlacesAtOnceAgrees(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			r, err := keys.Open(dir, keys.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			got[i], _ = r.ModuleKeys("m", "1")
		})
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] {
			t.Fatal("two openers hold different keys")
		}
	}
}

func TestOpenRefusesDamagedOrOpenKeyFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		mode os.FileMode
		want string
	}{
		{"short file", []byte("short"), 0o600, "has 5 bytes, want 32"},
		{"empty file after a crash", nil, 0o600, "has 0 bytes"},
		{"readable by the group", fixedMaster, 0o640, "accessible to others"},
		{"readable by all", fixedMaster, 0o604, "accessible to others"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "identity-master")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := keys.Open(dir, keys.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if data, _ := os.ReadFile(path); !bytes.Equal(data, c.data) {
				t.Fatal("the damaged key was overwritten")
			}
		})
	}
}

func TestSealedDataOpensOnlyForItsModuleGenerationAndVector(t *testing.T) {
	r := fixedRing(t)
	sealed, err := r.Encrypt("m", "10", []byte("vector"), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if sealed[0] != 2 || len(sealed) != 1+len("secret")+16 {
		t.Fatalf("format: %x", sealed)
	}
	for _, c := range []struct {
		name, module, generation, iv string
		change                       func([]byte) []byte
		want                         error
	}{
		{"the same", "m", "10", "vector", nil, nil},
		{"other module", "n", "10", "vector", nil, keys.ErrDecrypt},
		{"other generation", "m", "11", "vector", nil, keys.ErrDecrypt},
		{"other vector", "m", "10", "Vector", nil, keys.ErrDecrypt},
		{"no vector", "m", "10", "", nil, keys.ErrVector},
		{"changed tag", "m", "10", "vector", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, keys.ErrDecrypt},
		{"changed text", "m", "10", "vector", func(b []byte) []byte { b[1] ^= 1; return b }, keys.ErrDecrypt},
		{"other version", "m", "10", "vector", func(b []byte) []byte { b[0] = 1; return b }, keys.ErrDecrypt},
		{"cut", "m", "10", "vector", func(b []byte) []byte { return b[:3] }, keys.ErrDecrypt},
		{"empty", "m", "10", "vector", func([]byte) []byte { return nil }, keys.ErrDecrypt},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := bytes.Clone(sealed)
			if c.change != nil {
				in = c.change(in)
			}
			got, err := r.Decrypt(c.module, c.generation, []byte(c.iv), in)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if c.want == nil && string(got) != "secret" {
				t.Fatalf("got %q", got)
			}
		})
	}
}

func FuzzSealRoundTrip(f *testing.F) {
	r := fixedRing(f)
	f.Add([]byte("iv"), []byte("text"))
	f.Add([]byte{0}, []byte{})
	f.Fuzz(func(t *testing.T, iv, text []byte) {
		sealed, err := r.Encrypt("m", "1", iv, text)
		if len(iv) == 0 {
			if !errors.Is(err, keys.ErrVector) {
				t.Fatalf("empty vector: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Decrypt("m", "1", iv, sealed)
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("got %q, %v", got, err)
		}
		if _, err := r.Decrypt("m", "1", iv, text); err == nil {
			t.Fatal("opened plain input")
		}
	})
}
