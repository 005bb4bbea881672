// Package certtest makes certificates for tests.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// Lives of certificates, from the time that they are made for.
const (
	AuthorityLife = 24 * time.Hour
	LeafLife      = time.Hour
	begun         = time.Hour // how long before
)

// Authority signs certificates.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// New makes an authority, signed by another one or, with nil, by itself.
func New(t testing.TB, name string, now time.Time, by *Authority, change ...func(*x509.Certificate)) *Authority {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-begun), NotAfter: now.Add(AuthorityLife)}
	a := new(Authority)
	a.Cert, a.Key = issue(t, template, by, change)
	return a
}

// Leaf makes a certificate for a device of this name.
func (a *Authority) Leaf(t testing.TB, name string, now time.Time, change ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	return a.Pair(t, name, now, change...).Leaf
}

// Pair is Leaf with the key, for TLS. The chain has the leaf only. Without an
// authority (nil) it is signed by itself.
func (a *Authority) Pair(t testing.TB, name string, now time.Time, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: now.Add(-begun), NotAfter: now.Add(LeafLife)}
	cert, key := issue(t, template, a, change)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func issue(t testing.TB, template *x509.Certificate, by *Authority, change []func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	for _, f := range change {
		f(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.Cert, by.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
