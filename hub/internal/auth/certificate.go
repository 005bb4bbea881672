package auth

import (
	"crypto/sha1" //nolint:gosec // the registry's thumbprints are SHA-1 or SHA-256
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
)

// checkCertificate applies spec edgehub-core 5.3.
func (a *Authenticator) checkCertificate(l head.Login) error {
	if l.Identity.IsModule() {
		return errors.New("modules do not authenticate by certificate")
	}
	e, err := a.entry(l.Identity)
	if err != nil {
		return err
	}
	leaf := l.Peer[0]
	if now := a.o.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return errors.New("certificate is not valid at this time")
	}
	switch e.Auth {
	case scope.SelfSigned:
		return checkThumbprint(leaf, e.Thumbprints)
	case scope.CertificateAuthority:
		return a.checkChain(l, leaf)
	default:
		return fmt.Errorf("identity does not authenticate by certificate but by %q", e.Auth)
	}
}

func checkThumbprint(leaf *x509.Certificate, known []string) error {
	s1 := sha1.Sum(leaf.Raw) //nolint:gosec // as above
	s256 := sha256.Sum256(leaf.Raw)
	ok := 0
	for _, want := range known {
		want = strings.ToUpper(want)
		for _, have := range []string{hex.EncodeToString(s1[:]), hex.EncodeToString(s256[:])} {
			ok |= subtle.ConstantTimeCompare([]byte(want), []byte(strings.ToUpper(have)))
		}
	}
	if ok == 0 {
		return errors.New("certificate has another thumbprint")
	}
	return nil
}

func (a *Authenticator) checkChain(l head.Login, leaf *x509.Certificate) error {
	if leaf.Subject.CommonName != l.Identity.Device {
		return errors.New("common name of the certificate is not the device id")
	}
	if leaf.IsCA {
		return errors.New("certificate is that of an authority")
	}
	if a.o.TrustBundle == nil {
		return errors.New("no trust bundle to check the certificate against")
	}
	intermediates := x509.NewCertPool()
	for _, c := range l.Peer[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.o.TrustBundle, Intermediates: intermediates, CurrentTime: a.o.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("certificate chain: %w", err)
	}
	return nil
}
