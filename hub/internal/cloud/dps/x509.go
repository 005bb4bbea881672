package dps

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// completeX509 checks the certificates of an enrollment and describes them. An
// individual one has those of the device, a group those of authorities; both may
// name authorities of the hub instead.
func completeX509(e *enrollment) error {
	a := e.terms.Attestation.X509
	if a == nil {
		return invalid("x509 is missing")
	}
	out := &rest.X509Attestation{}
	pair, wrong, to := a.ClientCertificates, a.SigningCertificates, &out.ClientCertificates
	if e.group {
		pair, wrong, to = wrong, pair, &out.SigningCertificates
	}
	if wrong != nil {
		return invalid("individual enrollments have clientCertificates, groups signingCertificates")
	}
	if pair != nil {
		*to = &rest.X509Pair{}
		for _, c := range []struct {
			from *rest.X509Entry
			to   **rest.X509Entry
		}{{pair.Primary, &(*to).Primary}, {pair.Secondary, &(*to).Secondary}} {
			if c.from == nil || c.from.Certificate == "" {
				continue
			}
			cert, err := devicecert.Parse(c.from.Certificate)
			if err != nil {
				return invalid("%v", err)
			}
			if e.group && !cert.IsCA {
				return invalid("groups have certificates of authorities")
			}
			*c.to = &rest.X509Entry{Certificate: rest.EncodeCertificate(cert.Raw), Info: describe(cert)}
			e.certs = append(e.certs, cert)
		}
	}
	if r := a.CAReferences; r != nil {
		out.CAReferences = &rest.CAReferences{Primary: r.Primary, Secondary: r.Secondary}
		for _, name := range []string{r.Primary, r.Secondary} {
			if name != "" {
				e.references = append(e.references, name)
			}
		}
	}
	if (len(e.certs) == 0) == (len(e.references) == 0) {
		return invalid("x509 has either certificates or caReferences")
	}
	e.terms.Attestation = rest.Attestation{Type: rest.AttestX509, X509: out}
	return nil
}

func describe(c *x509.Certificate) *rest.X509Info {
	s1, s256 := devicecert.Thumbprints(c)
	return &rest.X509Info{
		SubjectName: c.Subject.String(), IssuerName: c.Issuer.String(), SHA1Thumbprint: s1, SHA256Thumbprint: s256,
		NotBeforeUTC: rest.Time{Time: c.NotBefore.UTC()}, NotAfterUTC: rest.Time{Time: c.NotAfter.UTC()},
		SerialNumber: strings.ToUpper(fmt.Sprintf("%x", c.SerialNumber)), Version: c.Version,
	}
}

// anchors are the authorities of an enrollment: its own, and those of the hub that
// it names and that are verified.
func (d *Service) anchors(e *enrollment, pool *x509.CertPool) {
	if e.group {
		for _, c := range e.certs {
			pool.AddCert(c)
		}
	}
	for _, name := range e.references {
		if c, ok := d.o.Hub.Authorities().Verified(name); ok {
			pool.AddCert(c)
		}
	}
}

// byCertificate decides about a device that shows a certificate.
func (d *Service) byCertificate(c claim) (a *admission, reason string) {
	leaf, now := c.peer[0], d.o.Now()
	if !strings.EqualFold(leaf.Subject.CommonName, c.id) {
		return nil, "the common name of the certificate is not the registration id"
	}
	if err := devicecert.CheckTime(leaf, now); err != nil {
		return nil, err.Error()
	}
	if e, ok := d.find(individualKey(c.id)); ok {
		return d.byIndividualCertificate(c, e)
	}
	if leaf.IsCA {
		return nil, "no enrollment, and the certificate is that of an authority"
	}
	groups, all := d.certificateGroups()
	// Once against all, so that strangers cost one search and not one for each group.
	if _, err := devicecert.Verify(c.peer, all, now); err != nil {
		return nil, "no enrollment, and no group has signed: " + err.Error()
	}
	var disabled *admission
	for _, e := range groups {
		if !d.signed(c, e) {
			continue
		}
		a := &admission{enrollment: e, leaf: leaf, credentials: thumbprints(leaf, nil)}
		if e.enabled() {
			return a, ""
		}
		disabled = a
	}
	if disabled == nil {
		return nil, "no group has signed the certificate"
	}
	return disabled, ""
}

func (d *Service) certificateGroups() (groups []*enrollment, all *x509.CertPool) {
	all = x509.NewCertPool()
	for _, e := range d.list(groupKey("")) {
		if e.terms.Attestation.Type == rest.AttestX509 {
			groups = append(groups, e)
			d.anchors(e, all)
		}
	}
	return groups, all
}

// signed tells whether an authority of the enrollment has signed what a device shows.
func (d *Service) signed(c claim, e *enrollment) bool {
	if c.peer[0].IsCA {
		return false
	}
	pool := x509.NewCertPool()
	d.anchors(e, pool)
	_, err := devicecert.Verify(c.peer, pool, d.o.Now())
	return err == nil
}

func (d *Service) byIndividualCertificate(c claim, e *enrollment) (a *admission, reason string) {
	leaf := c.peer[0]
	switch {
	case e.terms.Attestation.Type != rest.AttestX509:
		return nil, "the enrollment wants " + e.terms.Attestation.Type
	case len(e.references) > 0:
		if !d.signed(c, e) {
			return nil, "no authority of the enrollment has signed the certificate"
		}
		return &admission{enrollment: e, leaf: leaf, credentials: thumbprints(leaf, nil)}, ""
	}
	var other *x509.Certificate
	found := false
	for _, known := range e.certs {
		if known.Equal(leaf) {
			found = true
		} else {
			other = known
		}
	}
	if !found {
		return nil, "the certificate is none of the enrollment"
	}
	return &admission{enrollment: e, leaf: leaf, credentials: thumbprints(leaf, other)}, ""
}

// thumbprints make the certificate that a device has shown its credentials in the
// hub; other may be nil.
func thumbprints(leaf, other *x509.Certificate) *rest.Authentication {
	_, first := devicecert.Thumbprints(leaf)
	a := &rest.Authentication{Type: rest.AuthSelfSigned, X509Thumbprint: rest.X509Thumbprint{PrimaryThumbprint: rest.Text(first)}}
	if other != nil {
		_, second := devicecert.Thumbprints(other)
		a.X509Thumbprint.SecondaryThumbprint = rest.Text(second)
	}
	return a
}
