package pki_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

const day = 24 * time.Hour

func TestOldCAStaysInTheTrustBundleUntilItEnds(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	a := open(t, dir, "edge1", clk)
	old, err := a.Server("$edgeHub", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	bundle := a.TrustBundle()
	clk.now = start.Add(72 * day)
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Trusts(bundle) {
		t.Error("a new root needs a new bundle")
	}
	for _, b := range []*pki.Authority{a, open(t, dir, "edge1", clk)} {
		if n := len(parse(t, b.TrustBundle())); n != 2 {
			t.Fatalf("%d roots in the bundle", n)
		}
		// What was issued before is still good, and so is what is issued now.
		verify(t, b, old, start.Add(29*day), "gateway", x509.ExtKeyUsageServerAuth)
		out, err := b.Server("$edgeHub", "gateway")
		if err != nil {
			t.Fatal(err)
		}
		verify(t, b, out, clk.now, "gateway", x509.ExtKeyUsageServerAuth)
	}
	clk.now = start.Add(90 * day)
	if n := len(parse(t, a.TrustBundle())); n != 1 {
		t.Errorf("%d roots after the old one's end", n)
	}
	// The next renewal forgets what has ended.
	clk.now = start.Add(150 * day)
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "certs", "edge_ca_retired.pem"))
	if err != nil || len(parse(t, string(text))) != 1 {
		t.Errorf("retired: %s, %v", text, err)
	}
}

func TestSameKeyNeedsANewBundleBeforeTheOldOneEnds(t *testing.T) {
	clk := &clock{start}
	policy := renewal.Default()
	policy.RotateKey = false
	a, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: t.TempDir(), Days: 90, Policy: policy, Now: clk.Now})
	if err != nil {
		t.Fatal(err)
	}
	bundle, old := a.TrustBundle(), a.Certificate()
	clk.now = start.Add(72 * day)
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Certificate().Equal(old) || !pki.SameKey(old.PublicKey, a.Certificate().PublicKey) {
		t.Error("renewed with another key")
	}
	if !a.Trusts(a.TrustBundle()) {
		t.Error("its own bundle does not do")
	}
	out, err := a.Server("$edgeHub", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	// A client that goes on with the old bundle is content until that ends.
	chain, roots, between := parse(t, out.ChainPEM), x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(parse(t, bundle)[0])
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for at, good := range map[time.Time]bool{start.Add(89 * day): true, start.Add(91 * day): false} {
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "gateway", CurrentTime: at}); (err == nil) != good {
			t.Errorf("at %v: %v", at, err)
		}
	}
	if a.Trusts(bundle) {
		t.Error("the old bundle is said to do")
	}
}

// issuer is a local CA that can be away.
type issuer struct {
	pki.Issuer
	down error
	last pki.Request
}

func (i *issuer) Issue(ctx context.Context, r pki.Request) ([]*x509.Certificate, error) {
	i.last = r
	if i.down != nil {
		return nil, i.down
	}
	return i.Issuer.Issue(ctx, r)
}

func localCA(t *testing.T, end time.Time) *issuer {
	t.Helper()
	_, cert, key := operatorCA(t, t.TempDir(), end)
	return &issuer{Issuer: &pki.LocalCA{Load: pair(cert, key)}}
}

func TestIssuedCA(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	by := localCA(t, start.AddDate(1, 0, 0))
	by.down = errors.New("no route")
	opt := pki.Options{Dir: dir, Subject: pkix.Name{CommonName: "my edge CA", Organization: []string{"Plant"}}, Days: 20, Issuer: by, Now: clk.Now}
	a, err := pki.Open(t.Context(), opt)
	if err != nil {
		t.Fatal("a start without the issuer:", err)
	}
	if _, err := a.Server("m", "host"); !errors.Is(err, pki.ErrNone) || a.Certificate() != nil || a.TrustBundle() != "" {
		t.Fatalf("issued by nobody: %v", err)
	}
	if !a.RenewAt().IsZero() || a.RetryAfter() != time.Minute {
		t.Errorf("due at %v, again after %v", a.RenewAt(), a.RetryAfter())
	}
	if err := a.Renew(t.Context()); err == nil || a.Certificate() != nil {
		t.Fatal("renewed by nobody")
	}
	by.down = nil
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := a.Certificate()
	if c.Subject.String() != "CN=my edge CA,O=Plant" || !c.IsCA || !c.MaxPathLenZero || !c.NotAfter.Equal(start.Add(20*day)) {
		t.Errorf("%v, CA %v, until %v", c.Subject, c.IsCA, c.NotAfter)
	}
	csr, err := x509.ParseCertificateRequest(by.last.CSR)
	if err != nil || csr.CheckSignature() != nil || len(csr.Extensions) != 2 || !csr.Extensions[0].Critical {
		t.Errorf("request: %v, %v", csr, err)
	}
	bundle := a.TrustBundle()
	out, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	verify(t, a, out, clk.now, "host", x509.ExtKeyUsageServerAuth)

	// Renewed below the same root: nobody needs a new bundle.
	clk.now = start.Add(16 * day)
	if err := a.Renew(t.Context()); err != nil || a.Certificate().Equal(c) {
		t.Fatal("not renewed:", err)
	}
	if by.last.Current == nil || !by.last.Current.Leaf.Equal(c) {
		t.Error("the issuer does not see the current certificate")
	}
	if !a.Trusts(bundle) {
		t.Error("the old bundle does not do")
	}
	again, err := pki.Open(t.Context(), opt)
	if err != nil || !again.Certificate().Equal(a.Certificate()) {
		t.Fatalf("not stored: %v", err)
	}
}

func TestCAThatEndsWhileTheIssuerIsAway(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	by := localCA(t, start.AddDate(1, 0, 0))
	opt := pki.Options{DeviceID: "edge1", Dir: dir, Days: 20, Issuer: by, Now: clk.Now}
	a, err := pki.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	by.down = errors.New("no route")
	clk.now = start.Add(21 * day)
	for _, a := range []*pki.Authority{a, reopen(t, opt)} {
		if err := a.Renew(t.Context()); err == nil {
			t.Fatal("renewed by nobody")
		}
		if _, err := a.Server("m", "host"); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Fatalf("issued by an expired CA: %v", err)
		}
		if !a.RenewAt().Before(clk.now) {
			t.Error("not due")
		}
	}
	by.down = nil
	a = reopen(t, opt)
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if by.last.Current != nil {
		t.Error("an expired certificate vouches for its successor")
	}
	out, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	verify(t, a, out, clk.now, "host", x509.ExtKeyUsageServerAuth)
}

func reopen(t *testing.T, opt pki.Options) *pki.Authority {
	t.Helper()
	a, err := pki.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestOperatorsCAThatHasExpiredLetsTheDaemonStart(t *testing.T) {
	_, cert, key := operatorCA(t, t.TempDir(), start.Add(-time.Minute))
	a := reopen(t, pki.Options{Dir: t.TempDir(), Preloaded: pair(cert, key), Now: (&clock{start}).Now})
	if _, err := a.Server("m", "host"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("issued by an expired CA: %v", err)
	}
}

func TestLocalCAThatHasExpiredOrEndsSoon(t *testing.T) {
	clk := &clock{start}
	by := localCA(t, start.Add(5*day))
	a := reopen(t, pki.Options{DeviceID: "edge1", Dir: t.TempDir(), Days: 20, Issuer: by, Now: clk.Now})
	if err := a.Renew(t.Context()); err != nil || !a.Certificate().NotAfter.Equal(start.Add(5*day)) {
		t.Fatalf("until %v, %v", a.Certificate().NotAfter, err)
	}
	clk.now = start.Add(6 * day)
	if err := a.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "local CA expired") {
		t.Fatal(err)
	}
}

func TestIdentityCertificateOfTheDevice(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	by := localCA(t, start.AddDate(1, 0, 0))
	opt := pki.HolderOptions{
		Name: "device-id", Dir: dir, Issuer: by, Policy: renewal.Default(), Now: clk.Now,
		Template: pki.Template{Subject: pkix.Name{CommonName: "edge1"}, Days: 10},
	}
	openHolder := func() *pki.Holder {
		h, err := pki.OpenHolder(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := openHolder()
	if err := h.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, err := h.Current()
	if err != nil || first.Leaf.Subject.CommonName != "edge1" || first.Leaf.IsCA || !slices.Equal(first.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Fatalf("%v, %v", first, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "keys", "device-id.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if got, err := openHolder().Current(); err != nil || !got.Leaf.Equal(first.Leaf) {
		t.Errorf("not stored: %v", err)
	}
	if at := h.RenewAt(); !at.Equal(start.Add(8 * day)) {
		t.Errorf("due at %v", at)
	}
	clk.now = start.Add(10 * day)
	if _, err := h.Current(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired certificate is used: %v", err)
	}
	opt.Template.Subject.CommonName = "edge2"
	if _, err := openHolder().Current(); !errors.Is(err, pki.ErrNone) {
		t.Errorf("another device's certificate is used: %v", err)
	}
}

func TestKeyOnATokenIsNotCopiedNorRotated(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	_, _, keyFile := operatorCA(t, t.TempDir(), start.AddDate(1, 0, 0))
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	opt := pki.Options{DeviceID: "edge1", Dir: dir, Days: 90, Now: clk.Now, TokenKey: func(context.Context) (crypto.Signer, error) { return key, nil }}
	a := reopen(t, opt)
	before := a.Certificate()
	clk.now = start.Add(72 * day)
	a = reopen(t, opt)
	if a.Certificate().Equal(before) || !pki.SameKey(before.PublicKey, a.Certificate().PublicKey) {
		t.Error("not renewed, or with another key")
	}
	stored, err := os.ReadFile(filepath.Join(dir, "keys", "edge_ca.pem"))
	if err != nil || strings.Contains(string(stored), "PRIVATE KEY") {
		t.Errorf("key is in a file: %v", err)
	}
	if _, err := tls.X509KeyPair(stored, text); err != nil {
		t.Error(err)
	}
}
