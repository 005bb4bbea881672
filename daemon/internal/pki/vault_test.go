package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

// vault keeps keys in memory; blocks hold their numbers.
type vault struct {
	keys []crypto.Signer
	down error
}

func (v *vault) NewKey(context.Context) (crypto.Signer, []byte, error) {
	if v.down != nil {
		return nil, nil, v.down
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	v.keys = append(v.keys, key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "VAULT KEY", Bytes: []byte{byte(len(v.keys))}}), err
}

func (v *vault) OpenKey(_ context.Context, block []byte) (crypto.Signer, error) {
	if v.down != nil {
		return nil, v.down
	}
	b, _ := pem.Decode(block)
	if b == nil || b.Type != "VAULT KEY" || int(b.Bytes[0]) > len(v.keys) {
		return nil, fmt.Errorf("%w: of another vault", pki.ErrKeyLost)
	}
	return v.keys[b.Bytes[0]-1], nil
}

func vaultOptions(dir string, clk *clock, v pki.Vault, rotate bool) pki.Options {
	p := renewal.Default()
	p.RotateKey = rotate
	return pki.Options{DeviceID: "edge1", Dir: dir, Days: 90, Policy: p, Now: clk.Now, Vault: v}
}

func openCA(t *testing.T, o pki.Options) *pki.Authority {
	t.Helper()
	a, err := pki.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func keyFile(t *testing.T, dir string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "keys", "edge_ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeysOfAVaultRotateOrStay(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		dir, clk, v := t.TempDir(), &clock{start}, &vault{}
		a := openCA(t, vaultOptions(dir, clk, v, rotate))
		old := a.Certificate()
		clk.now = start.Add(72 * day)
		if err := a.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if same := pki.SameKey(old.PublicKey, a.Certificate().PublicKey); same == rotate {
			t.Errorf("rotate %v: same key %v", rotate, same)
		}
		if text := keyFile(t, dir); bytes.Contains(text, []byte("PRIVATE KEY")) || !bytes.Contains(text, []byte("VAULT KEY")) {
			t.Errorf("rotate %v: in the file:\n%s", rotate, text)
		}
		again := openCA(t, vaultOptions(dir, clk, v, rotate))
		if !again.Certificate().Equal(a.Certificate()) || again.Dropped() != nil {
			t.Errorf("rotate %v: not found again: %v", rotate, again.Dropped())
		}
		if _, err := again.Server("m", "host"); err != nil {
			t.Error(err)
		}
	}
}

func TestFailedRenewalLeavesTheKeyOfTheVault(t *testing.T) {
	dir, clk, v := t.TempDir(), &clock{start}, &vault{}
	by := localCA(t, start.AddDate(1, 0, 0))
	o := vaultOptions(dir, clk, v, true)
	o.Issuer = by
	a := openCA(t, o)
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := keyFile(t, dir)
	by.down = errors.New("no route")
	if err := a.Renew(t.Context()); err == nil {
		t.Fatal("renewed by nobody")
	}
	by.down, v.down = nil, errors.New("no TPM device")
	if err := a.Renew(t.Context()); err == nil {
		t.Fatal("renewed without a vault")
	}
	v.down = nil
	if !bytes.Equal(keyFile(t, dir), want) {
		t.Error("file has changed")
	}
	for _, b := range []*pki.Authority{a, openCA(t, o)} {
		if _, err := b.Server("m", "host"); err != nil {
			t.Errorf("old key is lost: %v", err)
		}
	}
}

func TestPlainKeyIsUsedUntilTheRenewal(t *testing.T) {
	dir, clk, v := t.TempDir(), &clock{start}, &vault{}
	old := openCA(t, vaultOptions(dir, clk, nil, false)).Certificate()
	a := openCA(t, vaultOptions(dir, clk, v, false))
	if !a.Certificate().Equal(old) || a.Dropped() != nil {
		t.Errorf("a CA that is good is replaced: %v", a.Dropped())
	}
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The key would stay, but it is not where it is wanted.
	if text := keyFile(t, dir); bytes.Contains(text, []byte("PRIVATE KEY")) || len(v.keys) != 1 {
		t.Errorf("key is still in the file:\n%s", text)
	}
	// And back.
	b := openCA(t, vaultOptions(dir, clk, nil, false))
	if b.Dropped() == nil || b.Certificate().Equal(a.Certificate()) || !bytes.Contains(keyFile(t, dir), []byte("PRIVATE KEY")) {
		t.Errorf("vault is gone: %v", b.Dropped())
	}
}

func TestLostKeyIsReplacedAndAVaultThatIsAwayIsWaitedFor(t *testing.T) {
	dir, clk, v := t.TempDir(), &clock{start}, &vault{}
	a := openCA(t, vaultOptions(dir, clk, v, true))
	want := keyFile(t, dir)
	v.down = errors.New("no TPM device")
	if _, err := pki.Open(t.Context(), vaultOptions(dir, clk, v, true)); !errors.Is(err, v.down) {
		t.Errorf("vault is away: %v", err)
	}
	if !bytes.Equal(keyFile(t, dir), want) {
		t.Error("file has changed")
	}
	b := openCA(t, vaultOptions(dir, clk, &vault{}, true))
	if b.Certificate().Equal(a.Certificate()) || !errors.Is(b.Dropped(), pki.ErrKeyLost) {
		t.Errorf("key of another vault: %v", b.Dropped())
	}
	if _, err := b.Server("m", "host"); err != nil {
		t.Error(err)
	}
}
