// Package devicecert judges the certificates with which devices log in: by
// thumbprint, or by who signed them (spec edgehub-core 5.3, iothub-mqtt 4). That
// the client holds the key of its certificate TLS has proved.
package devicecert

import (
	"crypto/sha1" //nolint:gosec // registries hold SHA-1 thumbprints too
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxSize bounds the text of one certificate.
const MaxSize = 32 << 10

// Errors of judgements; the texts are for logs.
var (
	errNone    = errors.New("no certificate")
	errName    = errors.New("common name of the certificate is not that of the identity")
	errCA      = errors.New("certificate is that of an authority")
	errAnchors = errors.New("no authority to check the certificate against")
)

// CheckTime tells whether a certificate counts at a time.
func CheckTime(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("certificate is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter):
		return fmt.Errorf("certificate has ended at %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Thumbprints returns SHA-1 and SHA-256 of a certificate in upper-case hexadecimal.
func Thumbprints(c *x509.Certificate) (s1, s256 string) {
	a, b := sha1.Sum(c.Raw), sha256.Sum256(c.Raw) //nolint:gosec // as above
	return strings.ToUpper(hex.EncodeToString(a[:])), strings.ToUpper(hex.EncodeToString(b[:]))
}

// HasThumbprint tells whether one of the known thumbprints, in any case, is that of
// the certificate. The time it takes does not tell which.
func HasThumbprint(c *x509.Certificate, known ...string) bool {
	s1, s256 := Thumbprints(c)
	ok := 0
	for _, want := range known {
		for _, have := range []string{s1, s256} {
			ok |= subtle.ConstantTimeCompare([]byte(strings.ToUpper(want)), []byte(have))
		}
	}
	return ok == 1
}

// CheckSigned tells whether the first certificate of a chain, which may be in any
// order from there, names the identity and is signed by one of the anchors, by way
// of others in the chain if need be. An anchor need not sign itself. The result is
// when the first of the certificates involved ends.
//
// A certificate that lists what its key is for must list client authentication:
// else the certificate of any server that the same authority has signed would do.
func CheckSigned(chain []*x509.Certificate, name string, anchors *x509.CertPool, now time.Time) (until time.Time, err error) {
	if len(chain) == 0 {
		return until, errNone
	}
	leaf := chain[0]
	switch {
	case leaf.Subject.CommonName != name || name == "":
		return until, errName
	case leaf.IsCA:
		return until, errCA
	case anchors == nil:
		return until, errAnchors
	}
	return Verify(chain, anchors, now)
}

// Verify is CheckSigned for whatever name the certificate has.
func Verify(chain []*x509.Certificate, anchors *x509.CertPool, now time.Time) (until time.Time, err error) {
	if len(chain) == 0 {
		return until, errNone
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	found, err := chain[0].Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return until, fmt.Errorf("certificate chain: %w", err)
	}
	for _, path := range found { // the one that lasts longest counts
		end := path[0].NotAfter
		for _, c := range path[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(until) {
			until = end
		}
	}
	return until, nil
}

// Parse reads one certificate as operators give it: PEM, or base64 of PEM or DER.
// More certificates behind the first one are ignored.
func Parse(text string) (*x509.Certificate, error) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > MaxSize {
		return nil, fmt.Errorf("a certificate has 1 to %d bytes", MaxSize)
	}
	raw := []byte(text)
	if block, _ := pem.Decode(raw); block == nil {
		var err error
		if raw, err = base64.StdEncoding.DecodeString(strings.Map(dropSpace, text)); err != nil {
			return nil, errors.New("a certificate is PEM or base64")
		}
	}
	return parseBytes(raw)
}

// ParseChain reads certificates in PEM, at least one and at most limit.
func ParseChain(raw []byte, limit int) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		raw = rest
		if block.Type != pemType {
			return nil, errors.New("the PEM is not that of a certificate")
		}
		if len(chain) == limit {
			return nil, fmt.Errorf("more than %d certificates", limit)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a certificate cannot be read")
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errNone
	}
	return chain, nil
}

const pemType = "CERTIFICATE"

func parseBytes(raw []byte) (*x509.Certificate, error) {
	if block, _ := pem.Decode(raw); block != nil {
		if block.Type != pemType {
			return nil, errors.New("the PEM is not that of a certificate")
		}
		raw = block.Bytes
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		// The text of the error may repeat what was sent, which may be a key.
		return nil, errors.New("the certificate cannot be read")
	}
	return c, nil
}

func dropSpace(r rune) rune {
	if r == ' ' || r == '\n' || r == '\r' || r == '\t' {
		return -1
	}
	return r
}
