package pki_test

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
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func open(t *testing.T, dir, device string, c *clock) *pki.Authority {
	t.Helper()
	a, err := pki.Open(t.Context(), pki.Options{DeviceID: device, Dir: dir, Days: 90, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	certs, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// verify checks a chain as a client does that trusts the bundle.
func verify(t *testing.T, a *pki.Authority, out pki.Issued, now time.Time, name string, use x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	chain := parse(t, out.ChainPEM)
	roots, mid := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.TrustBundle())) {
		t.Fatal("trust bundle holds no certificate")
	}
	for _, c := range chain[1:] {
		mid.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: mid, CurrentTime: now, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use},
	})
	if err != nil {
		t.Fatalf("verify %q: %v", name, err)
	}
	if _, err := tls.X509KeyPair([]byte(out.ChainPEM), []byte(out.KeyPEM)); err != nil {
		t.Fatalf("key and certificate: %v", err)
	}
	return chain[0]
}

func TestQuickStartCAHasTheSpecifiedShape(t *testing.T) {
	dir := t.TempDir()
	ca := open(t, dir, "edge1", &clock{start}).Certificate()
	if ca.Subject.CommonName != "aziot-edge CA edge1" || !ca.IsCA || !ca.MaxPathLenZero || ca.MaxPathLen != 0 {
		t.Errorf("subject %q, CA %v, path length %d", ca.Subject.CommonName, ca.IsCA, ca.MaxPathLen)
	}
	if ca.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign {
		t.Errorf("key usage %b", ca.KeyUsage)
	}
	if !ca.NotBefore.Equal(start) || !ca.NotAfter.Equal(start.AddDate(0, 0, 90)) {
		t.Errorf("validity %v to %v", ca.NotBefore, ca.NotAfter)
	}
	if len(ca.SubjectKeyId) == 0 || ca.PublicKeyAlgorithm != x509.RSA {
		t.Errorf("subject key id %x, algorithm %v", ca.SubjectKeyId, ca.PublicKeyAlgorithm)
	}
	for _, oid := range []string{"2.5.29.19", "2.5.29.15"} {
		if !critical(ca, oid) {
			t.Errorf("extension %s is not critical", oid)
		}
	}
	st, err := os.Stat(filepath.Join(dir, "keys", "edge_ca.pem"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st.Mode(), err)
	}
	public, err := os.ReadFile(filepath.Join(dir, "certs", "edge_ca.pem"))
	if err != nil || bytes.Contains(public, []byte("PRIVATE KEY")) || !parse(t, string(public))[0].Equal(ca) {
		t.Errorf("public copy: %v", err)
	}
}

func critical(c *x509.Certificate, oid string) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return e.Critical
		}
	}
	return false
}

func TestCAIsKeptRenewedOrMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		after  time.Duration
		device string
		damage bool
		kept   bool
	}{
		{"kept the next day", 24 * time.Hour, "edge1", false, true},
		{"kept just before 80 %", 72*24*time.Hour - time.Second, "edge1", false, true},
		{"renewed at 80 %", 72 * 24 * time.Hour, "edge1", false, false},
		{"renewed after its end", 100 * 24 * time.Hour, "edge1", false, false},
		{"made anew for another device", time.Hour, "edge2", false, false},
		{"made anew when damaged", time.Hour, "edge1", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, clk := t.TempDir(), &clock{start}
			before := open(t, dir, "edge1", clk).Certificate()
			clk.now = start.Add(c.after)
			if c.damage {
				if err := os.WriteFile(filepath.Join(dir, "keys", "edge_ca.pem"), []byte("-----BEGIN"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			after := open(t, dir, c.device, clk).Certificate()
			if after.Equal(before) != c.kept {
				t.Fatalf("kept: %v, want %v", after.Equal(before), c.kept)
			}
			if again := open(t, dir, c.device, clk).Certificate(); !again.Equal(after) {
				t.Fatal("not stored")
			}
		})
	}
}

func TestServerCertificate(t *testing.T) {
	clk := &clock{start}
	a := open(t, t.TempDir(), "edge1", clk)
	for _, c := range []struct {
		name, module, cn string
		sans             []string
	}{
		{"host name and module", "$edgeHub", "gateway.local", []string{"gateway.local", "edgeHub"}},
		{"address", "$edgeHub", "10.0.0.7", []string{"10.0.0.7", "edgeHub"}},
		{"same name once", "temp", "Temp", []string{"temp"}},
		{"module name that no host can have", "a'b(c)", "gateway", []string{"gateway"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := a.Server(c.module, c.cn)
			if err != nil {
				t.Fatal(err)
			}
			var leaf *x509.Certificate
			for _, san := range c.sans {
				leaf = verify(t, a, out, clk.now, san, x509.ExtKeyUsageServerAuth)
			}
			if leaf.Subject.CommonName != c.cn || len(leaf.DNSNames)+len(leaf.IPAddresses) != len(c.sans) {
				t.Errorf("CN %q, DNS %v, IP %v", leaf.Subject.CommonName, leaf.DNSNames, leaf.IPAddresses)
			}
			if leaf.KeyUsage != 0 || leaf.IsCA || len(leaf.ExtKeyUsage) != 1 {
				t.Errorf("usage %v, CA %v, extended %v", leaf.KeyUsage, leaf.IsCA, leaf.ExtKeyUsage)
			}
			if !leaf.NotAfter.Equal(start.AddDate(0, 0, 30)) || !out.NotAfter.Equal(leaf.NotAfter) {
				t.Errorf("ends %v / %v", leaf.NotAfter, out.NotAfter)
			}
		})
	}
	if _, err := a.Server("$edgeHub", "not a name"); !errors.Is(err, pki.ErrCommonName) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := a.Server("$edgeHub", ""); !errors.Is(err, pki.ErrCommonName) {
		t.Errorf("empty name: %v", err)
	}
}

func TestIdentityCertificate(t *testing.T) {
	clk := &clock{start}
	a := open(t, t.TempDir(), "edge1", clk)
	out, err := a.Identity("hub.local", "edge1", "$edgeHub")
	if err != nil {
		t.Fatal(err)
	}
	leaf := verify(t, a, out, clk.now, "", x509.ExtKeyUsageClientAuth)
	if leaf.Subject.CommonName != "$edgeHub" || len(leaf.URIs) != 1 {
		t.Fatalf("CN %q, URIs %v", leaf.Subject.CommonName, leaf.URIs)
	}
	if u := leaf.URIs[0]; u.Scheme != "azureiot" || u.Host != "hub.local" || u.Path != "/devices/edge1/modules/$edgeHub" {
		t.Errorf("URI %v", u)
	}
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("extended usage %v", leaf.ExtKeyUsage)
	}
}

func TestEveryCallMakesAFreshKeyAndSerial(t *testing.T) {
	a := open(t, t.TempDir(), "edge1", &clock{start})
	one, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	if one.KeyPEM == two.KeyPEM || parse(t, one.ChainPEM)[0].SerialNumber.Cmp(parse(t, two.ChainPEM)[0].SerialNumber) == 0 {
		t.Fatal("key or serial number used twice")
	}
	block, rest := pem.Decode([]byte(one.KeyPEM))
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatal("key is not one PKCS#8 block")
	}
}

func TestLeafNeverOutlivesTheCA(t *testing.T) {
	clk := &clock{start}
	a := open(t, t.TempDir(), "edge1", clk)
	clk.now = start.AddDate(0, 0, 80)
	out, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	if end := start.AddDate(0, 0, 90); !out.NotAfter.Equal(end) || !parse(t, out.ChainPEM)[0].NotAfter.Equal(end) {
		t.Fatalf("ends %v, want %v", out.NotAfter, end)
	}
	clk.now = start.AddDate(0, 0, 90)
	if _, err := a.Server("m", "host"); err == nil {
		t.Fatal("issued by an expired CA")
	}
}

func TestRenewReplacesTheCAInUse(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	a := open(t, dir, "edge1", clk)
	old := a.Certificate()
	clk.now = a.RenewAt()
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Certificate().Equal(old) || !a.Certificate().NotBefore.Equal(clk.now) {
		t.Fatal("old CA still in use")
	}
	out, err := a.Server("m", "host")
	if err != nil {
		t.Fatal(err)
	}
	verify(t, a, out, clk.now, "host", x509.ExtKeyUsageServerAuth)
	if got := a.RetryAfter(); got != time.Duration(0.04*90*24*float64(time.Hour)) {
		t.Errorf("retry after %v", got)
	}
}

// operatorCA writes a root and an intermediate with an EC key, as an operator
// would hand them out.
func operatorCA(t *testing.T, dir string, notAfter time.Time) (root *x509.Certificate, cert, key string) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(cn string, n int64, pub any, parent *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
		tpl := &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: cn}, NotBefore: start.Add(-time.Hour),
			NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		if parent == nil {
			parent = tpl
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, parent, pub, by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rootKey, midKey := newKey(), newKey()
	root = sign("root", 1, rootKey.Public(), nil, rootKey)
	mid := sign("edge ca", 2, midKey.Public(), root, rootKey)
	keyDER, err := x509.MarshalECPrivateKey(midKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	for path, blocks := range map[string][]*pem.Block{
		cert: {{Type: "CERTIFICATE", Bytes: mid.Raw}, {Type: "CERTIFICATE", Bytes: root.Raw}},
		key:  {{Type: "EC PRIVATE KEY", Bytes: keyDER}},
	} {
		var data []byte
		for _, b := range blocks {
			data = append(data, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, cert, key
}

// pair reads a CA as the daemon does.
func pair(certFile, keyFile string) func(context.Context) ([]*x509.Certificate, crypto.Signer, error) {
	return func(context.Context) ([]*x509.Certificate, crypto.Signer, error) {
		certPEM, err := os.ReadFile(certFile)
		if err != nil {
			return nil, nil, err
		}
		chain, err := pki.ParseCertificates(certPEM)
		if err != nil {
			return nil, nil, err
		}
		keyPEM, err := os.ReadFile(keyFile)
		if err != nil {
			return nil, nil, err
		}
		key, err := pki.ParseKey(keyPEM)
		return chain, key, err
	}
}

func TestOperatorsCA(t *testing.T) {
	dir, clk := t.TempDir(), &clock{start}
	_, cert, key := operatorCA(t, dir, start.AddDate(1, 0, 0))
	user := "-----BEGIN CERTIFICATE-----\nVVNFUg==\n-----END CERTIFICATE-----"
	a, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: dir, Preloaded: pair(cert, key), UserBundle: []byte(user), Now: clk.Now})
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Server("$edgeHub", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(parse(t, out.ChainPEM)); n != 3 {
		t.Errorf("chain of %d, want leaf, edge CA and root", n)
	}
	if a.Renewable() || a.Renew(t.Context()) == nil {
		t.Error("an operator's CA was renewed")
	}
	if !strings.HasSuffix(a.TrustBundle(), user+"\n") {
		t.Error("user bundle is missing from the trust bundle")
	}
	if _, err := os.Stat(filepath.Join(dir, "keys")); err == nil {
		t.Error("the operator's key was copied")
	}
	noUser, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: dir, Preloaded: pair(cert, key), Now: clk.Now})
	if err != nil {
		t.Fatal(err)
	}
	verify(t, noUser, out, clk.now, "gateway", x509.ExtKeyUsageServerAuth)
}

func TestOperatorsCARefused(t *testing.T) {
	dir := t.TempDir()
	_, cert, key := operatorCA(t, dir, start.AddDate(1, 0, 0))
	_, _, otherKey := operatorCA(t, t.TempDir(), start.AddDate(1, 0, 0))
	for _, c := range []struct{ name, cert, key, want string }{
		{"missing file", cert + ".no", key, "no such file"},
		{"another's key", cert, otherKey, "does not belong"},
		{"no certificate inside", key, key, "no PEM certificate"},
		{"no key inside", cert, cert, "no PEM private key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pki.Open(t.Context(), pki.Options{Dir: dir, Preloaded: pair(c.cert, c.key), Now: (&clock{start}).Now})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCertificatesOfAModuleThatAreNotAsUsual(t *testing.T) {
	clk := &clock{start}
	a, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: t.TempDir(), Days: 90, Now: clk.Now, Leaves: map[string]pki.Leaf{
		pki.LeafID("$edgeHub", true): {Days: 7, Subject: &pkix.Name{CommonName: "hub", Organization: []string{"Plant"}}},
		pki.LeafID("long", false):    {Days: 400},
	}})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := a.Server("$edgeHub", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	if leaf := parse(t, hub.ChainPEM)[0]; leaf.Subject.String() != "CN=hub,O=Plant" || !leaf.NotAfter.Equal(start.Add(7*day)) || leaf.VerifyHostname("gateway") != nil {
		t.Errorf("%v until %v, %q", leaf.Subject, leaf.NotAfter, leaf.DNSNames)
	}
	verify(t, a, hub, start, "gateway", x509.ExtKeyUsageServerAuth)
	long, err := a.Identity("hub.local", "edge1", "long")
	if err != nil || !long.NotAfter.Equal(a.Certificate().NotAfter) {
		t.Errorf("until %v, %v; the CA ends %v", long.NotAfter, err, a.Certificate().NotAfter)
	}
	other, err := a.Identity("hub.local", "edge1", "$edgeHub")
	if err != nil || parse(t, other.ChainPEM)[0].Subject.CommonName != "$edgeHub" || !other.NotAfter.Equal(start.Add(30*day)) {
		t.Errorf("another certificate of the module: %v, %v", other.NotAfter, err)
	}
}
