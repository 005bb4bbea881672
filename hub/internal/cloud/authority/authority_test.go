package authority_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/authority"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func open(t *testing.T, changed func()) (*authority.List, *store.Store) {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l, err := authority.Open(s, clock, changed)
	if err != nil {
		t.Fatal(err)
	}
	return l, s
}

func body(c *x509.Certificate, verified bool) []byte {
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	raw, err := json.Marshal(rest.Certificate{Properties: rest.CertificateProperties{Certificate: text, IsVerified: verified}})
	if err != nil {
		panic(err)
	}
	return raw
}

func code(err error) registry.Code {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return registry.Code(fmt.Sprint(err))
}

func counts(l *authority.List, ca *certtest.Authority, t *testing.T) bool {
	_, err := devicecert.CheckSigned([]*x509.Certificate{ca.Leaf(t, "d", now)}, "d", l.Pool(), now)
	return err == nil
}

func TestOnlyVerifiedAuthoritiesCount(t *testing.T) {
	ends := 0
	l, s := open(t, func() { ends++ })
	ca, other := certtest.New(t, "ca", now, nil), certtest.New(t, "other", now, nil)
	ctx := t.Context()
	c, err := l.Put(ctx, "ca", body(ca.Cert, false), registry.Absent)
	if err != nil || c.Properties.IsVerified || c.Properties.Subject != "CN=ca" || !c.Properties.Expiry.Equal(ca.Cert.NotAfter) {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, ok := l.Verified("ca"); ok || counts(l, ca, t) {
		t.Error("counts although nobody has proved anything")
	}
	proof := func(by *certtest.Authority, name string, change ...func(*x509.Certificate)) []byte {
		return body(by.Leaf(t, name, now, change...), true)
	}
	if _, err := l.Verify(ctx, "ca", proof(ca, "x"), registry.Absent); code(err) != registry.InvalidOperation {
		t.Errorf("without a code: %v", err)
	}
	first, err := l.Code(ctx, "ca", registry.Absent)
	if err != nil {
		t.Fatal(err)
	}
	c, err = l.Code(ctx, "ca", registry.ParseMatch(first.Etag))
	if err != nil || len(c.Properties.VerificationCode) != 48 || c.Properties.VerificationCode == first.Properties.VerificationCode {
		t.Fatalf("%+v, %v", c, err)
	}
	name := c.Properties.VerificationCode
	for what, raw := range map[string][]byte{
		"another's signature": proof(other, name),
		"an old code":         proof(ca, first.Properties.VerificationCode),
		"no code":             proof(ca, ""),
		"proof has ended":     proof(ca, name, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		"itself":              body(ca.Cert, true),
		"nothing":             []byte(`{}`),
	} {
		if _, err := l.Verify(ctx, "ca", raw, registry.Absent); code(err) != registry.ArgumentInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if counts(l, ca, t) {
		t.Error("counts although nobody has proved anything")
	}
	c, err = l.Verify(ctx, "ca", proof(ca, name), registry.Absent)
	if err != nil || !c.Properties.IsVerified || c.Properties.VerificationCode != "" || !counts(l, ca, t) || counts(l, other, t) {
		t.Errorf("%+v, %v", c, err)
	}
	if ends != 0 {
		t.Errorf("told %d times of an end", ends)
	}
	// As after a restart.
	again, err := authority.Open(s, clock, nil)
	if err != nil || !counts(again, ca, t) || len(again.All()) != 1 {
		t.Errorf("%+v, %v", again.All(), err)
	}
	// Another certificate under the name begins anew.
	if _, err := l.Put(ctx, "ca", body(other.Cert, false), registry.ParseMatch(c.Etag)); err != nil || counts(l, ca, t) || counts(l, other, t) || ends != 1 {
		t.Errorf("%v, told %d times", err, ends)
	}
	if err := l.Delete(ctx, "ca", registry.Any); err != nil || ends != 2 {
		t.Errorf("%v, told %d times", err, ends)
	}
	if again, err = authority.Open(s, clock, nil); err != nil || len(again.All()) != 0 {
		t.Errorf("%+v, %v", again.All(), err)
	}
}

func TestRefusals(t *testing.T) {
	l, _ := open(t, nil)
	ca := certtest.New(t, "ca", now, nil)
	ctx := t.Context()
	if _, err := l.Put(ctx, "ca", body(ca.Cert, true), registry.Absent); err != nil {
		t.Fatal(err)
	}
	put := func(name string, raw []byte, m registry.Match) error { _, err := l.Put(ctx, name, raw, m); return err }
	tests := map[string]struct {
		err  error
		want registry.Code
	}{
		"twice":                {put("ca", body(ca.Cert, true), registry.Absent), authority.Exists},
		"update of nothing":    {put("no", body(ca.Cert, true), registry.Any), authority.NotFound},
		"stale etag":           {put("ca", body(ca.Cert, true), registry.ParseMatch("x")), registry.PreconditionFailed},
		"delete, stale etag":   {l.Delete(ctx, "ca", registry.ParseMatch("x")), registry.PreconditionFailed},
		"delete of nothing":    {l.Delete(ctx, "no", registry.Any), authority.NotFound},
		"odd name":             {put("a b", body(ca.Cert, true), registry.Absent), registry.ArgumentInvalid},
		"no authority":         {put("leaf", body(ca.Leaf(t, "d", now), true), registry.Absent), registry.ArgumentInvalid},
		"no certificate":       {put("x", []byte(`{"properties":{}}`), registry.Absent), registry.ArgumentInvalid},
		"not JSON":             {put("x", []byte(`{`), registry.Absent), registry.ArgumentInvalid},
		"code without a match": {second(l.Code(ctx, "ca", registry.ParseMatch("x"))), registry.PreconditionFailed},
		"code of nothing":      {second(l.Code(ctx, "no", registry.Absent)), authority.NotFound},
	}
	for name, tt := range tests {
		if code(tt.err) != tt.want {
			t.Errorf("%s: %v", name, tt.err)
		}
	}
	for i := 1; i < authority.Max; i++ {
		if err := put(fmt.Sprint("ca", i), body(ca.Cert, false), registry.Absent); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("more", body(ca.Cert, false), registry.Absent); code(err) != authority.TooMany {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzPut(f *testing.F) {
	f.Add([]byte(`{"properties":{"certificate":"MIIB","isVerified":true}}`))
	f.Add([]byte(`{"certificate":"x"}`))
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	l, err := authority.Open(s, clock, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := l.Put(t.Context(), "ca", body, registry.Absent)
		if err != nil && code(err) != registry.ArgumentInvalid {
			t.Error(err)
		}
		if err == nil {
			if err := l.Delete(t.Context(), "ca", registry.ParseMatch(c.Etag)); err != nil {
				t.Error(err)
			}
		}
	})
}
