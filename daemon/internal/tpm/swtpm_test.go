//go:build device

package tpm_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func open(t *testing.T, o tpm.Options) *tpm.TPM {
	t.Helper()
	c, err := tpm.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIdentityKeyLivesInTheTPM(t *testing.T) {
	tcti := tpmtest.Start(t)
	c := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
	if _, err := c.Sign([]byte("x")); !errors.Is(err, tpm.ErrNoKey) {
		t.Fatalf("signed without a key: %v", err)
	}
	ek, srk, err := c.PublicKeys()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{"endorsement key": ek, "storage root key": srk} {
		p, err := tpm2.Unmarshal[tpm2.TPM2BPublic](key)
		if err != nil {
			t.Fatal(name, err)
		}
		if pub, err := p.Contents(); err != nil || pub.Type != tpm2.TPMAlgRSA || !pub.ObjectAttributes.Restricted {
			t.Errorf("%s: %+v, %v", name, pub, err)
		}
	}
	data := []byte("hub.test%2Fdevices%2Fd1\n2000000000")
	long := bytes.Repeat([]byte("0123456789"), 333)
	for _, outer := range []bool{true, false, true} {
		key := make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			t.Fatal(err)
		}
		if err := c.Import(tpmtest.Package(t, ek, srk, key, outer)); err != nil {
			t.Fatalf("outer wrapper %v: %v", outer, err)
		}
		// Another process finds the key.
		again := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x100})
		for _, d := range [][]byte{data, long, {}} {
			want, _ := sas.Key(key).Sign(d)
			if got, err := again.Sign(d); err != nil || !bytes.Equal(got, want) {
				t.Errorf("signature of %d bytes: %x, want %x, %v", len(d), got, want, err)
			}
		}
	}
	ek2, srk2, err := c.PublicKeys()
	if err != nil || !bytes.Equal(ek, ek2) || !bytes.Equal(srk, srk2) {
		t.Errorf("the TPM's keys have changed: %v", err)
	}
	// A key of another place in the TPM does not touch this one.
	if _, err := open(t, tpm.Options{TCTI: tcti, AuthKeyIndex: 0x200}).Sign(data); !errors.Is(err, tpm.ErrNoKey) {
		t.Errorf("key of another index: %v", err)
	}
}

func TestPackageForAnotherTPMLeavesTheOldKey(t *testing.T) {
	c := open(t, tpm.Options{TCTI: tpmtest.Start(t), AuthKeyIndex: 0x100})
	ek, srk, err := c.PublicKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Import(tpmtest.Package(t, ek, srk, []byte("the device's key"), true)); err != nil {
		t.Fatal(err)
	}
	want, err := c.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	otherEK, otherSRK, err := open(t, tpm.Options{TCTI: tpmtest.Start(t)}).PublicKeys()
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string][]byte{
		"endorsement key": tpmtest.Package(t, otherEK, srk, []byte("k"), true),
		"storage key":     tpmtest.Package(t, ek, otherSRK, []byte("k"), true),
		"tampered":        flip(tpmtest.Package(t, ek, srk, []byte("k"), true)),
	} {
		if err := c.Import(blob); err == nil {
			t.Errorf("%s: imported", name)
		}
	}
	if got, err := c.Sign([]byte("x")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("old key is lost: %v", err)
	}
}

// flip changes a bit of the duplicate.
func flip(blob []byte) []byte {
	out := bytes.Clone(blob)
	at := 0
	for range 2 {
		at += 2 + int(out[at])<<8 + int(out[at+1])
	}
	out[at+50] ^= 1
	return out
}

func TestHierarchyPasswords(t *testing.T) {
	c := open(t, tpm.Options{TCTI: tpmtest.Start(t), Endorsement: []byte("wrong")})
	if _, _, err := c.PublicKeys(); err == nil || !strings.Contains(err.Error(), "endorsement key") {
		t.Errorf("wrong password: %v", err)
	}
}
