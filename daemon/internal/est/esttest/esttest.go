// Package esttest is an EST server for tests.
package esttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// CA is a root with an intermediate that issues.
type CA struct {
	Root, Issuer *x509.Certificate
	key          crypto.Signer
}

// NewCA makes one.
func NewCA(t *testing.T) *CA {
	t.Helper()
	rootKey, issuerKey := newKey(t), newKey(t)
	template := func(name string, n int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		}
	}
	root := create(t, template("root", 1), nil, rootKey.Public(), rootKey)
	return &CA{Root: root, Issuer: create(t, template("issuer", 2), root, issuerKey.Public(), rootKey), key: issuerKey}
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func create(t *testing.T, c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Client makes a client certificate.
func (c *CA) Client(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := create(t, &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, c.Issuer, key.Public(), c.key)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// message is a certs-only message.
func message(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	empty := asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}
	signed, err := asn1.Marshal(struct {
		Version int
		Digests asn1.RawValue
		Content struct{ Type asn1.ObjectIdentifier }
		Certs   asn1.RawValue
		Signers asn1.RawValue
	}{1, empty, struct{ Type asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}},
		asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: all}, empty})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: signed}})
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(der)
	var lines strings.Builder
	for len(text) > 64 {
		lines.WriteString(text[:64] + "\r\n")
		text = text[64:]
	}
	return lines.String() + text + "\r\n"
}

// Server is an EST server that enrolls whoever shows a password or a certificate.
type Server struct {
	T  *testing.T
	CA *CA

	mu    sync.Mutex
	calls []string // path and who
	// Refuse are statuses by path, Pending the answers of 202 before a certificate;
	// OtherKey has certificates issued for a key of the server. Set them with Set.
	Refuse   map[string]int
	Pending  int
	OtherKey bool
}

// Set changes the server.
func (s *Server) Set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Calls returns what was called, "path who", joined by commas.
func (s *Server) Calls() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, ",")
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := "nobody"
	if name, password, ok := r.BasicAuth(); ok {
		who = name + "/" + password
	}
	if len(r.TLS.PeerCertificates) > 0 {
		who = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	path := strings.TrimPrefix(r.URL.Path, "/.well-known/est")
	s.calls = append(s.calls, path+" "+who)
	if status := s.Refuse[path]; status != 0 {
		http.Error(w, "no,\n"+who, status)
		return
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime")
	if path == "/cacerts" {
		_, _ = io.WriteString(w, message(s.T, s.CA.Root, s.CA.Issuer))
		return
	}
	if who == "nobody" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if s.Pending > 0 {
		s.Pending--
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusAccepted)
		return
	}
	body, _ := io.ReadAll(r.Body)
	der, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	pub := csr.PublicKey
	if s.OtherKey {
		pub = newKey(s.T).Public()
	}
	cert := create(s.T, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: csr.Subject, ExtraExtensions: csr.Extensions,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(0, 0, 30),
	}, s.CA.Issuer, pub, s.CA.key)
	_, _ = io.WriteString(w, message(s.T, cert))
}
