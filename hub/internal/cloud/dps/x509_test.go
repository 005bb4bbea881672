package dps_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func (w *world) certified(id string, c tls.Certificate, more ...*x509.Certificate) *device {
	for _, m := range more {
		c.Certificate = append(c.Certificate, m.Raw)
	}
	return &device{w: w, id: id, scope: scope, certificates: []tls.Certificate{c}}
}

func pemText(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func clientCerts(primary *x509.Certificate, secondary ...*x509.Certificate) rest.EnrollmentTerms {
	p := &rest.X509Pair{Primary: &rest.X509Entry{Certificate: pemText(primary)}}
	if len(secondary) > 0 {
		p.Secondary = &rest.X509Entry{Certificate: rest.EncodeCertificate(secondary[0].Raw)}
	}
	return rest.EnrollmentTerms{Attestation: rest.Attestation{X509: &rest.X509Attestation{ClientCertificates: p}}}
}

func signingCerts(c *x509.Certificate) rest.EnrollmentTerms {
	return rest.EnrollmentTerms{Attestation: rest.Attestation{Type: "X509", X509: &rest.X509Attestation{
		SigningCertificates: &rest.X509Pair{Primary: &rest.X509Entry{Certificate: pemText(c)}}}}}
}

func references(names ...string) rest.EnrollmentTerms {
	r := &rest.CAReferences{Primary: names[0]}
	if len(names) > 1 {
		r.Secondary = names[1]
	}
	return rest.EnrollmentTerms{Attestation: rest.Attestation{Type: "x509", X509: &rest.X509Attestation{CAReferences: r}}}
}

func TestIndividualCertificate(t *testing.T) {
	w := start(t)
	var none *certtest.Authority
	first, second, stranger := none.Pair(t, "Dev", w.now()), none.Pair(t, "dev", w.now()), none.Pair(t, "dev", w.now())
	e := w.enroll(rest.Enrollment{RegistrationID: "dev", EnrollmentTerms: clientCerts(first.Leaf, second.Leaf)})
	if info := e.Attestation.X509.ClientCertificates.Primary.Info; info == nil || info.SubjectName != "CN=Dev" || len(info.SHA1Thumbprint) != 40 {
		t.Errorf("%+v", info)
	}
	s := w.certified("dev", second).register()
	if s.Status != rest.RegistrationAssigned || s.X509 == nil || s.X509.CertificateInfo.SubjectName != "CN=dev" || s.X509.EnrollmentGroupID != "" {
		t.Errorf("%+v", s)
	}
	_, t1 := devicecert.Thumbprints(first.Leaf)
	_, t2 := devicecert.Thumbprints(second.Leaf)
	d := w.device("dev")
	if x := d.Authentication.X509Thumbprint; d.Authentication.Type != rest.AuthSelfSigned || string(x.PrimaryThumbprint) != t2 || string(x.SecondaryThumbprint) != t1 {
		t.Errorf("%+v", d.Authentication)
	}
	if code := w.certified("dev", stranger).refusal(); code != 401002 {
		t.Errorf("another certificate of the name: %d", code)
	}
	if code := w.certified("dev2", first).refusal(); code != 401002 {
		t.Errorf("another registration: %d", code)
	}
	// Tools that make certificates for themselves often mark them as authorities.
	own := none.Pair(t, "own", w.now(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	w.enroll(rest.Enrollment{RegistrationID: "own", EnrollmentTerms: clientCerts(own.Leaf)})
	w.certified("own", own).register()
	if s := w.certified("DEV", first).register(); s.DeviceID != "dev" { // ids are the same in any case
		t.Errorf("%+v", s)
	}
	// What the device does next: its certificate opens the hub.
	if _, err := w.owner().PutDevice(t.Context(), rest.Device{DeviceID: "dev", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustExist); err != nil {
		t.Fatal(err)
	}
	if resp, body := w.call(http.MethodGet, "/devices/dev/modules?api-version=2021-04-12", "", "", first); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	w.move(2 * certtest.LeafLife)
	if code := w.certified("dev", first).refusal(); code != 401002 {
		t.Errorf("expired: %d", code)
	}
}

func TestCertificateGroups(t *testing.T) {
	w := start(t)
	root, other, offCA, listed := certtest.New(t, "root", w.now(), nil), certtest.New(t, "other", w.now(), nil),
		certtest.New(t, "off", w.now(), nil), certtest.New(t, "listed", w.now(), nil)
	middle := certtest.New(t, "middle", w.now(), root)
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "a", EnrollmentTerms: signingCerts(other.Cert)})
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "g", EnrollmentTerms: signingCerts(root.Cert)})
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "keys"})
	off := signingCerts(offCA.Cert)
	off.ProvisioningStatus = rest.Disabled
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "off", EnrollmentTerms: off})
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "ref", EnrollmentTerms: references("nobody", "listed")})

	leaf := middle.Pair(t, "d1", w.now())
	s := w.certified("d1", leaf, middle.Cert).register()
	if s.Status != rest.RegistrationAssigned || s.DeviceID != "d1" || s.X509 == nil || s.X509.EnrollmentGroupID != "g" {
		t.Errorf("%+v", s)
	}
	_, s256 := devicecert.Thumbprints(leaf.Leaf)
	if d := w.device("d1"); string(d.Authentication.X509Thumbprint.PrimaryThumbprint) != s256 {
		t.Errorf("%+v", d.Authentication)
	}
	// A renewed certificate takes the place of the old one.
	renewed := root.Pair(t, "d1", w.now())
	w.certified("d1", renewed).register()
	_, s256 = devicecert.Thumbprints(renewed.Leaf)
	if d := w.device("d1"); string(d.Authentication.X509Thumbprint.PrimaryThumbprint) != s256 {
		t.Errorf("%+v", d.Authentication)
	}
	stranger := certtest.New(t, "root", w.now(), nil)
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	for name, tt := range map[string]struct {
		d    *device
		code int
	}{
		"without the one between": {w.certified("d2", middle.Pair(t, "d2", w.now())), 401002},
		"authority of that name":  {w.certified("d2", stranger.Pair(t, "d2", w.now()), stranger.Cert), 401002},
		"another name":            {w.certified("d2", root.Pair(t, "d3", w.now())), 401002},
		"certificate of a server": {w.certified("d2", root.Pair(t, "d2", w.now(), server)), 401002},
		"an authority":            {w.certified("d2", root.Pair(t, "d2", w.now(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })), 401002},
		"disabled group":          {w.certified("d2", offCA.Pair(t, "d2", w.now())), 403201},
		"authority not listed":    {w.certified("d2", listed.Pair(t, "d2", w.now())), 401002},
	} {
		if code := tt.d.refusal(); code != tt.code {
			t.Errorf("%s: %d", name, code)
		}
	}
	if _, err := w.owner().PutCertificate(t.Context(), "listed", pemText(listed.Cert), false, ""); err != nil {
		t.Fatal(err)
	}
	if code := w.certified("d2", listed.Pair(t, "d2", w.now())).refusal(); code != 401002 {
		t.Errorf("authority not verified: %d", code)
	}
	if _, err := w.owner().PutCertificate(t.Context(), "listed", pemText(listed.Cert), true, rest.MustExist); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	if s := w.certified("d2", listed.Pair(t, "d2", w.now())).register(); s.X509 == nil || s.X509.EnrollmentGroupID != "ref" {
		t.Errorf("%+v", s)
	}
	// An individual enrollment shuts a device out of its group.
	w.enroll(rest.Enrollment{RegistrationID: "d1"})
	if code := w.certified("d1", renewed).refusal(); code != 401002 {
		t.Errorf("shut out: %d", code)
	}
	// One that names an authority lets it in.
	w.enroll(rest.Enrollment{RegistrationID: "d5", DeviceID: "five", EnrollmentTerms: references("listed")})
	if s := w.certified("d5", listed.Pair(t, "d5", w.now())).register(); s.DeviceID != "five" {
		t.Errorf("%+v", s)
	}
	authority := listed.Pair(t, "d5", w.now(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	if code := w.certified("d5", authority).refusal(); code != 401002 {
		t.Errorf("an authority below that one: %d", code)
	}
	if code := w.certified("d5", root.Pair(t, "d5", w.now())).refusal(); code != 401002 {
		t.Errorf("signed by another authority: %d", code)
	}
}

func TestInvalidCertificatesOfEnrollments(t *testing.T) {
	w := start(t)
	ca := certtest.New(t, "ca", time.Now(), nil)
	leaf := ca.Leaf(t, "d", time.Now())
	both := references("x")
	both.Attestation.X509.ClientCertificates = clientCerts(leaf).Attestation.X509.ClientCertificates
	for name, terms := range map[string]rest.EnrollmentTerms{
		"nothing":              {Attestation: rest.Attestation{Type: "x509"}},
		"empty":                {Attestation: rest.Attestation{X509: &rest.X509Attestation{}}},
		"authority of a group": signingCerts(ca.Cert),
		"both kinds":           both,
		"no certificate": {Attestation: rest.Attestation{X509: &rest.X509Attestation{
			ClientCertificates: &rest.X509Pair{Primary: &rest.X509Entry{Certificate: "AAAA"}}}}},
	} {
		if _, err := w.owner().PutEnrollment(t.Context(), rest.Enrollment{RegistrationID: "d", EnrollmentTerms: terms}, ""); rest.StatusOf(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.owner().PutEnrollmentGroup(t.Context(), rest.EnrollmentGroup{EnrollmentGroupID: "d", EnrollmentTerms: signingCerts(leaf)}, ""); rest.StatusOf(err) != 400 {
		t.Errorf("group with a device's: %v", err)
	}
	raw, err := json.Marshal(w.enroll(rest.Enrollment{RegistrationID: "d", EnrollmentTerms: clientCerts(leaf)}))
	if err != nil || strings.Contains(string(raw), "BEGIN") {
		t.Errorf("%s, %v", raw, err)
	}
}
