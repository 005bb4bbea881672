package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// Request asks an issuer for a certificate.
type Request struct {
	Template Template
	// CSR is the PKCS#10 request, DER, signed by Key.
	CSR []byte
	Key crypto.Signer
	// Current is the certificate to be replaced; nil if there is none, or if it has
	// expired.
	Current *tls.Certificate
	// Now is the time, in whole seconds.
	Now time.Time
}

// Issuer makes certificates: SelfSigner, *LocalCA, and EST servers do.
type Issuer interface {
	// Issue returns the certificate, then those of its issuers as far as known.
	Issue(ctx context.Context, r Request) ([]*x509.Certificate, error)
}

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// newRequest makes the signing request for a template.
func newRequest(t Template, key crypto.Signer) (Request, error) {
	csr := &x509.CertificateRequest{Subject: t.Subject}
	add := func(id asn1.ObjectIdentifier, critical bool, value any) error {
		der, err := asn1.Marshal(value)
		if err != nil {
			return fmt.Errorf("certificate request: %w", err)
		}
		csr.ExtraExtensions = append(csr.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: der})
		return nil
	}
	var err error
	if t.CA {
		err = errors.Join(
			add(oidBasicConstraints, true, struct {
				CA      bool
				PathLen int
			}{true, t.PathLen}),
			// Bits 0 (digitalSignature) and 5 (keyCertSign).
			add(oidKeyUsage, true, asn1.BitString{Bytes: []byte{0x84}, BitLength: 6}),
		)
	} else {
		err = errors.Join(
			add(oidKeyUsage, true, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}),
			add(oidExtKeyUsage, false, []asn1.ObjectIdentifier{oidClientAuth}),
		)
	}
	if err != nil {
		return Request{}, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, csr, key)
	if err != nil {
		return Request{}, fmt.Errorf("certificate request: %w", err)
	}
	return Request{Template: t, CSR: der, Key: key}, nil
}

// certificate is the x509 template of a request.
func (r Request) certificate() (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: r.Template.Subject, BasicConstraintsValid: true,
		NotBefore: r.Now, NotAfter: r.Now.AddDate(0, 0, r.Template.Days),
	}
	if r.Template.CA {
		c.IsCA, c.MaxPathLen, c.MaxPathLenZero = true, r.Template.PathLen, r.Template.PathLen == 0
		c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
	} else {
		c.KeyUsage = x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return c, nil
}

// SelfSigner makes certificates that sign themselves.
type SelfSigner struct{}

var _ Issuer = SelfSigner{}

// Issue makes one.
func (SelfSigner) Issue(_ context.Context, r Request) ([]*x509.Certificate, error) {
	template, err := r.certificate()
	if err != nil {
		return nil, err
	}
	return sign(template, template, r.Key.Public(), r.Key)
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return []*x509.Certificate{cert}, nil
}

// LocalCA issues with a CA on this device. Load is called for each certificate, so
// that a replaced file counts at once.
type LocalCA struct {
	// Load returns the CA's certificate with its issuers, and its key.
	Load func(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error)
}

var _ Issuer = (*LocalCA)(nil)

// Issue makes a certificate that ends with the CA's at the latest.
func (l *LocalCA) Issue(ctx context.Context, r Request) ([]*x509.Certificate, error) {
	chain, key, err := l.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	if err := checkCA(chain, key); err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	if !r.Now.Before(chain[0].NotAfter) {
		return nil, fmt.Errorf("local CA expired on %s", chain[0].NotAfter.Format(time.RFC3339))
	}
	template, err := r.certificate()
	if err != nil {
		return nil, err
	}
	if template.NotAfter.After(chain[0].NotAfter) {
		template.NotAfter = chain[0].NotAfter
	}
	out, err := sign(template, chain[0], r.Key.Public(), key)
	if err != nil {
		return nil, err
	}
	return append(out, chain...), nil
}
