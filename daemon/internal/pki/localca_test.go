package pki_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

// issuedLocalCA is a CA on the device that somebody else issues for 30 days.
func issuedLocalCA(t *testing.T, dir string, clk *clock, by pki.Issuer) *pki.Holder {
	t.Helper()
	h, err := pki.OpenHolder(t.Context(), pki.HolderOptions{
		Name: "local-ca", Dir: dir, Issuer: by, Policy: renewal.Default(), Now: clk.Now,
		Template: pki.Template{Subject: pkix.Name{CommonName: "local CA"}, CA: true, PathLen: 1, Days: 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func edgeCABelow(t *testing.T, dir string, clk *clock, local *pki.Holder) *pki.Authority {
	t.Helper()
	return reopen(t, pki.Options{DeviceID: "edge1", Dir: dir, Days: 90, Now: clk.Now, Issuer: &pki.LocalCA{Load: local.Load}})
}

func renew(t *testing.T, c renewal.Certificate) {
	t.Helper()
	if err := c.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLocalCAThatIsIssuedItself(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	local := issuedLocalCA(t, dir, clk, localCA(t, start.AddDate(1, 0, 0)))
	a := edgeCABelow(t, dir, clk, local)
	renew(t, a) // gets the local CA as well
	first := local.Chain()
	if c := first[0]; !c.IsCA || c.MaxPathLen != 1 || !c.NotAfter.Equal(start.Add(30*day)) || len(first) < 2 {
		t.Errorf("CA %v, path length %d, until %v, chain of %d", c.IsCA, c.MaxPathLen, c.NotAfter, len(first))
	}
	if got := a.Certificate(); got.CheckSignatureFrom(first[0]) != nil || !got.MaxPathLenZero || !got.NotAfter.Equal(first[0].NotAfter) {
		t.Errorf("edge CA by %v, until %v", got.Issuer, got.NotAfter)
	}
	bundle := a.TrustBundle()
	old, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	if again := issuedLocalCA(t, dir, clk, nil); !again.Chain()[0].Equal(first[0]) {
		t.Error("not stored")
	}
	if st, err := os.Stat(filepath.Join(dir, "keys", "local-ca.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}

	// Its renewal leaves the edge CA alone, and the next edge CA is below the new one.
	clk.now = start.Add(24 * day)
	edge := a.Certificate()
	renew(t, local)
	if !a.Certificate().Equal(edge) || local.Chain()[0].Equal(first[0]) {
		t.Error("edge CA renewed, or local CA not")
	}
	verify(t, a, old, clk.now, "host", x509.ExtKeyUsageServerAuth)
	renew(t, a)
	if got := a.Certificate(); got.CheckSignatureFrom(local.Chain()[0]) != nil || !got.NotAfter.Equal(start.Add(54*day)) {
		t.Errorf("edge CA until %v", got.NotAfter)
	}
	if !a.Trusts(bundle) {
		t.Error("below the same root, and yet the bundle of before does not do")
	}
	verify(t, a, old, clk.now, "host", x509.ExtKeyUsageServerAuth)
}

func TestLocalCAThatIsDueIsRenewedBeforeItIssues(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	local := issuedLocalCA(t, dir, clk, pki.SelfSigner{})
	a := edgeCABelow(t, dir, clk, local)
	renew(t, a)
	bundle := a.TrustBundle()
	old, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	clk.now = start.Add(24 * day)
	renew(t, a)
	if end := a.Certificate().NotAfter; !end.Equal(start.Add(54 * day)) {
		t.Errorf("edge CA until %v", end)
	}
	if a.Trusts(bundle) {
		t.Error("a local CA that signs itself is a new root, and the bundle of before is said to do")
	}
	verify(t, a, old, clk.now, "host", x509.ExtKeyUsageServerAuth)
}

func TestLocalCAWhoseIssuerIsAway(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	by := localCA(t, start.AddDate(1, 0, 0))
	by.down = errors.New("no route")
	local := issuedLocalCA(t, dir, clk, by)
	a := edgeCABelow(t, dir, clk, local)
	if err := a.Renew(t.Context()); !errors.Is(err, by.down) || !strings.Contains(err.Error(), "local CA: issue certificate local-ca") {
		t.Fatalf("issued by nobody: %v", err)
	}
	if !local.RenewAt().IsZero() || local.RetryAfter() != time.Minute {
		t.Errorf("due at %v, again after %v", local.RenewAt(), local.RetryAfter())
	}
	by.down = nil
	renew(t, a)
	// It is due, and used until it ends.
	by.down = errors.New("no route")
	clk.now = start.Add(29 * day)
	renew(t, a)
	if end := a.Certificate().NotAfter; !end.Equal(start.Add(30 * day)) {
		t.Errorf("edge CA until %v", end)
	}
	clk.now = start.Add(30 * day)
	if err := a.Renew(t.Context()); !errors.Is(err, by.down) {
		t.Errorf("issued by a CA that has ended: %v", err)
	}
	by.down = nil
	renew(t, a)
	if by.last.Current != nil {
		t.Error("an expired certificate vouches for its successor")
	}
}

func TestLocalCAThatAllowsNoCABelowItIsRefused(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	_, cert, key := operatorCA(t, t.TempDir(), start.AddDate(1, 0, 0))
	local := issuedLocalCA(t, dir, clk, short{&pki.LocalCA{Load: pair(cert, key)}})
	if err := local.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "issued certificate local-ca: its path length is 0, want 1") {
		t.Errorf("%v", err)
	}
}

// short issues CAs that allow none below them.
type short struct{ pki.Issuer }

func (s short) Issue(ctx context.Context, r pki.Request) ([]*x509.Certificate, error) {
	r.Template.PathLen = 0
	return s.Issuer.Issue(ctx, r)
}

func TestRenewalsAtTheSameTimeAreOne(t *testing.T) {
	by := &slow{entered: make(chan struct{}), answer: make(chan struct{})}
	local := issuedLocalCA(t, t.TempDir(), &clock{start}, by)
	var calls sync.WaitGroup
	errs := make(chan error, 3)
	for range cap(errs) {
		calls.Go(func() {
			_, _, err := local.Load(t.Context())
			errs <- err
		})
	}
	<-by.entered
	close(by.answer)
	calls.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if by.n != 1 {
		t.Errorf("issued %d times", by.n)
	}
}

// slow signs itself when it is told to.
type slow struct {
	pki.SelfSigner
	entered, answer chan struct{}
	n               int
}

func (s *slow) Issue(ctx context.Context, r pki.Request) ([]*x509.Certificate, error) {
	if s.n++; s.n == 1 {
		close(s.entered)
	}
	<-s.answer
	return s.SelfSigner.Issue(ctx, r)
}
