//go:build device

package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11/hsmtest"
)

func TestKeysOnSoftHSM(t *testing.T) {
	token, secret := hsmtest.Start(t)
	data := []byte("hub%2Fdevices%2Fd1\n2000000000")
	want, _ := secret.Sign(data)
	got, err := token.HMAC(t.Context(), "pkcs11:token=edge;object=device%20id?pin-value=1234", data)
	if err != nil || string(got) != string(want) {
		t.Errorf("HMAC %x, want %x, %v", got, want, err)
	}
	for _, uri := range []string{
		"pkcs11:token=edge;object=rsa%20key?pin-value=1234", "pkcs11:object=ec%20key", "pkcs11:id=%02", "pkcs11:id=%01",
	} {
		key, err := token.Signer(t.Context(), uri)
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		checkSigner(t, key)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			checkTLS(t, key, version)
		}
	}
	first, err := token.Generate(t.Context(), "pkcs11:token=edge?pin-value=1234", "edge_ca")
	if err != nil {
		t.Fatal(err)
	}
	second, err := token.Generate(t.Context(), "pkcs11:token=edge?pin-value=1234", "edge_ca")
	if err != nil || !first.Public().(*rsa.PublicKey).Equal(second.Public()) {
		t.Errorf("made twice: %v", err)
	}
	checkSigner(t, first)
	named, err := token.Generate(t.Context(), "pkcs11:token=edge;object=mine;id=%07?pin-value=1234", "")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := token.Signer(t.Context(), "pkcs11:token=edge;id=%07"); err != nil || !named.Public().(*rsa.PublicKey).Equal(again.Public()) {
		t.Errorf("key of a URI: %v", err)
	}
	for uri, want := range map[string]string{
		"pkcs11:token=edge;object=none": "no such key", "pkcs11:token=other;object=rsa%20key": "no such token", "pkcs11:token=edge": "names no object",
	} {
		if _, err := token.Signer(t.Context(), uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestWrongPIN(t *testing.T) {
	token, _ := hsmtest.Start(t)
	_, err := token.Signer(t.Context(), "pkcs11:token=edge;object=rsa%20key?pin-value=9876")
	if err == nil || !strings.Contains(err.Error(), "log in") || strings.Contains(err.Error(), "9876") {
		t.Fatal(err)
	}
	if _, err := token.Signer(t.Context(), "pkcs11:token=edge;object=rsa%20key?pin-value=1234"); err != nil {
		t.Errorf("the right PIN after a wrong one: %v", err)
	}
}

func checkSigner(t *testing.T, key crypto.Signer) {
	t.Helper()
	digest := sha256.Sum256([]byte("x"))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest[:], sig) {
			t.Error("ECDSA signature does not verify")
		}
	}
}

// checkTLS uses a key for a client certificate.
func checkTLS(t *testing.T, key crypto.Signer, version uint16) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "d1"}, DNSNames: []string{"d1"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	own := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan error, 1)
	go func() {
		defer far.Close()
		done <- tls.Server(far, &tls.Config{Certificates: own, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, MaxVersion: version}).Handshake()
	}()
	if err := tls.Client(near, &tls.Config{Certificates: own, RootCAs: roots, ServerName: "d1"}).Handshake(); err != nil {
		t.Errorf("TLS %x, client: %v", version, err)
	}
	near.Close()
	if err := <-done; err != nil && !strings.Contains(err.Error(), "closed") {
		t.Errorf("TLS %x, server: %v", version, err)
	}
}
