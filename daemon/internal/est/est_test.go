package est_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/est"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ca is a root with an intermediate that issues.
type ca struct {
	root, issuer *x509.Certificate
	key          crypto.Signer
}

func newCA(t *testing.T) *ca {
	t.Helper()
	rootKey, issuerKey := newKey(t), newKey(t)
	template := func(name string, n int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		}
	}
	root := create(t, template("root", 1), nil, rootKey.Public(), rootKey)
	return &ca{root: root, issuer: create(t, template("issuer", 2), root, issuerKey.Public(), rootKey), key: issuerKey}
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

// client makes a client certificate.
func (c *ca) client(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := create(t, &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, c.issuer, key.Public(), c.key)
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

// server is an EST server.
type server struct {
	t  *testing.T
	ca *ca

	mu       sync.Mutex
	calls    []string // path and who
	refuse   map[string]int
	pending  int // answers 202 before the certificate
	otherKey bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	if status := s.refuse[path]; status != 0 {
		http.Error(w, "no,\n"+who, status)
		return
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime")
	if path == "/cacerts" {
		_, _ = io.WriteString(w, message(s.t, s.ca.root, s.ca.issuer))
		return
	}
	if who == "nobody" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if s.pending > 0 {
		s.pending--
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
	if s.otherKey {
		pub = newKey(s.t).Public()
	}
	cert := create(s.t, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: csr.Subject, ExtraExtensions: csr.Extensions,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(0, 0, 30),
	}, s.ca.issuer, pub, s.ca.key)
	_, _ = io.WriteString(w, message(s.t, cert))
}

func start(t *testing.T, s *server, change func(*est.Options)) *est.Client {
	t.Helper()
	s.t, s.ca = t, newCA(t)
	web := httptest.NewUnstartedServer(s)
	web.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	web.StartTLS()
	t.Cleanup(web.Close)
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	o := est.Options{URL: web.URL + "/.well-known/est", RootCAs: roots, Username: "u", Password: "p"}
	if change != nil {
		change(&o)
	}
	c, err := est.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hold is a certificate that the server issues.
func hold(t *testing.T, c *est.Client, template pki.Template) *pki.Holder {
	t.Helper()
	h, err := pki.OpenHolder(t.Context(), pki.HolderOptions{
		Name: "device-id", Dir: t.TempDir(), Issuer: c, Template: template, Policy: renewal.Default(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestEnrollmentGivesAChainUpToTheRoot(t *testing.T) {
	s := &server{pending: 1}
	h := hold(t, start(t, s, nil), pki.Template{Subject: pkix.Name{CommonName: "edge CA"}, CA: true})
	if _, err := h.Current(); !errors.Is(err, pki.ErrNone) {
		t.Fatal(err)
	}
	if err := h.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	chain := h.Chain()
	if len(chain) != 3 || chain[0].Subject.CommonName != "edge CA" || !chain[0].IsCA || !chain[1].Equal(s.ca.issuer) || !chain[2].Equal(s.ca.root) {
		t.Fatalf("chain %v", chain)
	}
	if got := strings.Join(s.calls, ","); got != "/simpleenroll u/p,/simpleenroll u/p,/cacerts u/p" {
		t.Errorf("calls %s", got)
	}
}

func TestBootstrapCertificateThenTheOwnOne(t *testing.T) {
	s := &server{}
	c := start(t, s, func(o *est.Options) {
		o.Username, o.Password, o.Reenroll = "", "", true
		o.Certificate = func(context.Context) (*tls.Certificate, error) { return s.ca.client(t, "bootstrap"), nil }
	})
	h := hold(t, c, pki.Template{Subject: pkix.Name{CommonName: "d1"}})
	for range 2 {
		if err := h.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.refuse = map[string]int{"/simplereenroll": 403}
	if err := h.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "/simpleenroll bootstrap,/cacerts bootstrap,/simplereenroll d1,/cacerts d1,/simplereenroll d1,/simpleenroll bootstrap,/cacerts bootstrap"
	if got := strings.Join(s.calls, ","); got != want {
		t.Errorf("calls %s", got)
	}
	if cert, err := h.Current(); err != nil || len(cert.Leaf.ExtKeyUsage) != 1 || cert.Leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		server *server
		change func(*est.Options)
		want   string
	}{
		{"no credentials", &server{}, func(o *est.Options) { o.Username = "" }, "answered 401"},
		{"refused with a reason", &server{refuse: map[string]int{"/simpleenroll": 400}}, nil, "400 Bad Request: no, u/p"},
		{"down", &server{refuse: map[string]int{"/simpleenroll": 503}}, nil, "answered 503"},
		{"no CA certificates", &server{refuse: map[string]int{"/cacerts": 404}}, nil, "/cacerts: EST server answered 404"},
		{"another's certificate", &server{otherKey: true}, nil, "no certificate for the requested key"},
		{"unknown server", &server{}, func(o *est.Options) { o.RootCAs = x509.NewCertPool() }, "certificate signed by unknown authority"},
		{"unreadable bootstrap certificate", &server{}, func(o *est.Options) {
			o.Certificate = func(context.Context) (*tls.Certificate, error) { return nil, errors.New("no such file") }
		}, "certificate to enroll with: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hold(t, start(t, c.server, c.change), pki.Template{Subject: pkix.Name{CommonName: "d1"}})
			err := h.Renew(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if len(h.Chain()) != 0 {
				t.Error("a certificate came of it")
			}
		})
	}
	if _, err := est.New(est.Options{URL: "http://x"}); err == nil {
		t.Error("plain HTTP is accepted")
	}
}

func TestMessageOfOpenSSL(t *testing.T) {
	text, err := os.ReadFile("testdata/openssl-certs.p7b")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := est.ParseCerts(text)
	if err != nil || len(certs) != 2 || certs[0].Subject.CommonName != "EST test root" || certs[1].Subject.CommonName != "EST test second" {
		t.Fatalf("%v, %v", certs, err)
	}
}

func FuzzCerts(f *testing.F) {
	text, err := os.ReadFile("testdata/openssl-certs.p7b")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("MAsGCSqGSIb3DQEHAg=="))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, err := est.ParseCerts(text)
		if (err == nil) != (len(certs) > 0) {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		for _, c := range certs {
			if !bytes.Contains(c.Raw, c.RawSubject) {
				t.Fatal("certificate is not itself")
			}
		}
	})
}
