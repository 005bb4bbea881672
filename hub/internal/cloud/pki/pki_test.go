package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/pki"
)

func open(t *testing.T, dir string, at time.Time, names ...string) *pki.Server {
	t.Helper()
	s, err := pki.Open(dir, names, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func leaf(t *testing.T, s *pki.Server) *x509.Certificate {
	t.Helper()
	c, err := s.TLS().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestServerCertificateIsForAllNamesUnderTheRoot(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	s := open(t, dir, now, "hub.test", "10.0.0.1", "localhost")
	roots := x509.NewCertPool()
	raw, err := os.ReadFile(filepath.Join(dir, pki.RootFile))
	if err != nil || !roots.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	for _, name := range []string{"hub.test", "10.0.0.1", "localhost"} {
		if _, err := leaf(t, s).Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []string{"root.key", "server.key"} {
		if info, err := os.Stat(filepath.Join(dir, key)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestCertificatesAreKeptWhileTheyAreGood(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		at    time.Time
		names []string
		same  bool
	}{
		"again":            {now, []string{"hub.test"}, true},
		"another name":     {now, []string{"hub.test", "more.test"}, false},
		"close to its end": {now.Add(380 * 24 * time.Hour), []string{"hub.test"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := open(t, dir, now, "hub.test")
			second := open(t, dir, tt.at, tt.names...)
			if !first.Root().Equal(second.Root()) {
				t.Error("another root")
			}
			if leaf(t, first).Equal(leaf(t, second)) != tt.same {
				t.Errorf("same: %v", !tt.same)
			}
		})
	}
}

func TestCertificateIsRenewedWhileRunning(t *testing.T) {
	now := time.Now()
	s, err := pki.Open(t.TempDir(), []string{"hub.test"}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	before := leaf(t, s)
	now = now.Add(380 * 24 * time.Hour)
	if leaf(t, s).Equal(before) {
		t.Error("still the old one")
	}
}

func TestDamage(t *testing.T) {
	tests := map[string]struct {
		damage func(dir string) error
		opens  bool
	}{
		"half a server pair":     {func(d string) error { return os.Remove(filepath.Join(d, "server.pem")) }, true},
		"mixed server pair":      {func(d string) error { return os.WriteFile(filepath.Join(d, "server.key"), []byte("x"), 0o600) }, true},
		"root without its key":   {func(d string) error { return os.Remove(filepath.Join(d, "root.key")) }, false},
		"root key unreadable":    {func(d string) error { return os.WriteFile(filepath.Join(d, "root.key"), []byte("x"), 0o600) }, false},
		"key without root":       {func(d string) error { return os.Remove(filepath.Join(d, "root.pem")) }, true},
		"root is not the file's": {func(d string) error { return os.WriteFile(filepath.Join(d, "root.pem"), []byte("x"), 0o600) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir, time.Now(), "hub.test")
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := pki.Open(dir, []string{"hub.test"}, nil); (err == nil) != tt.opens {
				t.Errorf("%v", err)
			}
		})
	}
}
