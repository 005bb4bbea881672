package devicecert_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func authority(t *testing.T, name string, by *certtest.Authority, change ...func(*x509.Certificate)) *certtest.Authority {
	t.Helper()
	return certtest.New(t, name, now, by, change...)
}

func pool(list ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range list {
		p.AddCert(c)
	}
	return p
}

func TestCheckSigned(t *testing.T) {
	root := authority(t, "root", nil)
	middle := authority(t, "middle", root)
	low := authority(t, "low", middle)
	stranger := authority(t, "root", nil) // of the same name
	oldMiddle := authority(t, "middle", root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	narrow := authority(t, "narrow", root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	belowNarrow := authority(t, "below", narrow)
	noCA := authority(t, "no CA", root, func(c *x509.Certificate) { c.IsCA = false })
	noSign := authority(t, "no signing", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	expired := func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	ends := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = now.Add(d) }
	}
	tests := map[string]struct {
		chain   []*x509.Certificate
		anchors *x509.CertPool
		until   time.Duration // 0: refused
	}{
		"signed by the root":            {chain(root.Leaf(t, "d", now)), pool(root.Cert), certtest.LeafLife},
		"ends before all others":        {chain(root.Leaf(t, "d", now, ends(time.Minute))), pool(root.Cert), time.Minute},
		"two between":                   {chain(low.Leaf(t, "d", now), low.Cert, middle.Cert), pool(root.Cert), certtest.LeafLife},
		"two between, the other way":    {chain(low.Leaf(t, "d", now), middle.Cert, low.Cert), pool(root.Cert), certtest.LeafLife},
		"one between is missing":        {chain(low.Leaf(t, "d", now), low.Cert), pool(root.Cert), 0},
		"anchor is not the root":        {chain(low.Leaf(t, "d", now), low.Cert), pool(middle.Cert), certtest.LeafLife},
		"anchor is a neighbour":         {chain(middle.Leaf(t, "d", now), middle.Cert), pool(low.Cert), 0},
		"one between has ended":         {chain(oldMiddle.Leaf(t, "d", now), oldMiddle.Cert), pool(root.Cert), 0},
		"one between is no authority":   {chain(noCA.Leaf(t, "d", now), noCA.Cert), pool(root.Cert), 0},
		"one between may not sign":      {chain(noSign.Leaf(t, "d", now), noSign.Cert), pool(root.Cert), 0},
		"path is too long":              {chain(belowNarrow.Leaf(t, "d", now), belowNarrow.Cert, narrow.Cert), pool(root.Cert), 0},
		"root sent by the client":       {chain(stranger.Leaf(t, "d", now), stranger.Cert), pool(root.Cert), 0},
		"same name, another key":        {chain(stranger.Leaf(t, "d", now)), pool(root.Cert), 0},
		"another name":                  {chain(root.Leaf(t, "D", now)), pool(root.Cert), 0},
		"no name":                       {chain(root.Leaf(t, "", now)), pool(root.Cert), 0},
		"an authority":                  {chain(authority(t, "d", root).Cert), pool(root.Cert), 0},
		"has ended":                     {chain(root.Leaf(t, "d", now, expired)), pool(root.Cert), 0},
		"has not begun":                 {chain(root.Leaf(t, "d", now, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) })), pool(root.Cert), 0},
		"for clients and servers":       {chain(root.Leaf(t, "d", now, usage(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth))), pool(root.Cert), certtest.LeafLife},
		"says nothing of use":           {chain(root.Leaf(t, "d", now, usage())), pool(root.Cert), certtest.LeafLife},
		"for servers":                   {chain(root.Leaf(t, "d", now, usage(x509.ExtKeyUsageServerAuth))), pool(root.Cert), 0},
		"no anchors":                    {chain(root.Leaf(t, "d", now)), nil, 0},
		"no anchor in the pool":         {chain(root.Leaf(t, "d", now)), pool(), 0},
		"no certificate":                {nil, pool(root.Cert), 0},
		"itself in the place of a root": {chain(root.Leaf(t, "d", now), root.Cert), pool(stranger.Cert), 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			id := "d"
			if name == "no name" {
				id = ""
			}
			until, err := devicecert.CheckSigned(tt.chain, id, tt.anchors, now)
			if (err == nil) != (tt.until != 0) {
				t.Fatalf("error %v", err)
			}
			if err == nil && !until.Equal(now.Add(tt.until)) {
				t.Errorf("until %v", until)
			}
		})
	}
}

func chain(leaf *x509.Certificate, more ...*x509.Certificate) []*x509.Certificate {
	return append([]*x509.Certificate{leaf}, more...)
}

func TestThumbprints(t *testing.T) {
	ca := authority(t, "root", nil)
	leaf := ca.Leaf(t, "d", now)
	s1, s256 := devicecert.Thumbprints(leaf)
	if len(s1) != 40 || len(s256) != 64 {
		t.Fatal(s1, s256)
	}
	for _, known := range [][]string{{s1}, {s256}, {"", s256}, {strings.ToLower(s1), "00"}} {
		if !devicecert.HasThumbprint(leaf, known...) {
			t.Errorf("not known by %q", known)
		}
	}
	for _, known := range [][]string{nil, {""}, {"", ""}, {s1[:39]}, {s256[:40]}, {s1 + s256}} {
		if devicecert.HasThumbprint(leaf, known...) {
			t.Errorf("known by %q", known)
		}
	}
}

func TestParse(t *testing.T) {
	leaf := authority(t, "root", nil).Leaf(t, "d", now)
	der := base64.StdEncoding.EncodeToString(leaf.Raw)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	for name, in := range map[string]string{
		"PEM": text, "PEM with more": "about\n" + text + text, "base64 of PEM": base64.StdEncoding.EncodeToString([]byte(text)),
		"base64 of DER": der, "in lines": der[:60] + "\r\n" + der[60:] + "\n",
	} {
		if c, err := devicecert.Parse(in); err != nil || !c.Equal(leaf) {
			t.Errorf("%s: %v", name, err)
		}
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	for name, in := range map[string]string{
		"nothing": "", "words": "a certificate", "key": key, "base64 of a key": base64.StdEncoding.EncodeToString([]byte(key)),
		"cut": der[:len(der)-8], "too long": strings.Repeat("A", devicecert.MaxSize+1),
	} {
		if _, err := devicecert.Parse(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := devicecert.ParseChain([]byte(text+text), 2); err != nil || len(c) != 2 {
		t.Error(err)
	}
	for name, in := range map[string]string{"three": text + text + text, "none": "x", "a key": text + key} {
		if _, err := devicecert.ParseChain([]byte(in), 2); err == nil {
			t.Error(name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("MIIB")
	f.Add("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := devicecert.Parse(text); err == nil {
			again, err := devicecert.Parse(base64.StdEncoding.EncodeToString(c.Raw))
			if err != nil || !again.Equal(c) {
				t.Error(err)
			}
		}
		if chain, err := devicecert.ParseChain([]byte(text), 4); err == nil && (len(chain) == 0 || len(chain) > 4) {
			t.Error(len(chain))
		}
	})
}
