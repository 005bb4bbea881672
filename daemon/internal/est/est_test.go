package est_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/est"
	"github.com/breakwater-iot/breakwater/daemon/internal/est/esttest"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, s *esttest.Server, change func(*est.Options)) *est.Client {
	t.Helper()
	s.T, s.CA = t, esttest.NewCA(t)
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
	s := &esttest.Server{Pending: 1}
	h := hold(t, start(t, s, nil), pki.Template{Subject: pkix.Name{CommonName: "edge CA"}, CA: true})
	if _, err := h.Current(); !errors.Is(err, pki.ErrNone) {
		t.Fatal(err)
	}
	if err := h.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	chain := h.Chain()
	if len(chain) != 3 || chain[0].Subject.CommonName != "edge CA" || !chain[0].IsCA || !chain[1].Equal(s.CA.Issuer) || !chain[2].Equal(s.CA.Root) {
		t.Fatalf("chain %v", chain)
	}
	if got := s.Calls(); got != "/simpleenroll u/p,/simpleenroll u/p,/cacerts u/p" {
		t.Errorf("calls %s", got)
	}
}

func TestBootstrapCertificateThenTheOwnOne(t *testing.T) {
	s := &esttest.Server{}
	c := start(t, s, func(o *est.Options) {
		o.Username, o.Password, o.Reenroll = "", "", true
		o.Certificate = func(context.Context) (*tls.Certificate, error) { return s.CA.Client(t, "bootstrap"), nil }
	})
	h := hold(t, c, pki.Template{Subject: pkix.Name{CommonName: "d1"}})
	for range 2 {
		if err := h.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.Refuse = map[string]int{"/simplereenroll": 403}
	if err := h.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "/simpleenroll bootstrap,/cacerts bootstrap,/simplereenroll d1,/cacerts d1,/simplereenroll d1,/simpleenroll bootstrap,/cacerts bootstrap"
	if got := s.Calls(); got != want {
		t.Errorf("calls %s", got)
	}
	if cert, err := h.Current(); err != nil || len(cert.Leaf.ExtKeyUsage) != 1 || cert.Leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		server *esttest.Server
		change func(*est.Options)
		want   string
	}{
		{"no credentials", &esttest.Server{}, func(o *est.Options) { o.Username = "" }, "answered 401"},
		{"refused with a reason", &esttest.Server{Refuse: map[string]int{"/simpleenroll": 400}}, nil, "400 Bad Request: no, u/p"},
		{"down", &esttest.Server{Refuse: map[string]int{"/simpleenroll": 503}}, nil, "answered 503"},
		{"no CA certificates", &esttest.Server{Refuse: map[string]int{"/cacerts": 404}}, nil, "/cacerts: EST server answered 404"},
		{"another's certificate", &esttest.Server{OtherKey: true}, nil, "no certificate for the requested key"},
		{"unknown server", &esttest.Server{}, func(o *est.Options) { o.RootCAs = x509.NewCertPool() }, "certificate signed by unknown authority"},
		{"unreadable bootstrap certificate", &esttest.Server{}, func(o *est.Options) {
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
