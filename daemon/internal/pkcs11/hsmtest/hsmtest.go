//go:build cgo

// Package hsmtest makes a software token for tests.
package hsmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Library is SoftHSM's (Debian package softhsm2).
const Library = "/usr/lib/softhsm/libsofthsm2.so"

// Start makes a token with an RSA key, an EC key and a secret, and returns access
// to it by the built helper.
func Start(t *testing.T) (token *pkcs11.Token, secret sas.Key) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"/tokens\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	command(t, "softhsm2-util", "--init-token", "--free", "--label", "edge", "--so-pin", "0000", "--pin", "1234")
	for name, key := range map[string]any{"rsa key": rsaKey(t), "ec key": ecKey(t)} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "key.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		id := "01"
		if name == "ec key" {
			id = "02"
		}
		command(t, "softhsm2-util", "--import", file, "--token", "edge", "--label", name, "--id", id, "--pin", "1234")
	}
	secret = sas.Key("the secret of the device, 32 byte")
	importSecret(t, secret)

	program := filepath.Join(dir, "edged-pkcs11")
	command(t, "go", "build", "-o", program, "github.com/breakwater-iot/breakwater/daemon/cmd/edged-pkcs11")
	token = pkcs11.New(pkcs11.Options{Program: program, Library: Library, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	t.Cleanup(token.Close)
	return token, secret
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// importSecret puts a generic secret onto the token, which softhsm2-util cannot.
func importSecret(t *testing.T, secret []byte) {
	t.Helper()
	c := p11.New(Library)
	defer c.Destroy()
	if err := c.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Finalize() }()
	slots, err := c.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	session, err := c.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(session, p11.CKU_USER, "1234"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateObject(session, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET),
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_LABEL, "device id"), p11.NewAttribute(p11.CKA_VALUE, secret),
	}); err != nil {
		t.Fatal(err)
	}
}
