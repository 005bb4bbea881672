package seal_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/seal"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// vault seals by a key of its own, as the security daemon does.
type vault struct{ inner *seal.Sealer }

func newVault(t *testing.T, fill byte) vault {
	t.Helper()
	s, err := seal.New(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return vault{s}
}

func (v vault) Encrypt(_ context.Context, plaintext, iv []byte) ([]byte, error) {
	return v.inner.Seal(string(iv), plaintext), nil
}

func (v vault) Decrypt(_ context.Context, ciphertext, iv []byte) ([]byte, error) {
	return v.inner.Open(string(iv), ciphertext)
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestRecordsSurviveAReopenAndAreNotInClearOnDisk(t *testing.T) {
	ctx := context.Background()
	st := openStore(t)
	v := newVault(t, 1)
	first, err := seal.Open(ctx, v, st.Bucket("seal"))
	if err != nil {
		t.Fatal(err)
	}
	b := seal.Bucket{Bucket: st.Bucket("x"), Sealer: first}
	if err := b.Put(ctx, "name", []byte("a secret")); err != nil {
		t.Fatal(err)
	}
	if raw, err := st.Bucket("x").Get("name"); err != nil || bytes.Contains(raw, []byte("secret")) {
		t.Errorf("stored %q, %v", raw, err)
	}
	second, err := seal.Open(ctx, v, st.Bucket("seal"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := seal.Bucket{Bucket: st.Bucket("x"), Sealer: second}.Get("name")
	if err != nil || string(got) != "a secret" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestChangedMasterKeyIsNoticedAndRenewStartsAfresh(t *testing.T) {
	ctx := context.Background()
	st := openStore(t)
	if _, err := seal.Open(ctx, newVault(t, 1), st.Bucket("seal")); err != nil {
		t.Fatal(err)
	}
	other := newVault(t, 2)
	if _, err := seal.Open(ctx, other, st.Bucket("seal")); !errors.Is(err, seal.ErrUnreadable) {
		t.Fatalf("error %v", err)
	}
	if _, err := seal.Renew(ctx, other, st.Bucket("seal")); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Open(ctx, other, st.Bucket("seal")); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesWhatWasNotSealedForThisName(t *testing.T) {
	s, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	good := s.Seal("a", []byte("x"))
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name   string
		record string
		sealed []byte
	}{
		{"other name", "b", good},
		{"damaged", "a", flipped},
		{"too short", "a", good[:5]},
		{"empty", "a", nil},
	}
	for _, tt := range tests {
		if _, err := s.Open(tt.record, tt.sealed); !errors.Is(err, seal.ErrUnreadable) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
	if got, err := s.Open("a", good); err != nil || string(got) != "x" {
		t.Errorf("good record: %q, %v", got, err)
	}
}
