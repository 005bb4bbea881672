package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/auth"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// fakeScope is a scope of fixed entries and of some that a refresh brings.
type fakeScope struct {
	known, fresh map[iothub.Identity]scope.Entry
	err          error
	parents      map[string]string
	listings     int
}

func (s *fakeScope) Lookup(id iothub.Identity) (scope.Entry, bool) {
	e, ok := s.known[id]
	return e, ok
}

func (s *fakeScope) Refresh(_ context.Context, id iothub.Identity) (bool, error) {
	if s.err != nil {
		return true, s.err
	}
	if e, ok := s.fresh[id]; ok {
		s.known[id] = e
	}
	return true, nil
}

func (s *fakeScope) RefreshBelow(ctx context.Context, id iothub.Identity, _ string) (bool, error) {
	return s.Refresh(ctx, id)
}

func (s *fakeScope) RefreshSoon() { s.listings++ }

// Chain is as given by parents.
func (s *fakeScope) Chain(target iothub.Identity, edge string) (string, bool) {
	var chain []string
	if target.IsModule() {
		chain = append(chain, target.String())
	}
	for d := target.Device; ; d = s.parents[d] {
		e, ok := s.known[iothub.DeviceIdentity(d)]
		if !ok || !e.Enabled {
			return "", false
		}
		if chain = append(chain, d); d == edge {
			_, ok := s.known[target]
			return strings.Join(chain, ";"), ok
		}
	}
}

func (s *fakeScope) Len() int { return len(s.known) }

func newScope(entries ...scope.Entry) *fakeScope {
	s := &fakeScope{known: make(map[iothub.Identity]scope.Entry), fresh: make(map[iothub.Identity]scope.Entry)}
	for _, e := range entries {
		s.known[e.ID] = e
	}
	return s
}

func entry(id string) scope.Entry {
	parsed, err := iothub.ParseIdentity(id)
	if err != nil {
		panic(err)
	}
	return scope.Entry{ID: parsed, Enabled: true, Auth: scope.SAS,
		Primary: sas.Key("primary of " + id), Secondary: sas.Key("secondary of " + id)}
}

func authenticator(s auth.Scope, bundle *x509.CertPool) *auth.Authenticator {
	return auth.New(s, auth.Options{
		Hosts: []string{"hub.example", "gw.example"}, Device: "edge", TrustBundle: func() *x509.CertPool { return bundle },
		Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler),
	})
}

func token(t *testing.T, host, id string, key string, expiry time.Time) string {
	t.Helper()
	parsed, err := iothub.ParseIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sas.New(sas.DeviceResource(host, parsed), expiry, "", sas.Key(key).Sign)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokens(t *testing.T) {
	disabled := entry("off")
	disabled.Enabled = false
	offModule := entry("off/m")
	byCert := entry("cert")
	byCert.Auth = scope.SelfSigned
	s := newScope(entry("edge"), entry("edge/m"), entry("edge/n"), entry("leaf"), disabled, offModule, byCert)
	soon := now.Add(time.Hour)
	tests := []struct {
		name, id string
		token    string
		ok       bool
	}{
		{"primary key", "leaf", token(t, "hub.example", "leaf", "primary of leaf", soon), true},
		{"secondary key", "leaf", token(t, "hub.example", "leaf", "secondary of leaf", soon), true},
		{"name of the gateway", "leaf", token(t, "gw.example", "leaf", "primary of leaf", soon), true},
		{"host in other case", "leaf", token(t, "HUB.Example", "leaf", "primary of leaf", soon), true},
		{"module key", "edge/m", token(t, "hub.example", "edge/m", "primary of edge/m", soon), true},
		{"module with its device's key", "edge/m", token(t, "hub.example", "edge", "primary of edge", soon), true},
		{"expired four minutes ago", "leaf", token(t, "hub.example", "leaf", "primary of leaf", now.Add(-4*time.Minute)), true},
		{"expired six minutes ago", "leaf", token(t, "hub.example", "leaf", "primary of leaf", now.Add(-6*time.Minute)), false},
		{"wrong key", "leaf", token(t, "hub.example", "leaf", "primary of edge", soon), false},
		{"another host", "leaf", token(t, "other.example", "leaf", "primary of leaf", soon), false},
		{"another device", "leaf", token(t, "hub.example", "edge", "primary of edge", soon), false},
		{"module token for its device", "edge", token(t, "hub.example", "edge/m", "primary of edge/m", soon), false},
		{"module token for another module", "edge/n", token(t, "hub.example", "edge/m", "primary of edge/m", soon), false},
		{"device audience with module key", "edge/m", token(t, "hub.example", "edge", "primary of edge/m", soon), false},
		{"disabled", "off", token(t, "hub.example", "off", "primary of off", soon), false},
		{"module of a disabled device", "off/m", token(t, "hub.example", "off/m", "primary of off/m", soon), false},
		{"unknown", "nobody", token(t, "hub.example", "nobody", "primary of nobody", soon), false},
		{"identity of another kind", "cert", token(t, "hub.example", "cert", "primary of cert", soon), false},
		{"no token", "leaf", "SharedAccessSignature", false},
		{"nothing", "leaf", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := iothub.ParseIdentity(tt.id)
			if err != nil {
				t.Fatal(err)
			}
			err = authenticator(s, nil).Authenticate(t.Context(), head.Login{Identity: id, Token: tt.token})
			if (err == nil) != tt.ok || (err != nil && !errors.Is(err, head.ErrUnauthorized)) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "sig=") {
				t.Errorf("error shows the token: %v", err)
			}
		})
	}
}

func TestKeyWithoutValueNeverMatches(t *testing.T) {
	e := entry("leaf")
	e.Primary, e.Secondary = nil, nil
	s, err := sas.New(sas.DeviceResource("hub.example", e.ID), now.Add(time.Hour), "", sas.Key(nil).Sign)
	if err != nil {
		t.Fatal(err)
	}
	err = authenticator(newScope(e), nil).Check(head.Login{Identity: e.ID, Token: s})
	if !errors.Is(err, head.ErrUnauthorized) {
		t.Errorf("error %v", err)
	}
}

func TestFailureRefreshesTheIdentityAndTriesAgain(t *testing.T) {
	s := newScope(entry("edge"))
	s.fresh[iothub.DeviceIdentity("leaf")] = entry("leaf")
	l := head.Login{Identity: iothub.DeviceIdentity("leaf"), Token: token(t, "hub.example", "leaf", "primary of leaf", now.Add(time.Hour))}
	if err := authenticator(s, nil).Authenticate(t.Context(), l); err != nil {
		t.Error(err)
	}
}

func TestWithoutAnyScopeClientsAreToldToComeAgain(t *testing.T) {
	s := newScope()
	s.err = errors.New("cloud is away")
	l := head.Login{Identity: iothub.DeviceIdentity("leaf"), Token: token(t, "hub.example", "leaf", "k", now.Add(time.Hour))}
	if err := authenticator(s, nil).Authenticate(t.Context(), l); !errors.Is(err, head.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestCertificatesCanBeSwitchedOff(t *testing.T) {
	ca := newAuthority(t)
	bundle := x509.NewCertPool()
	bundle.AddCert(ca.cert)
	s := newScope(scope.Entry{ID: iothub.DeviceIdentity("leaf"), Enabled: true, Auth: scope.CertificateAuthority})
	l := head.Login{Identity: iothub.DeviceIdentity("leaf"), Peer: []*x509.Certificate{ca.leaf(t, func(*x509.Certificate) {})}}
	for _, off := range []bool{false, true} {
		a := auth.New(s, auth.Options{TrustBundle: func() *x509.CertPool { return bundle }, NoCertificates: off, Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler)})
		if err := a.Check(l); errors.Is(err, head.ErrUnauthorized) != off {
			t.Errorf("off %v: %v", off, err)
		}
	}
}

// authority issues certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	cert, key := issue(t, c, nil)
	return authority{cert, key}
}

func issue(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a authority) leaf(t *testing.T, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(c)
	cert, _ := issue(t, c, &a)
	return cert
}

func TestCertificates(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	bundle := x509.NewCertPool()
	bundle.AddCert(ca.cert)
	good := ca.leaf(t, func(*x509.Certificate) {})
	s1, s256 := sha1.Sum(good.Raw), sha256.Sum256(good.Raw)
	thumb := func(t string) scope.Entry {
		return scope.Entry{ID: iothub.DeviceIdentity("leaf"), Enabled: true, Auth: scope.SelfSigned, Thumbprints: []string{"00", t}}
	}
	signed := scope.Entry{ID: iothub.DeviceIdentity("leaf"), Enabled: true, Auth: scope.CertificateAuthority}
	module := signed
	module.ID = iothub.ModuleIdentity("leaf", "m")
	tests := []struct {
		name  string
		entry scope.Entry
		cert  *x509.Certificate
		ok    bool
	}{
		{"SHA-1 thumbprint", thumb(hex.EncodeToString(s1[:])), good, true},
		{"SHA-256 thumbprint in capitals", thumb(strings.ToUpper(hex.EncodeToString(s256[:]))), good, true},
		{"other thumbprint", thumb(strings.Repeat("ab", 20)), good, false},
		{"expired with right thumbprint", thumb(hex.EncodeToString(s1[:])), ca.leaf(t, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), false},
		{"signed by the bundle", signed, good, true},
		{"signed by a stranger", signed, stranger.leaf(t, func(*x509.Certificate) {}), false},
		{"other common name", signed, ca.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = "Leaf" }), false},
		{"an authority itself", signed, ca.leaf(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), false},
		{"not yet valid", signed, ca.leaf(t, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }), false},
		{"module", module, good, false},
		{"identity with keys", entry("leaf"), good, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScope(tt.entry)
			s.known[iothub.DeviceIdentity("leaf")] = scope.Entry{Enabled: true}
			s.known[tt.entry.ID] = tt.entry
			err := authenticator(s, bundle).Check(head.Login{Identity: tt.entry.ID, Peer: []*x509.Certificate{tt.cert}})
			if (err == nil) != tt.ok || (err != nil && !errors.Is(err, head.ErrUnauthorized)) {
				t.Errorf("error %v", err)
			}
		})
	}
}
