// Package tpmtest runs a software TPM for tests, and wraps keys for it as the
// provisioning service does.
package tpmtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Start runs swtpm (Debian package swtpm) until the test ends, and returns its TCTI.
func Start(t *testing.T) string {
	t.Helper()
	// Not t.TempDir: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm")
	var out bytes.Buffer
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"), "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("swtpm (make setup installs it): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return "swtpm:path=" + socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not listen: %v\n%s", err, &out)
		}
	}
}

// Package wraps an HMAC key for the TPM with these keys (each a TPM2B_PUBLIC): a
// credential package with an inner wrapper, and an outer one if outer is set.
func Package(t *testing.T, endorsement, storageRoot, key []byte, outer bool) []byte {
	t.Helper()
	ek, srk := public(t, endorsement), public(t, storageRoot)
	pub, sensitive := hmacKey(t, key)
	name := objectName(t, pub)

	inner := make([]byte, 16)
	if _, err := rand.Read(inner); err != nil {
		t.Fatal(err)
	}
	to, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		t.Fatal(err)
	}
	idObject, secret, err := tpm2.CreateCredential(rand.Reader, to, objectName(t, srk), inner)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(bytes.Clone(sensitive), name...))
	duplicate := encrypt(t, inner, append(sized(sum[:]), sensitive...))
	var seed []byte
	if outer {
		duplicate, seed = wrap(t, srk, name, duplicate)
	}
	var out []byte
	for _, part := range [][]byte{idObject, secret, duplicate, seed, tpm2.Marshal(*pub), nil} {
		out = append(out, sized(part)...)
	}
	return out
}

func public(t *testing.T, sizedPublic []byte) *tpm2.TPMTPublic {
	t.Helper()
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](sizedPublic[2:])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func objectName(t *testing.T, p *tpm2.TPMTPublic) []byte {
	t.Helper()
	name, err := tpm2.ObjectName(p)
	if err != nil {
		t.Fatal(err)
	}
	return name.Buffer
}

// hmacKey returns the public area and the TPM2B_SENSITIVE of a key.
func hmacKey(t *testing.T, key []byte) (*tpm2.TPMTPublic, []byte) {
	t.Helper()
	seed := make([]byte, sha256.Size)
	if _, err := rand.Read(seed); err != nil {
		t.Fatal(err)
	}
	unique := sha256.Sum256(append(bytes.Clone(seed), key...))
	pub := &tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true, NoDA: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
			Scheme:  tpm2.TPMAlgHMAC,
			Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: unique[:]}),
	}
	return pub, sized(tpm2.Marshal(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgKeyedHash, SeedValue: tpm2.TPM2BDigest{Buffer: seed},
		Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BSensitiveData{Buffer: key}),
	}))
}

// wrap puts the outer wrapper around a duplicate (TPM 2.0 part 1, "Outer Duplication
// Wrapper").
func wrap(t *testing.T, parent *tpm2.TPMTPublic, name, duplicate []byte) (wrapped, seed []byte) {
	t.Helper()
	to, err := tpm2.ImportEncapsulationKey(parent)
	if err != nil {
		t.Fatal(err)
	}
	secret, seed, err := to.Encapsulate(rand.Reader, "DUPLICATE")
	if err != nil {
		t.Fatal(err)
	}
	hash, err := tpm2.TPMAlgSHA256.Hash()
	if err != nil {
		t.Fatal(err)
	}
	body := encrypt(t, tpm2.KDFa(hash, secret, "STORAGE", name, nil, 128), duplicate)
	mac := hmac.New(sha256.New, tpm2.KDFa(hash, secret, "INTEGRITY", nil, nil, 256))
	mac.Write(body)
	mac.Write(name)
	return append(sized(mac.Sum(nil)), body...), seed
}

func encrypt(t *testing.T, key, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(plain))
	//nolint:staticcheck // the TPM's own mode; the integrity value is next to it
	cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(out, plain)
	return out
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}
